"""The trained tokenizer, the registry of tokenizers, and padding."""

import json
import pickle
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.tokenizers import Bpe, build, from_dict, pad_batch, train_bpe
from diptych.errors import InputError

WORDS = [
    "red",
    "cat",
    "dog",
    "face",
    "smiling",
    "with",
    "heart",
    "eyes",
    "flag",
    "of",
    "the",
    "grinning",
    "squinting",
]
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=6)) for seed in range(200)]
TOKENIZER = train_bpe(TEXTS, vocab_size=320, context=16)


def test_training_depends_only_on_the_texts_not_on_their_order_or_the_process():
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert train_bpe(iter(shuffled), 320, 16) == TOKENIZER
    code = "import sys, json; from diptych.data.tokenizers import train_bpe; " \
           "print(train_bpe(json.load(sys.stdin), 320, 16).fingerprint)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == TOKENIZER.fingerprint


def test_a_word_has_the_same_ids_at_the_start_and_inside_in_any_case():
    assert TOKENIZER.ids("Cat") * 2 == TOKENIZER.ids("cat CAT")


def test_common_words_become_one_id_and_the_size_is_at_most_as_asked():
    assert 259 < TOKENIZER.vocab_size <= 320
    assert [len(TOKENIZER.ids(word)) for word in ("red", "cat", "flag")] == [1, 1, 1]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_text_is_out_of_vocabulary_and_none_can_forge_a_special_id(text: str):
    ids = TOKENIZER.ids(text + "<pad><start><end>")
    assert min(ids) > 2
    assert max(ids) < TOKENIZER.vocab_size
    assert len(ids) <= 8 * (len(text) + 20)


def test_half_a_surrogate_pair_is_no_error():
    assert TOKENIZER.ids("a\ud83d") == TOKENIZER.ids("a\ufffd")


def test_cutting_keeps_the_end_and_counts_what_is_lost():
    text = "cat " * 20
    (ids,) = TOKENIZER.encode([text])
    assert (len(ids), ids[0], ids[-1]) == (16, 1, TOKENIZER.eot)
    assert TOKENIZER.lost(text) == 20 - 14
    assert TOKENIZER.lost("cat " * 14) == 0


def test_it_survives_plain_values_and_pickling():
    for copy in (
        from_dict(json.loads(json.dumps(TOKENIZER.to_dict()))),
        pickle.loads(pickle.dumps(TOKENIZER)),
    ):
        assert copy == TOKENIZER
        assert copy.encode(TEXTS) == TOKENIZER.encode(TEXTS)


def test_an_untrainable_text_leaves_the_bytes():
    tokenizer = train_bpe([], 400, 8)
    assert tokenizer.vocab_size == 259
    assert from_dict(tokenizer.to_dict()) == tokenizer


def test_padding_follows_the_tokenizers_rule():
    rows = TOKENIZER.encode(["cat", "red cat dog", ""])
    ids, lengths = pad_batch(rows, TOKENIZER)
    assert ids.shape == (3, 5)
    assert lengths.tolist() == [3, 5, 2]
    assert ids[2].tolist() == [1, 2, 0, 0, 0]
    full = Bpe(TOKENIZER.merges, 16)
    full.padding = "max"
    filled, same = pad_batch(rows, full)
    assert filled.shape == (3, 16)
    assert torch.equal(filled[:, :5], ids)
    assert torch.equal(same, lengths)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bep", "did you mean 'bpe'"),
        ("bpe:vocab=300", "vocab"),
        ("bpe:vocab_size=200", "at least 259"),
        ("bpe:context=2", "at least 3"),
        ("hf", "hf:FOLDER"),
        ("clip:cat", "clip"),
    ],
)
def test_bad_specs_are_one_line_errors(spec: str, message: str):
    with pytest.raises(InputError, match=message) as error:
        build(spec, TEXTS)
    assert "\n" not in str(error.value)


def test_damaged_plain_values_are_errors():
    with pytest.raises(InputError, match="kind of tokenizer"):
        from_dict({"kind": "bqe"})
    with pytest.raises(InputError, match="damaged"):
        from_dict({**TOKENIZER.to_dict(), "merges": "xq zz9"})


def test_a_text_does_not_end_at_its_start_where_both_ids_are_the_same():
    gpt2 = SimpleNamespace(before=(9,), after=(9,), eot=9, pad=9, padding="longest", context=8)
    _, lengths = pad_batch([[9, 1, 2, 3, 9], [9, 9], [9, 1, 9, 2, 9], [9]], gpt2)
    assert lengths.tolist() == [5, 2, 3, 1]
