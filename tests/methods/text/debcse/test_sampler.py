"""The sampler of pairs against published values and loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.methods.text.debcse.sampler import PairSampler, Pool, Side, draw

M = np.array([[0.95, 0.90, 0.85, 0.60]])
S = np.array([[0.99, 0.50, 0.20, 0.10]])


@pytest.mark.parametrize(
    ("least", "expected"),
    [(0.0, [0.4154, 0.3026, 0.2783, 0.0038]), (0.7, [0.4170, 0.3037, 0.2793, 0])],
)
def test_published_probabilities_of_positives(least, expected):
    found = PairSampler(min_positive=least).positives(M, S)
    assert np.allclose(found, [expected], atol=5e-5)


def test_the_plain_ratio_is_another():
    ratio = M / np.clip(S, 0.1, 1)
    assert np.allclose(ratio / ratio.sum(), [[0.0738, 0.1384, 0.3267, 0.4612]], atol=5e-5)
    assert PairSampler(min_positive=0.0).positives(M, S).argmax() == 0


SHARE = st.floats(0, 1)
PAIRS = st.lists(st.tuples(SHARE, SHARE), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS, temperature=st.floats(0.02, 1), clip=st.floats(0.05, 1))
def test_probabilities_equal_loops(pairs, temperature, clip):
    sampler = PairSampler(temperature=temperature, clip=clip)
    m, s = np.array(pairs).T[:, None]
    for found, chance, allowed in (
        (sampler.positives(m, s), lambda s: s, lambda m: m >= 0.7),
        (sampler.negatives(m, s), lambda s: 1 - s, lambda m: m <= 0.9),
    ):
        weights = [
            math.exp(a / temperature) / min(max(chance(b), clip), 1) if allowed(a) else 0.0
            for a, b in pairs
        ]
        total = sum(weights)
        assert np.allclose(found, [[w / total if total else 0 for w in weights]], atol=1e-9)


def test_limits_of_the_probabilities():
    sampler = PairSampler(min_positive=0.0)
    even = sampler.positives(M, np.full_like(M, 0.5))
    softmax = np.exp(M / 0.05) / np.exp(M / 0.05).sum()
    assert np.allclose(even, softmax)
    assert np.allclose(PairSampler(min_positive=0.0, propensity=False).positives(M, S), softmax)
    same = sampler.positives(np.full_like(M, 0.8), S)
    assert np.allclose(same, (1 / np.clip(S, 0.1, 1)) / (1 / np.clip(S, 0.1, 1)).sum())
    cold = PairSampler(min_positive=0.0, temperature=1e-4).positives(M, S)
    assert np.allclose(cold, [[1, 0, 0, 0]])


def test_the_guard_keeps_out_what_means_the_same():
    found = PairSampler().negatives(M, S)
    assert found[0, 0] == 0
    assert PairSampler(guard=False).negatives(M, S)[0, 0] > 0.5
    assert not PairSampler().negatives(np.array([[0.95, 0.99]]), np.zeros((1, 2))).any()
    assert not PairSampler().positives(np.array([[-np.inf]]), np.ones((1, 1))).any()


def test_surface_makes_hard_negatives_likelier_and_positives_less():
    meaning = np.full((1, 2), 0.85)
    surface = np.array([[0.9, 0.1]])
    assert PairSampler().negatives(meaning, surface)[0].argmax() == 0
    assert PairSampler().positives(meaning, surface)[0].argmax() == 1


def test_draws_have_their_probabilities_and_no_candidate_twice():
    p = np.tile([0.5, 0.3, 0.2, 0.0], (4000, 1))
    rng = np.random.default_rng(0)
    first = draw(p, 1, rng)[:, 0]
    assert np.allclose(np.bincount(first, minlength=4) / 4000, p[0], atol=0.03)
    several = draw(p, 4, rng)
    assert (np.sort(several, 1)[:, 1:] == [0, 1, 2]).all()
    assert (several[:, 3] == -1).all()
    # the second of two is drawn from what the first leaves
    second = several[several[:, 0] == 0, 1]
    assert np.mean(second == 1) == pytest.approx(0.6, abs=0.05)


def pool() -> Pool:
    side = Side(
        origins=np.array([[-1, -2, 1], [-1, -2, 0]]),
        meaning=np.array([[1.0, 0.8, -np.inf], [1.0, 0.9, 0.95]]),
        surface=np.array([[1.0, 0.5, 0.0], [1.0, 0.9, 0.3]]),
        probability=np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]]),
    )
    empty = Side(
        origins=np.zeros((2, 0), int),
        meaning=np.zeros((2, 0)),
        surface=np.zeros((2, 0)),
        probability=np.zeros((2, 0)),
    )
    return Pool(
        texts=["a cat", "a dog"],
        own=[["a cat", "a cat cat"], ["a dog", "dog"]],
        kinds=("itself", "repetition", "given"),
        positives=side,
        negatives=empty,
        drawn=np.array([[1], [-1]]),
    )


def test_candidates_of_a_sentence_are_shown():
    found = pool().inspect("a dog")
    assert [(each.text, each.origin, each.probability) for each in found] == [
        ("a cat", "0", 0.7),
        ("dog", "repetition", 0.2),
        ("a dog", "itself", 0.1),
    ]
    assert [each.text for each in pool().inspect(0)] == ["a cat", "a cat cat"]
    assert len(pool().inspect(1, count=1)) == 1
    assert pool().lines(1)[0]["sentence"] == "a cat"
    with pytest.raises(InputError, match="'a cow' is no sentence of the data"):
        pool().inspect("a cow")


def test_false_negatives_are_counted():
    assert pool().false_negatives(np.array([3, 3])) == 1
    assert pool().false_negatives(np.array([3, 4])) == 0
