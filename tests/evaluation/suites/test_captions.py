"""Written captions: CIDEr-D against its formula written out, objects against loops, and captions of
known quality."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Box, Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._register import register_share, register_words
from diptych.evaluation.suites.captions import bleu, captions, cider, object_rates, report, words

SENTENCE = st.lists(
    st.sampled_from(["a", "red", "dog", "cat", "runs", "on", "grass"]), min_size=0, max_size=7
)


def slow_cider(written: list[str], right: list[list[str]]) -> list[float]:
    """CIDEr-D as its equation says, one sum after the other, over every n-gram that exists
    anywhere."""

    def grams(text: str, n: int) -> list[tuple[str, ...]]:
        return list(zip(*(text.split()[i:] for i in range(n)), strict=False))

    def df(gram: tuple[str, ...]) -> int:
        return sum(any(gram in grams(text, len(gram)) for text in texts) for texts in right)

    def g(text: str, gram: tuple[str, ...]) -> float:
        return grams(text, len(gram)).count(gram) * (
            math.log(len(right)) - math.log(max(1, df(gram)))
        )

    scores = []
    for text, texts in zip(written, right, strict=True):
        total = 0.0
        for n in range(1, 5):
            every = {gram for other in [text, *texts] for gram in grams(other, n)}
            for other in texts:
                product = sum(min(g(text, gram), g(other, gram)) * g(other, gram) for gram in every)
                norms = math.sqrt(sum(g(text, gram) ** 2 for gram in every)) * math.sqrt(
                    sum(g(other, gram) ** 2 for gram in every)
                )
                longer = len(text.split()) - len(other.split())
                total += (
                    (product / norms if norms else 0) * math.exp(-(longer**2) / 72) / len(texts) / 4
                )
        scores.append(10 * total)
    return scores


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=5
    )
)
def test_cider_equals_its_formula(rows):
    written = [" ".join(text) for text, _ in rows]
    right = [[" ".join(text) for text in texts] for _, texts in rows]
    assert cider(written, right).tolist() == pytest.approx(slow_cider(written, right))


def slow_bleu(written: list[str], right: list[list[str]]) -> list[float]:
    """BLEU as its equation says, over lists of n-grams."""

    def grams(text: str, n: int) -> list[tuple[str, ...]]:
        return list(zip(*(text.split()[i:] for i in range(n)), strict=False))

    c = sum(len(text.split()) for text in written)
    closest = [
        min(
            sorted(len(other.split()) for other in texts),
            key=lambda size, text=text: abs(size - len(text.split())),
        )
        for text, texts in zip(written, right, strict=True)
    ]
    if not c:
        return [0.0] * 4
    brevity = 1.0 if c >= sum(closest) else math.exp(1 - sum(closest) / c)
    precisions = []
    for n in range(1, 5):
        hits = count = 0
        for text, texts in zip(written, right, strict=True):
            for gram in set(grams(text, n)):
                hits += min(
                    grams(text, n).count(gram), max(grams(other, n).count(gram) for other in texts)
                )
            count += len(grams(text, n))
        precisions.append(hits / count if count else 0.0)
    return [brevity * math.prod(precisions[:n]) ** (1 / n) for n in range(1, 5)]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=5
    )
)
def test_bleu_equals_its_formula(rows):
    written = [" ".join(text) for text, _ in rows]
    right = [[" ".join(text) for text in texts] for _, texts in rows]
    assert bleu(written, right) == pytest.approx(slow_bleu(written, right))


def test_bleu_by_hand():
    """Papineni's example: `the` counts twice at most; then one caption of two words for four, at
    e^(1 - 4/2)."""
    right = [["the cat is on the mat", "there is a cat on the mat"]]
    assert bleu(["the the the the the the the"], right)[0] == pytest.approx(2 / 7)
    assert bleu(["on the"], [["dogs on the grass"]]) == pytest.approx(
        [math.exp(-1), math.exp(-1), 0, 0]
    )
    assert bleu(["a red dog runs fast"], [["a red dog runs away"]]) == pytest.approx(
        [
            4 / 5,
            (4 / 5 * 3 / 4) ** (1 / 2),
            (4 / 5 * 3 / 4 * 2 / 3) ** (1 / 3),
            (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4),
        ]
    )


def test_cider_of_captions_of_known_quality():
    right = [
        ["a red dog runs on grass", "the dog runs"],
        ["two cats sleep on a sofa"],
        ["one bird in the blue sky"],
    ]
    perfect = [texts[0] for texts in right]
    assert cider(perfect, right)[1] == pytest.approx(10)  # one reference, word for word
    assert 5 < cider(perfect, right)[0] < 10  # its other reference says less
    shuffled = cider([perfect[1], perfect[2], perfect[0]], right)
    assert shuffled.max() < 0.5
    halves = cider(["a red dog", "two cats sleep", "one bird in"], right)
    assert (shuffled < halves).all()
    assert (halves < cider(perfect, right)).all()
    repeated = cider(["dog dog dog dog dog dog", *perfect[1:]], right)[0]
    assert (
        repeated < cider(["dog", *perfect[1:]], right)[0]
    )  # clipping: words that are repeated gain nothing
    assert cider(["A RED dog runs, on grass!", *perfect[1:]], right)[0] == cider(perfect, right)[0]
    order = [2, 0, 1]
    turned = cider([perfect[i] for i in order], [right[i] for i in order])
    assert turned == pytest.approx(cider(perfect, right)[order])
    assert cider(["a dog"], [["a dog"]]).tolist() == [0.0]  # of one image nothing is rare


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            SENTENCE, st.lists(st.sampled_from(["dog", "red dog", "cat", "grass on"]), max_size=3)
        ),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: any(names for _, names in rows))
)
def test_object_rates_equal_loops(rows):
    written, objects = [" ".join(text) for text, _ in rows], [names for _, names in rows]
    known = {name for names in objects for name in names}
    recalls, precisions = [], []
    for text, names in zip(written, objects, strict=True):
        reported = {name for name in known if f" {name} " in f" {text} "}
        if names:
            recalls.append(len(reported & set(names)) / len(set(names)))
        if reported:
            precisions.append(len(reported & set(names)) / len(reported))
    recall, precision = object_rates(written, objects)
    assert recall == pytest.approx(np.mean(recalls))
    assert precision == pytest.approx(np.mean(precisions) if precisions else 0)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("two dogs", "dog", True),
        ("a hot dog", "dog", True),
        ("a dogma", "dog", False),
        ("Boxes.", "box", True),
        ("red and blue cars", "blue car", True),
        ("two butterflies", "butterfly", True),
        ("three cacti", "cactus", True),
        ("knives and women", "knife", True),
        ("knives and women", "woman", True),
        ("reds car", "red car", False),
        ("", "dog", False),
    ],
)
def test_names_are_whole_words_in_either_number(text, name, found):
    assert object_rates([text], [[name]])[0] == float(found)


def test_a_report_without_objects_tells_none():
    assert set(report(["a dog"], [["a dog"]])) == {
        "accuracy",
        "cider",
        "bleu1",
        "bleu2",
        "bleu3",
        "bleu4",
        "rouge_1",
        "rouge_2",
        "rouge_l",
    }
    assert report(["The DOG,  runs"], [["a cat", "the dog runs."]])["accuracy"] == 1.0
    assert words("l’été — 2nd") == ["l’été", "2nd"]


# ---- the suite


def source() -> Rows:
    texts = ["a red dog", "two cats", "one bird", "a blue car"]
    samples = [
        replace(
            row(str(at), at, text, f"the {text}"),
            boxes=[Box(xyxy=(0, 0, 1, 1), text=text.split()[-1])],
        )
        for at, text in enumerate(texts)
    ]
    return Rows([*samples, row("bad", 1, "x", damage="html")], fields={"boxes": Field(kind="box")})


def test_a_model_that_knows_is_right_and_chance_is_a_neighbours_caption():
    model = Fake(vectors(0))
    model.written = lambda number, prompt: ["a red dog", "two cats", "a bird", "a blue car"][number]
    result = captions(model, source(), batch_size=3)
    assert result["accuracy"] == 0.75
    assert result["object_recall"] == result["object_precision"] == 1.0
    assert result["chance_accuracy"] == result["chance_object_recall"] == 0.0
    assert result["cider"] > 5 > 1 > result["chance_cider"]
    assert (result["n"], result["bad"]) == (4, {"html": 1})
    assert result["written"]["2"] == "a bird"
    right = [[text, f"the {text}"] for text in ("a red dog", "two cats", "one bird", "a blue car")]
    assert result["cider"] == pytest.approx(
        np.mean(slow_cider(["a red dog", "two cats", "a bird", "a blue car"], right))
    )
    assert model.largest == 3


def test_no_number_hangs_on_the_order_of_the_samples():
    model = Fake(vectors(0))
    model.written = lambda number, prompt: ["a red dog", "a cat", "one bird", "a car"][number]
    straight, turned = source(), source()
    turned.samples.reverse()
    first, second = captions(model, straight), captions(model, turned)
    assert all(
        first[name] == pytest.approx(second[name])
        for name, value in first.items()
        if isinstance(value, float)
    )


def test_names_of_boxes_may_be_classes():
    samples = [
        replace(each, boxes=[Box(xyxy=(0, 0, 1, 1), text="?", label=1)])
        for each in source().samples[:2]
    ]
    named = Rows(samples, fields={"boxes": Field(kind="box", classes=("sky", "dog"))})
    model = Fake(vectors(0))
    model.written = lambda number, prompt: ["a dog", "the sky"][number]
    assert captions(model, named)["object_recall"] == 0.5


def test_a_model_that_does_not_write_is_told():
    class Mute(Fake):
        generate = property()

    with pytest.raises(
        InputError, match="captions needs a model with generate, which Mute has not"
    ):
        evaluate(Mute(vectors(0)), source(), ["captions"])


def slow_register(texts: list[list[str]], plain: list[list[str]]) -> set[str]:
    """The definition, a word at a time."""
    styled = [word for text in texts for word in text]
    common = [word for text in plain for word in text]
    found = set()
    for word in styled:
        within = sum(word in text for text in texts)
        share = Fraction(styled.count(word), len(styled))
        other = Fraction(common.count(word), len(common) or 1)
        if within >= Fraction(len(texts), 100) and share >= 10 * other:
            found.add(word)
    return found


WORDS = st.lists(st.sampled_from(["my", "dear", "cat", "dog", "a", "b"]), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=9),
    plain=st.lists(WORDS | st.lists(st.just("cat"), min_size=30, max_size=30), max_size=9),
)
def test_a_register_is_words_that_plain_texts_use_far_less(texts, plain):
    assert register_words(texts, plain) == slow_register(texts, plain)


def test_words_of_few_texts_are_no_register():
    texts = [["lovely", "cat"]] * 199 + [["odd", "cat"]]
    assert register_words(texts, [["a", "cat"]]) == {"lovely"}
    assert register_share(texts, frozenset({"lovely"})) == pytest.approx(199 / 400)
    assert register_share([], frozenset({"lovely"})) == 0


def test_captions_in_a_register_are_told_from_plain_ones():
    source = Rows([row(str(at), at, f"number {at}") for at in range(4)])
    style = Rows([row(str(at), at, f"what a joyful number {at}") for at in range(4)])
    model = Fake(vectors(0, 4))
    model.written = lambda number, prompt: f"joyful number {number}" if number else "number 0"
    found = evaluate(model, source, ["captions"], register=style)["captions"]
    assert found["register"] == 3 / 11
    assert found["register_texts"] == 3 / 5
    assert found["chance_register"] == 0
    plain = evaluate(model, source, ["captions"])["captions"]
    assert "register" not in plain
    assert plain["cider"] == found["cider"]
    assert plain["protocol"] != found["protocol"]
    with pytest.raises(InputError, match="has no words that captions of the images lack"):
        evaluate(model, source, ["captions"], register=source)
