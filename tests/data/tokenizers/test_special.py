"""Special tokens of every kind of tokenizer, and which ids begin a word."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.pretrained.tiny import bert_like, siglip_spm, t5_like
from tokenizers import Tokenizer as RustTokenizer

from diptych.data.tokenizers import (
    Clip,
    HuggingFace,
    SentencePiece,
    build,
    from_dict,
    from_folder,
    train_bpe,
)
from diptych.data.tokenizers.base import special_names
from diptych.errors import InputError

TEXTS = ["two cats and a reddish dog", "a redder cat"] * 3
SPECIAL = "mask+extra_id_0-extra_id_2"
NAMES = ["mask", "extra_id_0", "extra_id_1", "extra_id_2"]


def bpe(special=""):
    return train_bpe(TEXTS, vocab_size=290, context=32, special=special)


def sentencepiece(folder, special=""):
    model = siglip_spm(folder).read_bytes()
    return SentencePiece(model, context=24, pad=1, eos=1, special=special)


@pytest.fixture(params=["bpe", "clip", "bert", "sentencepiece"])
def kinds(request, tmp_path):
    """A tokenizer with added special tokens, and the same without."""
    match request.param:
        case "bpe":
            return bpe(SPECIAL), bpe()
        case "clip":
            return Clip(context=32, special=SPECIAL), Clip(context=32)
        case "bert":
            bert_like(tmp_path)
            return from_folder(tmp_path, context=24, special=SPECIAL), from_folder(
                tmp_path, context=24
            )
        case _:
            return sentencepiece(tmp_path, SPECIAL), sentencepiece(tmp_path)


def test_added_tokens_are_behind_the_vocabulary_and_no_text_shifts(kinds):
    tokenizer, plain = kinds
    text = "two cats and a dog"
    assert tokenizer.encode([text]) == plain.encode([text])
    new = [name for name in NAMES if name not in plain.special]
    assert [tokenizer.special[name] for name in new] == [
        plain.vocab_size + number for number in range(len(new))
    ]
    assert tokenizer.vocab_size == plain.vocab_size + len(new)
    assert tokenizer != plain, "their models have tables of other sizes"


def test_added_tokens_are_no_part_of_a_text(kinds):
    tokenizer, plain = kinds
    (ids,) = tokenizer.encode(["two cats"])
    mixed = [tokenizer.special["extra_id_1"], *ids, tokenizer.special["extra_id_0"]]
    assert tokenizer.decode(mixed) == plain.decode(ids)
    others = {*tokenizer.special.values(), *tokenizer.before, *tokenizer.after, tokenizer.pad}
    assert not others & set(tokenizer.ordinary.tolist())
    assert len(tokenizer.ordinary) + len(others) == tokenizer.vocab_size


def test_added_tokens_are_saved(kinds):
    tokenizer, plain = kinds
    again = from_dict(tokenizer.to_dict())
    assert again.special == tokenizer.special
    assert again == tokenizer
    assert pickle.loads(pickle.dumps(tokenizer)).special == tokenizer.special
    assert "special" not in plain.to_dict(), "files from before have other fingerprints otherwise"


def test_words_begin_where_they_do(kinds):
    tokenizer, _ = kinds
    ids = tokenizer.ids("a photo of two dogs")
    starts = tokenizer.starts_word(ids)
    assert starts[0]
    words = []
    for number, first in zip(ids, starts, strict=True):
        words = [*words, [number]] if first else [*words[:-1], [*words[-1], number]]
    decoded = [tokenizer.decode(word).strip() for word in words]
    assert decoded == ["a", "photo", "of", "two", "dogs"]


def test_a_folder_brings_its_own_special_tokens(tmp_path):
    bert_like(tmp_path)
    tokenizer = from_folder(tmp_path, context=24, special="mask+new")
    assert tokenizer.added == ("new",), "BERT has a mask"
    assert {"mask", "unk", "cls", "sep", "pad"} <= set(tokenizer.special)
    assert tokenizer.special["mask"] < tokenizer.special["new"]


def test_sentinels_of_a_folder_have_their_names(tmp_path):
    t5_like(tmp_path)
    tokenizer = from_folder(tmp_path, context=24)
    rust = RustTokenizer.from_str(tokenizer.content)
    rust.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    again = HuggingFace(rust.to_str(), context=24, pad=0, special="extra_id_0-extra_id_2")
    assert again.special["extra_id_1"] == tokenizer.vocab_size + 1
    assert again.added == ("extra_id_2",)


def test_a_spec_adds_special_tokens():
    assert build("bpe:vocab_size=280:special=mask+unk", TEXTS).added == ("mask", "unk")


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_range_of_names_is_spelled_out(first, last):
    if last < first:
        with pytest.raises(InputError, match="give 1 to 10,000"):
            special_names(f"x{first}-x{last}")
    else:
        assert special_names(f"x{first}-x{last}") == tuple(
            f"x{at}" for at in range(first, last + 1)
        )


@pytest.mark.parametrize("special", ["[MASK]", "mask+", "x0-y3", "a b"])
def test_what_is_no_name_is_refused(special):
    with pytest.raises(InputError, match="names no special token; write lower-case names"):
        special_names(special)


def test_a_missing_special_token_says_how_to_add_it():
    with pytest.raises(
        InputError, match=r"'mask' \(it has extra_id_0\); add it with --tokenizer bpe:special=mask"
    ):
        bpe("extra_id_0").special_id("mask")
