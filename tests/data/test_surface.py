"""The surface similarity of texts, against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.surface import Numbered, surface_similarity
from diptych.errors import InputError

A = "a man is playing a guitar"
B = "a man plays the guitar"
C = "a man is eating a guitar"


@pytest.mark.parametrize(
    ("one", "other", "kind", "expected"),
    [
        (A, B, "jaccard", 3 / 7),
        (A, C, "jaccard", 4 / 6),
        (A, B, "levenshtein", 0.5),
        (A, C, "levenshtein", 5 / 6),
        (B, C, "levenshtein", 0.5),
        (A, B, "length", 5 / 6),
        (A.upper(), A, "levenshtein", 1),
    ],
)
def test_published_values(one, other, kind, expected):
    a, b = Numbered().words([one, other])
    assert surface_similarity([a], [b], {kind: 1.0})[0] == pytest.approx(expected, abs=1e-12)


def edits(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


TEXT = st.lists(st.integers(0, 5), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_it_equals_loops(pairs):
    a, b = [list(side) for side in zip(*pairs, strict=True)]
    for at, (x, y) in enumerate(pairs):
        longest = max(len(x), len(y))
        levenshtein = 1 - edits(x, y) / longest
        jaccard = len({*x} & {*y}) / len({*x} | {*y})
        length = min(len(x), len(y)) / longest
        assert surface_similarity(a, b)[at] == pytest.approx((levenshtein + length) / 2)
        assert surface_similarity(a, b, {"jaccard": 2.0})[at] == pytest.approx(jaccard)
    assert np.allclose(surface_similarity(a, b), surface_similarity(b, a))


def test_what_has_no_surface_is_refused():
    with pytest.raises(InputError, match=r"text 1 is empty \('  '\)"):
        Numbered().words(["a", "  "])
    with pytest.raises(InputError, match="1 and 2 texts are no pairs"):
        surface_similarity([[0]], [[0], [1]])
    with pytest.raises(InputError, match="did you mean 'jaccard'"):
        surface_similarity([[0]], [[0]], {"jacard": 1.0})
    for weights in ({}, {"length": 0.0}, {"length": -1.0, "jaccard": 2.0}):
        with pytest.raises(
            InputError, match="give some of levenshtein, jaccard, length a positive"
        ):
            surface_similarity([[0]], [[0]], weights)
    assert len(surface_similarity([], [])) == 0


def test_weights_need_no_sum():
    a, b = Numbered().words([A, B])
    found = surface_similarity([a], [b], {"levenshtein": 3.0, "jaccard": 1.0})
    assert found[0] == pytest.approx((3 * 0.5 + 3 / 7) / 4)
