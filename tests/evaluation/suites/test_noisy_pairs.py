"""Flags against scikit-learn and counting pairs, by kind, by label of the sample and by attribute
of the text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Field, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.noisy_pairs import noisy_pairs, report

NOISE = {"labels.noise": Field(kind="int", classes=("clean", "swap", "junk"))}


@settings(max_examples=80, deadline=None)
@given(n=st.integers(2, 20), tied=st.booleans(), seed=st.integers(0, 10**6))
def test_auroc_counts_pairs_ties_half_and_equals_scikit_learn(n, tied, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, n).astype(float) if tied else rng.normal(size=n)
    given_ = rng.integers(0, 2, n)
    given_[:2] = 0, 1
    pairs = [(s > r) + 0.5 * (s == r) for s in scores[given_ == 1] for r in scores[given_ == 0]]
    found = report(scores, given_)
    assert found["auroc"] == pytest.approx(np.mean(pairs))
    assert found["auroc"] == pytest.approx(roc_auc_score(given_, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(given_, scores))
    assert (found["chance_auroc"], found["chance_average_precision"]) == (
        0.5,
        pytest.approx(given_.mean()),
    )


def noisy(kinds: list[int]) -> Rows:
    """Image i with text i, or with text i + 1 where it is noise."""
    samples = [
        replace(row(str(at), at, f"t {at + (kind > 0)}"), labels={"noise": kind})
        for at, kind in enumerate(kinds)
    ]
    return Rows(samples, fields=NOISE)


@settings(max_examples=30, deadline=None)
@given(
    kinds=st.lists(st.integers(-1, 2), max_size=12),
    by=st.sampled_from(["embed", "match"]),
    seed=st.integers(0, 99),
)
def test_the_suite_scores_pairs_by_how_badly_they_fit(kinds, by, seed):
    kinds = [0, 1, *kinds]
    model = Fake(vectors(seed))
    model.matcher = model.vectors if by == "embed" else torch.from_numpy(vectors(seed + 1)).float()
    known = [(at, kind) for at, kind in enumerate(kinds) if kind >= 0]
    scores = np.array(
        [-float((model.matcher[at] * model.matcher[at + (kind > 0)]).sum()) for at, kind in known]
    )
    scores = np.round(scores / 1e-6) * 1e-6  # what differs by rounding alone is a tie
    labels = np.array([kind for _, kind in known])
    result = noisy_pairs(model, noisy(kinds), by=by, batch_size=4)
    assert result["auroc"] == pytest.approx(roc_auc_score(labels > 0, scores))
    assert (result["n"], result["flagged"]) == (len(known), (labels > 0).sum())
    assert result["bad"] == ({"no-label": kinds.count(-1)} if -1 in kinds else {})
    for number, name in ((1, "swap"), (2, "junk")):
        if number in labels:
            mine = (labels == 0) | (labels == number)
            expected = roc_auc_score(labels[mine] == number, scores[mine])
            assert result["by_kind"][name]["auroc"] == pytest.approx(expected)
            assert result["by_kind"][name]["n"] == (labels == number).sum()
        else:
            assert name not in result["by_kind"]


def test_a_model_that_knows_its_pairs_finds_every_swap_and_one_point_finds_none():
    source = noisy([0, 1] * 8)
    assert noisy_pairs(Fake(np.eye(20)), source)["auroc"] == 1.0
    assert noisy_pairs(Fake(np.ones((20, 4))), source)["auroc"] == 0.5


def test_flags_of_texts_are_their_attributes():
    texts = [
        Text(text="t 1"),
        Text(text="t 2", attrs={"noise": "swap"}),
        Text(text="t 3", attrs={"wrong": True}),
        Text(text="t 4", role="web", attrs={"noise": "junk"}),
    ]
    source = Rows([replace(row("a", 1), texts=texts)], fields={"texts.web": Field(kind="text")})
    model = Fake(np.eye(20))
    assert set(noisy_pairs(model, source)["by_kind"]) == {"swap"}
    assert noisy_pairs(model, source)["n"] == 3
    assert set(noisy_pairs(model, source, flag="wrong")["by_kind"]) == {"flagged"}
    assert noisy_pairs(model, source, role="*")["n"] == 4
    protocols = {
        noisy_pairs(model, source, **each)["protocol"]
        for each in ({}, {"flag": "wrong"}, {"by": "match"})
    }
    assert len(protocols) == 3


def test_what_cannot_be_told_apart_or_is_not_there_is_an_error():
    with pytest.raises(InputError, match="0 of 3 pairs have flag 'noise' of source 'rows'"):
        noisy_pairs(Fake(vectors(0)), noisy([0, 0, 0]))
    with pytest.raises(InputError, match="2 of 2 flags are set"):
        report(np.zeros(2), np.ones(2))
    with pytest.raises(InputError, match="way to score 'mtch'; did you mean 'match'"):
        evaluate(Fake(vectors(0)), noisy([0, 1]), ["noisy_pairs"], by="mtch")
