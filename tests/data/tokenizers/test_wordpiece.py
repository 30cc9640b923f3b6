"""The trained WordPiece vocabulary."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.tokenizers import build, from_dict, train_wordpiece
from diptych.errors import InputError

WORDS = ["no", "pleural", "effusion", "or", "pneumothorax", "the", "lungs", "are", "clear", "mild",
         "opacity", "at", "left", "base"]  # fmt: skip
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=6)) + "." for seed in range(200)]
TOKENIZER = train_wordpiece(TEXTS, vocab_size=90, context=16)


def greedy(word, vocab):
    """The longest pieces from the left, by definition."""
    found = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                found.append(vocab[piece])
                start = end
                break
        else:
            return [vocab["[UNK]"]]
    return found


def test_training_depends_on_the_texts_alone_not_on_their_order_or_the_process():
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert train_wordpiece(iter(shuffled), 90, 16) == TOKENIZER
    code = "import sys, json; from diptych.data.tokenizers import train_wordpiece; " \
           "print(train_wordpiece(json.load(sys.stdin), 90, 16).fingerprint)"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == TOKENIZER.fingerprint


def test_words_are_cut_into_their_longest_pieces_from_the_left():
    vocab = json.loads(TOKENIZER.content)["model"]["vocab"]
    assert len(vocab) == 90
    assert list(vocab)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for word in (*WORDS, "effusions", "clearest", "xylophone"):
        assert TOKENIZER.ids(word) == greedy(word, vocab)


def test_a_text_is_between_cls_and_sep_and_words_have_starts():
    [ids] = TOKENIZER.encode(["No effusion."])
    assert ids[0] == TOKENIZER.special_id("cls")
    assert ids[-1] == TOKENIZER.eot == TOKENIZER.special_id("sep")
    assert TOKENIZER.ids("NO") == TOKENIZER.ids("no")
    own = TOKENIZER.ids("pneumothoraxes clear")
    assert sum(TOKENIZER.starts_word(own)) == 2
    assert TOKENIZER.special_id("mask") not in TOKENIZER.ordinary


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_encoded_and_a_saved_tokenizer_encodes_it_equally(text):
    again = from_dict(json.loads(json.dumps(TOKENIZER.to_dict())))
    assert again == TOKENIZER
    assert again.encode([text]) == TOKENIZER.encode([text])


def test_the_spec_takes_the_same_options():
    built = build("wordpiece:vocab_size=90:context=16:special=mask+extra_id_0", TEXTS)
    assert built.vocab_size == 91
    assert built.added == ("extra_id_0",)
    assert built.ids(TEXTS[0]) == TOKENIZER.ids(TEXTS[0])


def test_it_equals_transformers_tokenizer_of_the_same_vocabulary(tmp_path):
    from transformers import BertTokenizerFast

    vocab = json.loads(TOKENIZER.content)["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    theirs = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    for text in (*TEXTS[:20], "No pneumothoraxes, naïve—ünd [MASK] left"):
        assert TOKENIZER.encode([text])[0] == theirs(text, truncation=True, max_length=16).input_ids


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocab_size": 10}, "it must be at least"),
        ({"context": 2}, "context is 2"),
        ({"padding": "left"}, "padding"),
    ],
)
def test_what_cannot_be_trained_says_why(options, says):
    with pytest.raises(InputError, match=says):
        train_wordpiece(TEXTS, **options)
