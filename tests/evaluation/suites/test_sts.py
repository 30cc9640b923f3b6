"""Similarity of sentences against scipy on the cosines themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.evaluation.helpers import Fake, Words, vectors

from diptych.data.sources import Concat
from diptych.data.surface import Numbered, surface_similarity
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.sts import biases_of, sts


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), min_size=4, max_size=20
    ),
    tied=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_scipy(rows, tied, seed):
    model = Fake(np.sign(vectors(seed)) if tied else vectors(seed))
    source = Words(
        [
            {"caption": f"t {a}", "pair": f"t {b}", "similarity": float(score)}
            for a, b, score in rows
        ]
    )
    double = np.asarray(model.vectors, np.float64)
    exact = 1e6 * np.array([double[a] @ double[b] for a, b, _ in rows])
    clear = (np.abs(exact - np.floor(exact) - 0.5) > 0.1).all()  # rounding decides on no tie
    cosines = np.round(exact) / 1e6
    scores = [score for *_, score in rows]
    result = sts(model, source)
    if len(set(cosines)) > 1 < len(set(scores)):
        assert result["pearson"] == pytest.approx(
            stats.pearsonr(cosines, scores).statistic, abs=1e-4
        )
        spearman = stats.spearmanr(cosines, scores).statistic
        assert not clear or result["spearman"] == pytest.approx(spearman, abs=1e-9)
        assert result["pearson_low"] - 1e-12 <= result["pearson"] <= result["pearson_high"] + 1e-12
    else:
        assert result["pearson"] == result["spearman"] == 0
    assert result["n"] == len(rows)


def test_a_model_that_maps_everything_to_one_point_agrees_with_nothing():
    rows = [{"caption": f"t {i}", "pair": f"t {i + 1}", "score": float(i)} for i in range(15)]
    point = np.tile(np.random.default_rng(0).normal(size=(1, 6)), (20, 1))
    result = sts(Fake(point), Words(rows))
    assert result["pearson"] == result["spearman"] == 0


def test_two_texts_of_one_role_and_any_label_can_be_named():
    rows = [
        {"title": [f"t {i}", f"t {i + 3}"], "a": float(i), "b": 9 - i, "other": "x", "third": "y"}
        for i in range(6)
    ]
    model = Fake(vectors(0))
    one = sts(model, Words(rows), roles=("title", "title"), score="a")
    assert one["pearson"] == pytest.approx(
        -sts(model, Words(rows), roles=("title", "title"), score="b")["pearson"]
    )
    two = [{"caption": f"t {i}", "pair": f"t {i + 3}", "a": float(i)} for i in range(6)]
    assert sts(model, Words(two))["pearson"] == pytest.approx(one["pearson"])


def test_pairs_that_lack_a_text_or_the_label_are_told():
    rows = [{"caption": "t 1", "pair": "t 2", "score": float(i)} for i in range(4)]
    rows += [
        {"caption": "t 1", "score": 1.0},
        {"caption": "t 1", "pair": "t 2", "score": float("nan")},
    ]
    assert sts(Fake(vectors(0)), Words(rows))["bad"] == {"no-pair": 1, "no-label": 1}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            {"caption": "a", "b": "b", "c": "c", "score": 1.0},
            {},
            "name two roles of source 'words': caption, b, c",
        ),
        (
            {"caption": "a", "b": "b", "x": 1.0, "y": 2.0},
            {},
            "needs a graded label; name one of source 'words': x, y",
        ),
        ({"caption": "a", "b": "b", "x": 1.0}, {"score": "z"}, "label of source 'words' 'z'"),
        ({"caption": "a", "b": "b", "x": 1.0}, {"roles": ["b"]}, "1 roles are named"),
        (
            {"caption": "a", "b": "b", "x": 1.0},
            {"roles": ["b", "captio"]},
            "did you mean 'caption'",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(rows, settings, message):
    model = Fake(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, Words([rows]), ["sts"], **settings)
    assert not model.seen


# ---- how texts are spread


def graded(count: int, grades: int = 6) -> list[dict]:
    """Pairs of different texts."""
    return [
        {"caption": f"t {2 * i}", "pair": f"t {2 * i + 1}", "score": float(i % grades)}
        for i in range(count)
    ]


def test_the_spread_equals_loops():
    rows = graded(12)
    model = Fake(np.random.default_rng(3).normal(size=(24, 6)))
    result = sts(model, Words(rows))
    x = np.asarray(model.vectors, np.float64)
    similar = [i for i, row in enumerate(rows) if row["score"] > 4]
    distances = [((x[2 * i] - x[2 * i + 1]) ** 2).sum() for i in similar]
    assert len(similar) == 2
    assert result["alignment"] == pytest.approx(np.mean(distances), abs=1e-6)
    potentials = [
        np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(24) for j in range(24) if i != j
    ]
    assert result["uniformity"] == pytest.approx(np.log(np.mean(potentials)), abs=1e-6)
    assert 0 < result["isotropy"] < 1


def test_one_text_and_one_grade_have_no_spread():
    rows = [{"caption": "t 1", "pair": "t 1", "score": 2.0}] * 3
    result = sts(Fake(vectors(0)), Words(rows))
    assert not {"alignment", "uniformity", "isotropy"} & result.keys()


def unit(angles) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


WORDS = [f"w{i}" for i in range(40)]


def texts_of(lengths, rng) -> list[str]:
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def test_a_model_of_lengths_alone_has_a_length_bias():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 20, (2, 120))
    texts = [texts_of(side, rng) for side in sizes]
    by_length = [unit(side / 20) for side in sizes]
    score = np.repeat(np.arange(4.0), 30)
    assert biases_of(*by_length, score, *texts)["length_bias"] > 0.99
    blind = [unit(rng.uniform(0, 1, 120)) for _ in range(2)]
    assert abs(biases_of(*blind, score, *texts)["length_bias"]) < 0.3


def test_equal_grades_are_compared_alone():
    """The grade follows the difference of lengths, and so does the cosine; within a grade nothing
    is left of it."""
    rng = np.random.default_rng(1)
    grade = np.repeat(np.arange(3), 40)
    lengths = [np.full(120, 5), 5 + 3 * grade]
    texts = [texts_of(side, rng) for side in lengths]
    a, b = unit(np.zeros(120)), unit(0.3 * grade)
    found = biases_of(a, b, -grade.astype(float), *texts)
    assert found["length_bias"] == 0


def test_the_surface_bias_is_a_partial_correlation():
    rng = np.random.default_rng(2)
    score = rng.uniform(0, 5, 80)
    texts = [texts_of(rng.integers(3, 9, 80), rng) for _ in range(2)]
    numbered = Numbered()
    surface = surface_similarity(*(numbered.words(side) for side in texts))
    angle = 1.2 - 0.1 * score - 0.5 * surface
    a, b = unit(np.zeros(80)), unit(angle)
    found = biases_of(a, b, score, *texts)

    def residual(x):
        slope, middle = np.polyfit(score, x, 1)
        return x - slope * score - middle

    cosines = np.cos(angle)
    expected = np.corrcoef(residual(surface), residual(cosines))[0, 1]
    assert found["surface_bias"] == pytest.approx(expected, abs=1e-5)
    assert found["surface_bias"] > 0.95
    assert 0 < found["surface_bias_spearman"] <= 1


def test_a_model_that_likes_frequent_words_has_a_frequency_bias():
    rng = np.random.default_rng(4)
    shares = 1 / np.arange(1, 41)
    texts = [
        [" ".join(rng.choice(WORDS, 6, p=shares / shares.sum())) for _ in range(100)]
        for _ in range(2)
    ]
    count = {
        word: sum(text.split().count(word) for side in texts for text in {*side}) for word in WORDS
    }
    rare = [
        np.mean([-np.log(count[word]) for text in pair for word in text.split()])
        for pair in zip(*texts, strict=True)
    ]
    a, b = unit(np.zeros(100)), unit(0.2 * (np.array(rare) - min(rare)))
    score = np.repeat([0.0, 1.0], 50)
    assert biases_of(a, b, score, *texts)["frequency_bias"] > 0.95
    assert biases_of(b, -b, score, *texts)["frequency_bias"] == 0


def test_biases_are_asked_for():
    rows = graded(12)
    plain = sts(Fake(np.random.default_rng(3).normal(size=(24, 6))), Words(rows))
    assert not [name for name in plain if name.endswith("_bias")]
    model = Fake(np.random.default_rng(3).normal(size=(24, 6)))
    found = evaluate(model, Words(rows), ["sts"], biases=True)["sts"]
    assert found["chance_surface_bias"] == 0
    assert "length_bias" not in found  # no grade has ten pairs


def test_several_sources_are_measured_one_by_one():
    """As languages of one test set are: means of the numbers, and each in a table."""
    model = Fake(vectors(3))
    one, other = (
        Words(
            [{"caption": f"t {i}", "pair": f"t {(k * i) % 7}", "score": float(i)} for i in range(6)]
        )
        for k in (3, 5)
    )
    one.name, other.name = "en", "de"
    found = sts(model, Concat([one, other]), by_source=True)
    each = {source.name: sts(model, source) for source in (one, other)}
    assert found["spearman"] == pytest.approx(np.mean([r["spearman"] for r in each.values()]))
    assert found["n"] == 12
    assert found["by_source"]["de"]["pearson"] == each["de"]["pearson"]
    assert found["by_source"].keys() == {"en", "de"}
    assert sts(model, Concat([one, other]))["spearman"] != found["spearman"]
