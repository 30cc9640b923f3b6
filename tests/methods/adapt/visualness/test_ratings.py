"""Ratings to labels by the published rule, agreement against pairs in loops and a published number,
and tables that are refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.adapt.visualness.ratings import alpha, labels, read, write

GIVEN = """
1 2 3 3 2 1 4 1 2 0 0 0
1 2 3 3 2 2 4 1 2 5 0 3
0 3 3 3 2 3 4 2 2 5 1 0
1 2 3 3 2 4 4 1 2 5 1 0
"""
"""Four observers of twelve units (Krippendorff 2011, example C); 0: no rating."""


def test_alpha_is_the_published_one():
    ratings = np.array([line.split() for line in GIVEN.split("\n") if line], np.int64).T
    assert alpha(ratings) == pytest.approx(0.815, abs=5e-4)


def slow(ratings):
    """All pairs of ratings within a sentence, against all pairs of ratings."""
    units = [[int(v) for v in row if v] for row in ratings]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]

    def distance(c, k):
        low, high = min(c, k), max(c, k)
        between = sum(low <= v <= high for v in values)
        return (between - (values.count(c) + values.count(k)) / 2) ** 2

    n = len(values)
    observed = 0.0
    for unit in units:
        for i, a in enumerate(unit):
            for j, b in enumerate(unit):
                if i != j:
                    observed += distance(a, b) / (len(unit) - 1)
    expected = 0.0
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            if i != j:
                expected += distance(a, b)
    if expected == 0:
        return math.nan
    return 1 - observed / n / (expected / n / (n - 1))


@given(
    arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.integers(0, 7))
)
def test_alpha_equals_the_loop_over_pairs(ratings):
    assert alpha(ratings) == pytest.approx(slow(ratings), nan_ok=True)


@given(arrays(np.int64, (5, 9), elements=st.integers(0, 7)))
def test_labels_are_those_of_five_votes_of_nine(ratings):
    for row, found in zip(ratings, labels(ratings), strict=True):
        low = sum(v in (1, 2, 3) for v in row)
        high = sum(v in (5, 6, 7) for v in row)
        assert found == (0 if low >= 5 else 1 if high >= 5 else -1)


def test_votes_that_make_no_majority_are_refused():
    ratings = np.full((1, 9), 7)
    assert labels(ratings, 9).tolist() == [1]
    for votes in (4, 10):
        with pytest.raises(InputError, match=f"{votes} votes of 9 are no majority; give 5 to 9"):
            labels(ratings, votes)


def test_the_table_is_one_that_sources_read(tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["sentence;page_id;image;A;B;C"]
    lines += ['"A red; cat";p 1;photos/a.png;7;7;', "Why;p 1;photos/b.png;1;;2", "Hm;p 2;;4;7;1"]
    (tmp_path / "ratings.csv").write_text("\n".join(lines), "utf-8")
    rated = read(str(tmp_path / "ratings.csv"))
    assert rated.people == ["A", "B", "C"]
    assert rated.ratings.tolist() == [[7, 7, 0], [1, 0, 2], [4, 7, 1]]
    out = tmp_path / "out" / "human.jsonl"
    assert write(rated, labels(rated.ratings), out) == 2
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert rows == [
        {"text": "A red; cat", "image": "../photos/a.png", "label": 1, "page_id": "p 1"},
        {"text": "Why", "image": None, "label": 0, "page_id": "p 1"},
    ]
    back = open_source(str(out))
    assert [back[at].labels["label"] for at in range(2)] == [1, 0]
    assert [bool(back[at].images) for at in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,b\n1,2\n", "no column text among a, b"),
        ("text,a\nx,2\n", "1 columns of ratings; give one for each person"),
        ("text,a,b\nx,1,8\n", "row 1, b is '8', no whole number from 1 to 7"),
        ("text,a,b\nx,1,2\ny,2.5,1\n", "row 2, a is '2.5'"),
        ("text,a,b\nx,nan,1\n", "row 1, a is 'nan'"),
        ("text,a,b\n,1,1\n", "row 1 cannot be read .it has no text."),
        ("text,a,b\nx,1\n", "row 1 cannot be read .*has 2 cells, not 3"),
    ],
)
def test_tables_that_are_no_ratings_are_refused(table, message, tmp_path):
    (tmp_path / "ratings.csv").write_text(table, "utf-8")
    with pytest.raises(InputError, match=message):
        read(str(tmp_path / "ratings.csv"))


def test_without_any_label_nothing_is_written(tmp_path):
    (tmp_path / "ratings.csv").write_text("text,a,b\nx,1,7\n", "utf-8")
    rated = read(str(tmp_path / "ratings.csv"))
    with pytest.raises(InputError, match="all 1 sentences are ambiguous"):
        write(rated, labels(rated.ratings), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
