"""CLIP's tokenizer against open_clip's own."""

import gzip
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.tokenizers import Clip, from_dict, pad_batch
from diptych.data.tokenizers.clip import PATTERN
from diptych.errors import InputError

open_clip = pytest.importorskip("open_clip.tokenizer")
OURS, THEIRS = Clip(), open_clip.SimpleTokenizer()


def assert_same(texts: list[str], ours: Clip = OURS, theirs: Any = THEIRS) -> None:
    ids, _ = pad_batch([*ours.encode(texts), [0] * ours.context], ours)
    wrong = [
        text
        for text, a, b in zip(texts, ids, theirs(texts), strict=False)
        if a.tolist() != b.tolist()
    ]
    assert not wrong, f"{len(wrong)} of {len(texts)} texts get other ids, the first: {wrong[0]!r}"


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def pack_texts(folder: Path) -> Iterator[str]:
    """All strings of a pack: JSON lines, packed or not, and the JSON members of its tars."""
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            with (gzip.open if path.suffix == ".gz" else open)(
                path, "rt", encoding="utf-8"
            ) as lines:
                for line in lines:
                    yield from strings(json.loads(line))
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        yield from strings(json.load(tar.extractfile(member)))


PACKS = ("coco128", "emobank", "flickr8k-1k", "glyphs", "grocery", "imagenet-1k-sample", "multi30k-text", "receipts",
         "sick", "stsb-multi", "sugarcrepe-text", "wordnet-glosses")  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("pack", PACKS)
def test_ids_equal_open_clips_on_texts_of_the_pack(pack: str, data_pack):
    texts = list(dict.fromkeys(pack_texts(data_pack(pack))))
    step = max(1, len(texts) // 600)  # every text was tried once; a sample of each pack guards it
    assert len(texts) > 100
    assert_same(texts[::step])


tricky = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("<>_|&;#'’“”…éßΣ\t\n\u00a0\u2028ﬁâ€™Ã¤½٣漢かन👩🏽‍🚀\u200d\u0301 "),
    ),
    max_size=30,
)


@pytest.mark.parity
@settings(max_examples=100, deadline=None)
@given(st.lists(tricky, min_size=100, max_size=100))
def test_ids_equal_open_clips_on_ten_thousand_random_strings(texts: list[str]):
    assert_same(texts)


@pytest.mark.parity
@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_every_way_to_clean_equals_open_clips(clean: str):
    texts = [
        "A cat's_toy, &amp;amp; MORE...  <END_OF_TEXT>",
        "<start_of_text>we'll <end_of_text> go",
        "",
        " \n",
        "l’été",
    ]
    assert_same(
        texts,
        Clip(context=20, clean=clean),
        open_clip.SimpleTokenizer(context_length=20, clean=clean),
    )


def test_the_pattern_is_open_clips():
    assert THEIRS.pat.pattern == PATTERN


def test_a_long_text_is_cut_before_its_end_id_and_the_loss_is_counted():
    tokenizer = Clip(context=8)
    (ids,) = tokenizer.encode(["one two three four five six seven eight"])
    assert len(ids) == 8
    assert ids[-1] == tokenizer.eot
    assert tokenizer.lost("one two three four five six seven eight") == 2
    assert tokenizer.lost("one two") == 0


def test_an_end_id_written_into_a_text_ends_it_there_as_in_open_clip():
    _, lengths = pad_batch(OURS.encode(["a cat <end_of_text> and a dog"]), OURS)
    assert lengths.tolist() == [THEIRS(["a cat <end_of_text> and a dog"]).argmax().item() + 1]


def test_it_survives_plain_values_and_pickling():
    tokenizer = Clip(context=32, clean="canonicalize")
    for copy in (
        from_dict(json.loads(json.dumps(tokenizer.to_dict()))),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy == tokenizer
        assert copy.encode(["A red, red rose"]) == tokenizer.encode(["A red, red rose"])


def test_fingerprints_differ_where_ids_would():
    tokenizers = [Clip(), Clip(context=32), Clip(clean="canonicalize")]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == 3


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    from diptych.data.tokenizers import clip

    clip._vocabulary.cache_clear()
    monkeypatch.setattr(clip.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"diptych\[openclip\]"):
        Clip()
    clip._vocabulary.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"), [({"clean": "lowr"}, "'lower'"), ({"context": 2}, "at least 3")]
)
def test_bad_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Clip(**options)
