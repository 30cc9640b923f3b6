"""Pairs and labels of the world `sentences`, by brute force and by counting."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, spearmanr
from tests.data.worlds.sentences_helpers import GRADED, INFERENCE, accuracy, read, words

from diptych.data.sources import open_source
from diptych.data.views import sentences
from diptych.data.worlds import build
from diptych.data.worlds.sentences import Meaning, parse, relation, similarity
from diptych.data.worlds.sentences.meaning import RELATIONS, VALUES, long_tail
from diptych.data.worlds.sentences.words import TOPICS
from diptych.errors import InputError

# Pairs


def test_graded_pairs_have_every_similarity_equally_often_and_it_is_the_slot_overlap():
    samples = read(GRADED, 2400)
    shared = []
    for sample in samples:
        a, b = (parse(sample.captions(role)[0]) for role in ("caption", "pair"))
        shared.append(sum(getattr(a, slot) == getattr(b, slot) != None for slot in VALUES))  # noqa: E711
        assert sample.labels["similarity"] == pytest.approx(shared[-1] / 7)
        assert (a.negative, a.visual) == (b.negative, b.visual)
    assert chisquare(np.bincount(shared, minlength=8)).pvalue > 1e-3


def test_words_tell_similarity_only_in_part():
    """Cosine of bags of words: were it near 1, counting words would solve the world."""
    samples = read(GRADED, 2400)
    bags = [
        [Counter(words(sample.captions(role)[0])) for role in ("caption", "pair")]
        for sample in samples
    ]
    dots = [
        sum(a[word] * b[word] for word in a)
        / np.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
        for a, b in bags
    ]
    assert (
        0.35 < spearmanr(dots, [sample.labels["similarity"] for sample in samples]).statistic < 0.6
    )


def test_independent_sentences_share_none_to_most_of_their_facts():
    world = build("sentences")
    meanings = [world.sample(2, index).meaning for index in range(4000)]
    overlap = np.bincount([round(7 * similarity(a, b)) for a, b in pairwise(meanings)], minlength=8)
    assert (overlap[:4] > 10).all()
    assert overlap[0] < 0.65 * overlap.sum()


@given(st.data())
def test_similarity_is_symmetric_and_one_for_equals(data):
    def draw() -> Meaning:
        slots = data.draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, unique=True))
        return Meaning(**{slot: data.draw(st.sampled_from(VALUES[slot][:3])) for slot in slots})

    a, b = draw(), draw()
    assert similarity(a, b) == similarity(b, a) <= similarity(a, a) == 1
    both = {slot for slot in VALUES if getattr(a, slot) and getattr(b, slot)}
    equal = [slot for slot in both if getattr(a, slot) == getattr(b, slot)]
    assert similarity(a, b) == len(equal) / max(len(a.facts()), len(b.facts()))
    if a.visual and b.visual:
        wanted = (
            "contradiction"
            if len(equal) < len(both)
            else "entailment"
            if both == set(b.facts())
            else "neutral"
        )
        assert relation(a, b) == wanted


def test_a_fact_and_its_denial_are_not_shared_and_have_no_relation():
    a = Meaning(agent="king", action="wash")
    denied = Meaning(agent="king", action="wash", negative=True)
    assert similarity(a, denied) == 0
    for other in (denied, Meaning(agent="king", stance="hope")):
        with pytest.raises(InputError, match="affirmative visual"):
            relation(a, other)


def test_hypotheses_stand_in_their_relation_and_do_not_tell_it_alone():
    samples = read(INFERENCE, 3000)
    for sample in samples[:600]:
        premise = parse(sample.captions()[0])
        for role in RELATIONS:
            hypothesis = parse(sample.captions(role)[0])
            assert relation(premise, hypothesis) == role
            assert len(hypothesis.facts()) == 4
        assert (
            relation(premise, parse(sample.captions("pair")[0]))
            == RELATIONS[sample.labels["relation"]]
        )
    relations = np.array([sample.labels["relation"] for sample in samples])
    assert chisquare(np.bincount(relations)).pvalue > 1e-3
    texts = [sample.captions("pair")[0] for sample in samples]
    assert accuracy(texts, relations) < 0.39


# Labels


@pytest.mark.parametrize("tail", [1.0, 0.5])
def test_labels_have_the_stated_long_tail(tail):
    samples = read(f"tail={tail}:kind=both", 4000)
    counts = np.bincount([sample.labels["label"] for sample in samples], minlength=64)
    assert chisquare(counts, 4000 * long_tail(tail)).pvalue > 1e-3
    assert (long_tail(tail) > 0).all()
    assert long_tail(1.0)[0] / long_tail(1.0)[9] == pytest.approx(10)


def test_the_label_s_word_occurs_in_every_text_of_its_meaning():
    source = open_source(
        "sentences:count=400:kind=both:paraphrases=3:roles=negated+swapped+shuffled"
    )
    names = source.schema()["labels.label"].classes
    for sample in source:
        for text in sample.captions("*"):
            assert {word for word in words(text) if word in names} == {
                names[sample.labels["label"]]
            }


def test_places_lean_to_the_topic_and_every_topic_occurs():
    samples = read("", 4000)
    placed = [
        (sample.labels["topic"], sample.labels["place"])
        for sample in samples
        if sample.labels["place"] >= 0
    ]
    assert {topic for topic, _ in placed} == set(range(len(TOPICS)))
    share = np.mean([place // 2 == topic for topic, place in placed])
    assert share == pytest.approx(0.5 + 0.5 / 8, abs=0.03)


def test_no_word_decides_whether_a_sentence_is_visual():
    samples = read("kind=both", 6000)
    visual = np.array([sample.labels["visual"] for sample in samples])
    assert chisquare(np.bincount(visual)).pvalue > 1e-3
    counts = {1: Counter(), 0: Counter()}
    for sample in samples:
        counts[sample.labels["visual"]].update(set(words(sample.captions()[0])))
    total = np.bincount(visual)
    for word in counts[0] | counts[1]:
        if counts[0][word] + counts[1][word] >= 60:
            assert counts[0][word], word
            assert counts[1][word], word
        assert abs(counts[1][word] / total[1] - counts[0][word] / total[0]) / 2 + 0.5 < 0.75, word


def test_a_page_tells_of_the_event_in_different_sentences():
    for sample in read("page=4:seed=3", 200):
        [page] = sample.captions("page")
        said = sentences(page)
        assert len(set(said)) == 4
        meaning = parse(sample.captions()[0])
        for each in said:
            assert relation(meaning, parse(f"{each}.")) == "entailment"
            assert len(parse(f"{each}.").facts()) == 4


def test_pages_are_of_affirmative_visual_sentences():
    assert "texts.page" in open_source("sentences:count=2:page=2").schema()
    with pytest.raises(InputError, match="page=2 of sentences describes visual"):
        open_source("sentences:page=2:kind=both")
    with pytest.raises(InputError, match="page=2 of sentences describes affirmative"):
        open_source("sentences:page=2:negative=0.5")
    with pytest.raises(InputError, match="from 0 to 100"):
        open_source("sentences:page=101")
