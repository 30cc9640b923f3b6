"""Splits, noise and form of the world `sentences`: what is reserved, what typos do, and that all is
a function."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.worlds.sentences_helpers import read, words

from diptych.data.sources import open_source
from diptych.data.typos import TYPOS, misspell
from diptych.data.worlds.sentences import ROLES, Meaning, parse, unseen
from diptych.data.worlds.sentences.meaning import VALUES
from diptych.data.worlds.sentences.noise import RESERVED_TYPOS, shuffle
from diptych.errors import InputError
from diptych.rng import generator

# Splits


def test_a_fifth_of_the_pairs_is_reserved_and_every_value_has_some():
    for first, second in (("agent", "action"), ("object", "object_attribute")):
        held = np.array(
            [
                [unseen(Meaning(**{first: a, second: b})) for b in VALUES[second]]
                for a in VALUES[first]
            ]
        )
        assert held.mean() == pytest.approx(0.2, abs=0.005)
        assert (held.sum(0) > 0).all()
        assert (held.sum(1) > 0).all()


def test_train_and_val_hold_no_reserved_pair_in_any_text_and_half_of_test_does():
    roles = "negated+swapped+entailment+neutral+contradiction"
    for options in (f"roles={roles}:pair=graded", "kind=both:pair=graded:roles=swapped"):
        for split in ("train", "val"):
            for sample in read(f"split={split}:{options}", 400):
                assert not any(unseen(parse(text)) for text in sample.captions("*"))
    samples = read("split=test:kind=both", 2000)
    assert np.mean([sample.labels["unseen"] for sample in samples]) == pytest.approx(0.5, abs=0.04)
    for sample in samples[:300]:
        assert sample.labels["unseen"] == unseen(parse(sample.captions()[0]))


def test_splits_and_seeds_are_different_streams():
    captions = [
        tuple(sample.captions()[0] for sample in open_source(f"sentences:count=20:{options}"))
        for options in ("seed=0", "seed=1", "split=val", "split=test", "start=20")
    ]
    assert len({text for texts in captions for text in texts}) == 100


# Noise


def test_typos_are_of_the_kinds_asked_for():
    for sample in read("roles=typo", 300):
        [caption], [typo] = sample.captions(), sample.captions("typo")
        pairs = [
            pair for pair in zip(caption.split(), typo.split(), strict=True) if pair[0] != pair[1]
        ]
        assert pairs
        for word, wrong in pairs:
            assert made_by(word, wrong) & {"swap", "drop", "double"}, (word, wrong)


def made_by(word: str, wrong: str) -> set[str]:
    """The kinds of typo that make `wrong` of `word`, by what each leaves alone."""
    kinds = set()
    if sorted(word) == sorted(wrong) and sum(a != b for a, b in zip(word, wrong, strict=True)) == 2:
        kinds.add("swap")
    if wrong in {word[:at] + word[at + 1 :] for at in range(1, len(word) - 1)}:
        kinds.add("drop")
    if wrong in {word[: at + 1] + word[at:] for at in range(1, len(word) - 1)}:
        kinds.add("double")
    if wrong.replace(" ", "") == word and " " in wrong:
        kinds.add("split")
    if len(word) == len(wrong) and sum(a != b for a, b in zip(word, wrong, strict=True)) == 1:
        [new] = [b for a, b in zip(word, wrong, strict=True) if a != b]
        kinds.add("lookalike" if new.isdigit() else "neighbour")
    return kinds


@given(
    word=st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12),
    kind=st.sampled_from(TYPOS),
    seed=st.integers(0, 99),
)
def test_a_typo_is_of_its_kind_and_keeps_first_and_last_letter(word, kind, seed):
    wrong = misspell(word, [kind], 1.0, generator(seed))
    assert (wrong[0], wrong[-1]) == (word[0], word[-1])
    unchangeable = {
        "swap": len(set(word[1:-1])) == 1,
        "lookalike": not set(word[1:-1]) & set("olesbti"),
    }
    if unchangeable.get(kind):
        assert wrong == word
    else:
        assert kind in made_by(word, wrong)


def test_the_rate_of_typos_is_that_of_long_words():
    options = "roles=typo:typo_rate={}:split=test:typos=neighbour"
    for rate in (0.5, 1.0):
        long = wrong = 0
        for sample in read(options.format(rate), 200):
            for word, other in zip(
                *(words(sample.captions(role)[0]) for role in ("caption", "typo")), strict=True
            ):
                assert word == other or len(word) >= 4
                long += len(word) >= 4 and "'" not in word
                wrong += word != other
        assert wrong / long == pytest.approx(rate, abs=0.04)
    counts = [
        sum(
            a != b
            for a, b in zip(
                *(words(s.captions(role)[0]) for role in ("caption", "typo")), strict=True
            )
        )
        for s in read(options.format(0.0), 50)
    ]
    assert set(counts) == {1}


@given(
    text=st.lists(
        st.sampled_from(["one", "two", "three", "four", "five", "six"]),
        min_size=2,
        max_size=9,
        unique=True,
    ),
    seed=st.integers(0, 99),
    window=st.booleans(),
)
def test_shuffles_keep_the_words_and_windows_keep_them_near(text, seed, window):
    mixed = words(shuffle(" ".join(text), "window" if window else "all", generator(seed)))
    assert sorted(mixed) == sorted(text)
    assert mixed != text
    if window:
        assert max(abs(mixed.index(word) - at) for at, word in enumerate(text)) <= 2


# Determinism and form


def test_a_sample_is_a_function_of_config_seed_and_index():
    spec = "sentences:count=30:seed=4:roles=all:paraphrases=2:pair=inference"
    source = open_source(spec)
    there = [source[at] for at in range(30)]
    assert [open_source(spec)[at] for at in reversed(range(30))] == there[::-1]
    assert [pickle.loads(pickle.dumps(source))[at] for at in range(30)] == there
    assert (
        open_source("sentences:count=5:seed=4:start=7:roles=all:paraphrases=2:pair=inference")[0]
        == there[7]
    )
    assert len(pickle.dumps(source)) < 2000
    facts = source.world.sample(4, 2)
    assert pickle.loads(pickle.dumps(facts)) == facts


def test_another_process_with_another_hash_seed_gives_the_same_texts():
    code = "from diptych.data.worlds import build; world = build('sentences', {'roles': 'all'}); "
    code += "import sys; assert 'torch' not in sys.modules; "
    code += "print(*(text.text for text in world.captions(world.sample(0, 8))))"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == " ".join(read("roles=all", 9)[8].captions("*"))


def test_what_else_is_asked_for_does_not_change_the_caption():
    plain = [sample.captions()[0] for sample in read("", 40)]
    for options in (
        "roles=all",
        "paraphrases=3",
        "roles=typo:typo_rate=0.9",
        "pair=graded",
        "pair=inference",
    ):
        assert [sample.captions()[0] for sample in read(options, 40)] == plain


def test_golden_sentence():
    """It changes with the vocabulary and the grammar alone; then all data and numbers of this world
    do."""
    assert read("", 1)[0].captions() == [
        "At the playhouse, the one who is pilfering the graceful guitar for a pal is the beautiful jester."
    ]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "roles=all:paraphrases=2:pair=inference",
        "kind=both:pair=graded:negative=0.5",
        "kind=abstract",
    ],
)
def test_the_schema_names_what_samples_have_and_nothing_else(options):
    source = open_source(f"sentences:count=5{options and ':' + options}")
    schema = source.schema()
    for sample in source:
        given = {f"texts.{text.role}" for text in sample.texts} | {
            f"labels.{name}" for name in sample.labels
        }
        assert given == set(schema)
        for name, value in sample.labels.items():
            field = schema[f"labels.{name}"]
            assert type(value) is (float if field.kind == "float" else int)
            assert -1 <= value <= len(field.classes) or field.kind == "float"
    assert source.keys()[3] == source[3].key == "train-0-000003"


def test_texts_come_in_the_order_of_roles():
    [sample] = read("paraphrases=2:roles=all:pair=graded", 1)
    assert [text.role for text in sample.texts] == [
        "caption",
        "paraphrase",
        "paraphrase",
        *ROLES,
        "pair",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("split=tset", "did you mean 'test'"),
        ("kind=visaul", "did you mean 'visual'"),
        ("roles=negatd", "did you mean 'negated'"),
        ("roles=typo:typos=swpa", "did you mean 'swap'"),
        ("pair=grade", "did you mean 'graded'"),
        ("shuffle=windows", "did you mean 'window'"),
        ("paraphrase=2", "did you mean 'paraphrases'"),
        ("negative=1.5", "negative of sentences is 1.5; it must be from 0 to 1"),
        ("typo_rate=-1", "typo_rate of sentences is -1"),
        ("pool=-1", "pool of sentences is -1; it must be from 0"),
        ("paraphrases=-1", "paraphrases of sentences is -1"),
        ("typos=drop+split", "typos split are reserved for the test split; write split=test"),
        (
            "kind=both:pair=inference",
            "pair=inference of sentences describes visual sentences only; write kind=visual",
        ),
        (
            "roles=neutral:negative=0.1",
            "neutral of sentences describes affirmative sentences only; write negative=0",
        ),
        (
            "event=true:kind=both",
            "event=true of sentences describes visual sentences only; write kind=visual",
        ),
        (
            "event=true:page=2",
            "page=2 of sentences states a place, time or recipient, which event=true leaves out",
        ),
    ],
)
def test_bad_options_say_what_to_write(options, message):
    with pytest.raises(InputError, match=message):
        open_source(f"sentences:{options}")


def test_reserved_typos_are_open_to_the_test_split():
    text = read(f"split=test:roles=typo:typos={'+'.join(RESERVED_TYPOS)}", 20)
    assert all(sample.captions("typo") != sample.captions() for sample in text)
