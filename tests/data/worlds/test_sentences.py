"""The world `sentences`: texts say what they are said to mean, told by the parser, and their length
tells nothing."""

import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from tests.data.worlds.sentences_helpers import INFERENCE, alike, content, dependence, read, words

from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.sentences import Config, World, parse
from diptych.data.worlds.sentences.grammar import LENGTHS, VISUAL, abstract
from diptych.data.worlds.sentences.meaning import ADJUNCTS, CORE, EVENT, VALUES
from diptych.data.worlds.sentences.words import (
    AFTER,
    ASIDE,
    BEFORE,
    OBJECTS,
    STANCES,
    TOPIC_OF,
    WORDINGS,
)
from diptych.errors import InputError

VERBS = {word for forms in WORDINGS["action"].values() for form in forms for word in form.split()}


# What a sentence means


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_captions_paraphrases_and_twins_parse_to_what_they_mean(split):
    world = World(
        Config(split=split, kind="both", negative=0.3, paraphrases=8, roles="negated+swapped")
    )
    for index in range(200):
        facts = world.sample(5, index)
        wanted = {
            "caption": facts.meaning,
            "paraphrase": facts.meaning,
            "negated": world.edit(facts, "negate").meaning,
            "swapped": world.edit(facts, "swap").meaning,
        }
        assert len(set(wanted.values())) == 3
        for text in world.captions(facts):
            assert parse(text.text) == wanted[text.role], text.text


def test_events_are_five_facts_of_eight_to_eleven_words():
    world = World(
        Config(event=True, negative=0.5, tail=0.0, paraphrases=4, roles="negated+swapped")
    )
    lengths = Counter()
    for index in range(300):
        facts = world.sample(5, index)
        assert set(facts.meaning.facts()) == set(CORE)
        for text in world.captions(facts):
            if text.role in ("caption", "paraphrase"):
                assert parse(text.text) == facts.meaning, text.text
            lengths[len(words(text.text))] += 1
    assert set(lengths) == set(LENGTHS[EVENT])
    assert set(world.schema()) >= {f"labels.{slot}" for slot in CORE}
    assert "labels.place" not in world.schema()


def test_graded_events_share_none_to_five_facts_equally_often():
    shared = [
        round(5 * sample.labels["similarity"]) for sample in read("event=true:pair=graded", 1200)
    ]
    assert chisquare(np.bincount(shared, minlength=6)).pvalue > 1e-3


def test_without_synonyms_a_value_has_one_wording():
    for sample in read("synonyms=false:paraphrases=3:pair=graded", 200):
        (caption,) = sample.captions("caption")
        for paraphrase in sample.captions("paraphrase"):
            assert parse(paraphrase) == parse(caption)
            assert content(paraphrase) - VERBS == content(caption) - VERBS
        (pair,) = sample.captions("pair")
        if sample.labels["similarity"] == 1:
            assert content(pair) - VERBS == content(caption) - VERBS


def test_labels_are_what_the_caption_says():
    schema = open_source("sentences:kind=both:negative=0.3").schema()
    for sample in read("kind=both:negative=0.3", 800):
        meaning = parse(sample.captions()[0])
        for slot in VALUES:
            label = sample.labels[slot]
            assert (schema[f"labels.{slot}"].classes[label] if label >= 0 else None) == getattr(
                meaning, slot
            )
        assert sample.labels["negative"] == meaning.negative
        assert sample.labels["visual"] == (meaning.stance is None)
        assert sample.labels["unseen"] == 0
        assert schema["labels.topic"].classes[sample.labels["topic"]] == TOPIC_OF[meaning.object]
        assert len(meaning.facts()) == 7


def test_thousands_of_meanings():
    world = build("sentences")
    assert len({world.sample(0, index).meaning for index in range(3000)}) > 2990


def test_every_template_affirmed_and_denied_and_every_wording_parse():
    """No word is read as another, no template is out of the parser's reach."""
    templates = [
        *VISUAL,
        *(
            template
            for wordings in STANCES.values()
            for each in wordings
            for template in abstract(each)
        ),
    ]
    wanted = {
        sign for template in templates for part in template.split() for sign in part.split("|")
    }
    wanted |= {
        word
        for slot in WORDINGS
        if slot != "stance"
        for each in WORDINGS[slot].values()
        for word in words(*each)
    }
    seen = set(["A", "O", "V", "Ving", "Ven", "@"])
    for kind in ("visual", "abstract"):
        world = World(Config(kind=kind, negative=0.5, paraphrases=6, tail=0.0))
        for index in range(300):
            facts = world.sample(9, index)
            for text in world.captions(facts):
                assert parse(text.text) == facts.meaning, text.text
                seen.update(words(text.text))
    assert wanted <= seen


@pytest.mark.parametrize(
    "text",
    [
        "The old king washes a drum.",  # no form of this grammar
        "The old king is washing a drum and a flute.",
        "The old is washing a drum at noon.",
        "The king is washing a drum at noon at dusk.",
        "The king isn't washing no drum.",
        "The old aged king is washing a drum.",
    ],
)
def test_the_parser_refuses_what_is_no_sentence_of_this_world(text):
    with pytest.raises(InputError):
        parse(text)


