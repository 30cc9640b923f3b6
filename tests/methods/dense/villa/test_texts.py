"""Sentences and what they mention: chosen at random and by seed, and joined into texts of units."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.factories import tokenizer

from diptych.data.matcher import Matcher
from diptych.data.sample import BadSample, Sample, Text
from diptych.methods.dense.villa.texts import MentionsView, drawn, said_in, unit_texts
from diptych.rng import generator

WORDS = Matcher(["red", "circle", "one"], plural=False)


def sample(*texts):
    return Sample(key="a", source="s", texts=[Text(text=text) for text in texts])


def view(**options):
    return MentionsView(tokenizer=tokenizer(), matcher=WORDS, max_sentences=4, **options)


def test_texts_are_split_into_different_sentences():
    said = said_in(sample("a red cup . a circle . a red cup. no", "One is 3.5 cm wide."), "caption")
    assert said == ["a red cup", "a circle", "One is 3.5 cm wide"]


def test_names_are_whole_words():
    found = view()(sample("a red cup . ones . one red circle"), generator(0), None)
    assert tuple(found) == view().gives
    assert found["fields.sentences.there"].tolist() == [True, True, True, False]
    assert found["fields.mentions"].int().tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert len(found["texts.sentences"]) == 4
    assert found["fields.chosen"].tolist()[1:] == [2, 2]


def test_a_sentence_is_drawn_of_those_that_mention_a_name():
    mentions = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
    found = [drawn(mentions, generator(seed)).tolist() for seed in range(40)]
    assert {first for first, *_ in found} == {0, 2}
    assert {tuple(rest) for _, *rest in found} == {(2, -1)}
    assert found[3] == drawn(mentions, generator(3)).tolist()


def test_a_sample_with_more_sentences_is_refused():
    with pytest.raises(BadSample, match=r"more-than-4-sentences: .*raise --method\.sentences"):
        view()(sample(" . ".join(f"sentence number {at}" for at in range(5))), generator(0), None)


def test_texts_of_units_equal_slow_ones():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(2, 4, 5, dtype=torch.float64), dim=-1)
    there = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]).bool()
    vectors = vectors * there[..., None]
    found = torch.tensor([[[1, 1, 0], [0, 0, 1], [0, 0, 0]], [[0, 0, 0]] * 3]).bool()
    chosen = torch.tensor([[2, 2, 0], [-1, -1, -1]])
    texts, kept = unit_texts(found, chosen, vectors, there)
    assert kept.tolist() == [[True, True, False, True], [False] * 4]
    torch.testing.assert_close(texts[0, 0], vectors[0, 2]), "both attributes are in one sentence"
    torch.testing.assert_close(texts[0, 1], vectors[0, 0])
    torch.testing.assert_close(texts[0, 3], F.normalize(vectors[0, :3].mean(0), dim=-1))


def test_an_attribute_without_a_sentence_gives_no_text():
    vectors = F.normalize(torch.ones(1, 2, 3), dim=-1)
    found = torch.ones(1, 1, 1).bool()
    _, kept = unit_texts(found, torch.tensor([[-1]]), vectors, torch.ones(1, 2).bool())
    assert kept.tolist() == [[False, True]]
