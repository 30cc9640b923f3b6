"""Similarity of sentences against scipy on the cosines themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.evaluation.helpers import Fake, Words, vectors

from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.sts import sts


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