def test_no_word_says_two_values_and_empty_phrases_say_none():
    said = Counter()
    for slot in ("agent", "attribute", "action", "object"):
        for wordings in WORDINGS[slot].values():
            assert 1 <= len(wordings) <= 3
            said.update({form for wording in wordings for form in wording.split()})
    for slot in ADJUNCTS:
        said.update(wording for wordings in WORDINGS[slot].values() for wording in wordings)
    assert max(said.values()) == 1
    for phrase in (*BEFORE, *AFTER, *ASIDE):
        assert not content(phrase), phrase


def test_texts_are_spelt_as_sentences():
    for options in ("kind=both:negative=0.3:paraphrases=3", "roles=entailment+shuffled"):
        for sample in read(options, 300):
            for text in sample.captions("*"):
                assert re.fullmatch(r"[A-Z][a-z']*(,? [a-z']+)*\.", text), text
            for text in sample.captions():
                assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text


# Twins


def test_a_swapped_twin_has_the_same_words_and_a_negated_twin_one_or_two_others():
    for sample in read("kind=both:negative=0.3:roles=negated+swapped", 600):
        [caption], [negated], [swapped] = (
            sample.captions(role) for role in ("caption", "negated", "swapped")
        )
        assert alike(swapped) == alike(caption)
        changed = [(a, b) for a, b in zip(words(caption), words(swapped), strict=True) if a != b]
        assert len([pair for pair in changed if not set(pair) <= {"a", "an"}]) == 2
        changed = [
            pair for pair in zip(words(caption), words(negated), strict=True) if pair[0] != pair[1]
        ]
        assert 1 <= len(changed) <= 2, (caption, negated)


def test_edits_are_their_own_inverse_and_unknown_ones_name_the_nearest():
    world = build("sentences")
    facts = world.sample(0, 3)
    for kind in world.kinds:
        assert world.edit(facts, kind) != facts
        assert world.edit(world.edit(facts, kind), kind) == facts
    assert world.render(facts) is None
    with pytest.raises(InputError, match="did you mean 'negate'"):
        world.edit(facts, "negates")


# Wording and length


def test_eight_paraphrases_differ_and_share_few_words():
    shared, first = [], []
    for sample in read("paraphrases=8", 300):
        texts = sample.captions("*")
        assert len(set(texts)) == 9
        said = [content(text) for text in texts]
        shared += [len(a & b) / len(a | b) for at, a in enumerate(said) for b in said[:at]]
        first.append(said[0] & said[1])
    assert {next(iter(common)) for common in first if len(common) == 1} <= set(OBJECTS)
    assert max(map(len, first)) == 1  # the caption and its first paraphrase share the label alone
    assert np.mean(shared) < 0.4


def test_more_paraphrases_than_wordings_are_all_different():
    for sample in read("paraphrases=40", 5):
        assert len(set(sample.captions("*"))) == 41


def test_length_is_independent_of_meaning():
    samples = read("kind=both:negative=0.3", 6000)
    lengths = np.array([len(sample.captions()[0].split()) for sample in samples])
    assert sorted(set(lengths)) == list(LENGTHS[7])
    assert chisquare(np.bincount(lengths)[list(LENGTHS[7])]).pvalue > 1e-3
    labels = [name for name in samples[0].labels if name not in ("object", "label", "unseen")]
    classes = {name: np.array([sample.labels[name] for sample in samples]) for name in labels}
    p = {name: dependence(lengths, values) for name, values in classes.items()}
    assert min(p.values()) > 1e-3 / len(p), p
    planted = lengths + (
        classes["visual"] * (np.arange(6000) % 10 == 0)
    )  # a tenth of one kind, one word longer
    assert dependence(planted, classes["visual"]) < 1e-3 / len(p)


def test_length_does_not_tell_the_relation_either():
    samples = read(INFERENCE, 3000)
    lengths = np.array([len(sample.captions("pair")[0].split()) for sample in samples])
    assert sorted(set(lengths)) == list(LENGTHS[4])
    assert dependence(lengths, np.array([sample.labels["relation"] for sample in samples])) > 1e-3


def test_meanings_of_a_pool_recur_in_other_words():
    source = open_source("sentences:pool=6:count=60:pair=graded")
    samples = [source[i] for i in range(60)]
    slots = ("agent", "action", "object", "time")
    by_number = {}
    for sample in samples:
        number = sample.labels["meaning"]
        assert 0 <= number < 6
        said = tuple(sample.labels[slot] for slot in slots)
        assert by_number.setdefault(number, said) == said
    assert len(by_number) == 6
    assert len({sample.captions()[0] for sample in samples}) == 60
    lengths = {len(sample.captions()[0].split()) for sample in samples}
    assert len(lengths) > 4
    other = open_source("sentences:pool=6:count=60:seed=1")
    assert {tuple(other[i].labels[slot] for slot in slots) for i in range(60)} != {
        *by_number.values()
    }


def test_without_a_pool_there_is_no_number_of_a_meaning():
    source = open_source("sentences:count=2")
    assert "labels.meaning" not in source.schema()
    assert "meaning" not in source[0].labels
