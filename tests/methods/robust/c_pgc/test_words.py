"""Words: which one matters most, how another takes its place, and which may."""

import math

import pytest
import torch
from tests.factories import make_method

from diptych.data.tokenizers import build, pad_batch
from diptych.methods.robust.c_pgc import words

TEXTS = ["a red circle on the left", "the blue square", "on the"]


@pytest.fixture(scope="module")
def model():
    method = make_method("clip")
    return method.model.eval(), method.make.tokenizer


def test_spans_are_the_words_between_the_special_ids(model):
    _, tokenizer = model
    for text in TEXTS:
        [row] = tokenizer.encode([text])
        spans = words.spans_of(row, tokenizer)
        assert [tokenizer.decode(row[a:b]).strip() for a, b in spans] == text.split()
    assert words.spans_of([*tokenizer.before, *tokenizer.after], tokenizer) == [(0, 1)]


@torch.no_grad()
def slowly(encoder, tokenizer, row, spans, unknown):
    """The importance of each word, a number at a time."""

    def softmax(ids):
        vector = encoder.embed_texts(*pad_batch([ids], tokenizer))[0].double()
        total = sum(math.exp(value) for value in vector.tolist())
        return [math.exp(value) / total for value in vector.tolist()]

    whole = softmax(row)
    found = []
    for start, stop in spans:
        less = softmax(row[:start] + unknown + row[stop:])
        found.append(sum(p * math.log(p / q) for p, q in zip(whole, less, strict=True)))
    return found


@pytest.mark.parametrize("special", ["", "unk"])
def test_the_most_important_word_changes_the_feature_most(special):
    tokenizer = build(f"bpe:vocab_size=320:context=24:special={special}", TEXTS * 3)
    encoder = make_method("clip", words=tokenizer).model.eval()
    rows = tokenizer.encode(TEXTS)
    spans = [words.spans_of(row, tokenizer) for row in rows]
    unknown = [tokenizer.special["unk"]] if special else []
    found = words.most_important(encoder, tokenizer, rows, spans)
    for row, own, best in zip(rows, spans, found, strict=True):
        slow = slowly(encoder, tokenizer, row, own, unknown)
        assert slow[best] == pytest.approx(max(slow), rel=1e-3)


def test_a_word_takes_anothers_place_and_later_tokens_move_to_the_left():
    table = torch.nn.Embedding(12, 2)
    ids = torch.tensor([[1, 5, 6, 7, 8, 2], [1, 9, 2, 0, 0, 0]])
    lengths, start, size = torch.tensor([6, 3]), torch.tensor([2, 1]), torch.tensor([3, 1])
    word = torch.tensor([0.5, -0.5])
    found, left = words.substituted(table, ids, lengths, start, size, word, pad=0)
    assert left.tolist() == [4, 3]
    for row, expected in zip(found, ([1, 5, None, 2, 0, 0], [1, None, 2, 0, 0, 0]), strict=True):
        for vector, number in zip(row, expected, strict=True):
            torch.testing.assert_close(vector, word if number is None else table.weight[number])


@pytest.mark.parametrize(
    ("given", "expected"),
    [([3.0, 4.0], [1.2, 1.6]), ([0.3, 0.4], [0.6, 0.8]), ([0.9, 1.2], [0.9, 1.2])],
)
def test_a_vector_is_as_long_as_those_of_the_table(given, expected):
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(words.rescaled(torch.tensor(given), table), torch.tensor(expected))


def test_whole_words_are_single_tokens_that_say_something(model):
    encoder, tokenizer = model
    found = words.whole_words(tokenizer)
    assert {"circle", "left"} <= set(found.values())
    assert not {"the", "on", "a"} & set(found.values())
    assert all(tokenizer.ids(word) == [number] for number, word in found.items())
    number = next(iter(found))
    table = encoder.text.table.weight.detach()
    assert words.nearest_word(table[number] + 1e-6, table, found) == found[number]


def test_texts_get_the_word_in_place_of_their_most_important_one(model):
    encoder, tokenizer = model
    texts = ["A red  circle, on the left!", "on the", "", "(Square)"]
    found = words.replaced(texts, "bar", encoder, tokenizer)
    assert found[1:] == ["on the", "", "(bar)"]
    assert found[0] in (
        "A bar circle, on the left!",
        "A red bar, on the left!",
        "A red circle, on the bar!",
    )
    assert words.replaced(found[1:3], "bar", encoder, tokenizer) == found[1:3]


def test_words_behind_the_context_are_not_replaced(model):
    encoder, tokenizer = model
    long = " ".join(["the"] * 30 + ["circle"])
    assert words.replaced([long], "bar", encoder, tokenizer) == [long]
