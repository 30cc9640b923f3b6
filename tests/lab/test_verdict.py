"""The rule: what it says of simulated effects whose truth is known, and at its edges."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diptych.errors import InputError
from diptych.lab.claim import Claim, Floor, at_most, better, equal, not_worse
from diptych.lab.verdict import Interval, interval, judge

CASES = 2000
NOISE, MARGIN, MOST = 0.02, 0.03, 0.5


def claim(*expect, seeds=5, floor=0.0, floor_arms=()):
    arms = {name: lambda trial: {} for name in ("ours", "theirs", "ablation")}
    return Claim(
        question="?",
        seeds=tuple(range(seeds)),
        arms=arms,
        expect=expect,
        floor=Floor("m", floor, floor_arms),
    )


def numbers(ours, theirs, ablation=None):
    ablation = [0.0] * len(ours) if ablation is None else ablation
    return {
        seed: {"ours": {"m": a}, "theirs": {"m": b}, "ablation": {"m": c}}
        for seed, (a, b, c) in enumerate(zip(ours, theirs, ablation, strict=True))
    }


def simulated(expect, effect, seeds, level=0.5, kept=0.0):
    """How often each outcome comes out where ours is above theirs by `effect` on average, at
    most_of about `level`."""
    rng = np.random.default_rng(0)
    asked = claim(expect, seeds=seeds)
    found = dict.fromkeys(("holds", "tie", "fails"), 0)
    for _ in range(CASES):
        theirs = level + rng.normal(
            0, 0.1, seeds
        )  # what a seed does to both arms: the pairs take it out
        ours = theirs + effect + rng.normal(0, NOISE, seeds)
        ablation = theirs + kept * effect + rng.normal(0, NOISE, seeds)
        if expect.kind == "at_most":
            ours = level + effect + rng.normal(0, NOISE, seeds)
        found[judge(asked, numbers(ours.tolist(), theirs.tolist(), ablation.tolist())).verdict] += 1
    return found


# an expectation, an effect at which it must not hold (the margin itself), one at which it does
KINDS = [
    pytest.param(better("m", "ours", over="theirs"), 0.0, 0.12, id="better"),
    pytest.param(
        better("m", "ours", over="theirs", higher=False), 0.0, -0.12, id="lower is better"
    ),
    pytest.param(
        better("m", "ours", over="theirs", breaking=("ablation",)),
        0.0,
        0.2,
        id="better with an ablation",
    ),
    pytest.param(
        not_worse("m", "ours", than="theirs", margin=MARGIN), -MARGIN, 0.09, id="not_worse"
    ),
    pytest.param(
        not_worse("m", "ours", than="theirs", margin=MARGIN, higher=False),
        MARGIN,
        -0.09,
        id="not_higher",
    ),
    pytest.param(
        equal("m", "ours", to="theirs", margin=6 * MARGIN), 6 * MARGIN, 0.0, id="equal, from above"
    ),
    pytest.param(
        equal("m", "ours", to="theirs", margin=6 * MARGIN), -6 * MARGIN, 0.0, id="equal, from below"
    ),
    pytest.param(at_most("m", "ours", MOST), 0.0, -0.12, id="at_most"),
]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("expect", "null", "real"), KINDS)
def test_of_null_effects_at_most_one_in_twenty_holds_and_real_ones_do(expect, null, real, seeds):
    assert simulated(expect, null, seeds)["holds"] <= 0.05 * CASES
    assert simulated(expect, real, seeds)["holds"] >= (0.9 if seeds == 5 else 0.6) * CASES


@pytest.mark.parametrize(
    ("expect", "effect"),
    [
        (better("m", "ours", over="theirs"), -0.12),
        (not_worse("m", "ours", than="theirs", margin=MARGIN), -0.2),
        (equal("m", "ours", to="theirs", margin=MARGIN), 0.2),
        (equal("m", "ours", to="theirs", margin=MARGIN), -0.2),
        (at_most("m", "ours", MOST), 0.12),
        (
            better("m", "ours", over="theirs", breaking=("ablation",)),
            0.2,
        ),  # it keeps all of the gain, see `kept`
    ],
    ids=str,
)
def test_what_is_the_other_way_fails(expect, effect):
    assert (
        simulated(expect, effect, 5, kept=0.9 if expect.breaking else 0.0)["fails"] >= 0.9 * CASES
    )


@given(st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=12))
def test_the_interval_is_scipys(values):
    found = interval(values)
    if np.ptp(values) < 1e-6:
        assert found.low <= found.mean <= found.high
        return
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
    paired = stats.ttest_rel(values, [0.0] * len(values)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), rel=1e-9, abs=1e-9)


def test_equal_numbers_have_an_interval_of_no_width_so_exact_claims_are_settled():
    assert interval([0.1] * 7) == Interval(0.1, 0.1, 0.1)
    asked = claim(at_most("m", "ours", 4.0), equal("m", "ours", to="theirs", margin=0.0))
    assert judge(asked, numbers([4.0, 4.0], [4.0, 4.0])).verdict == "holds"
    assert judge(asked, numbers([4.0, 4.0], [4.1, 4.1])).verdict == "fails"
    assert (
        judge(claim(better("m", "ours", over="theirs")), numbers([1.0, 1.0], [1.0, 1.0])).verdict
        == "tie"
    )
    assert (
        judge(
            claim(not_worse("m", "ours", than="theirs", margin=0.0)), numbers([1, 1], [1, 1])
        ).verdict
        == "tie"
    )


ABLATED = better("m", "ours", over="theirs", breaking=("ablation",))


@pytest.mark.parametrize(
    ("ablation", "verdict", "kept"),
    [
        ([0.0, 0.0], "holds", 0.0),
        ([0.5, 0.5], "holds", 0.5),
        ([0.51, 0.5], "fails", 0.505),
        ([-1, -1], "holds", -1),
    ],
)
def test_an_ablation_may_keep_half_the_gain_and_no_more(ablation, verdict, kept):
    found = judge(claim(ABLATED), numbers([1.0, 1.0], [0.0, 0.0], ablation))
    assert found.verdict == verdict
    assert found.judged[0].ablations[0].kept == pytest.approx(kept)
    assert found.judged[0].ablations[0].breaks == (verdict == "holds")


def test_where_no_gain_shows_an_ablation_decides_nothing():
    assert judge(claim(ABLATED), numbers([1.0, -0.9], [0.0, 0.0], [2.0, 2.0])).verdict == "tie"
    fails = judge(claim(ABLATED, floor=-math.inf), numbers([-1.0, -1.1], [0.0, 0.0], [-3.0, -3.0]))
    assert fails.verdict == "fails"
    assert fails.judged[0].ablations[0].kept is None


def test_every_ablation_must_break_it():
    both = better("m", "ours", over="theirs", breaking=("ablation", "other"))
    found = {
        seed: {**arms, "other": {"m": 0.9}}
        for seed, arms in numbers([1.0, 1.1], [0.0, 0.0], [0, 0]).items()
    }
    arms = {name: lambda trial: {} for name in ("ours", "theirs", "ablation", "other")}
    asked = Claim(question="?", seeds=(0, 1, 2), arms=arms, expect=(both,), floor=Floor("m", 0.0))
    assert judge(asked, found).verdict == "fails"


def test_one_failure_fails_and_one_tie_ties():
    good, bad = at_most("m", "ours", 2.0), at_most("m", "ours", 0.5)
    open_ = at_most("m", "ours", 1.0)
    values = numbers([0.9, 1.1], [0.0, 0.0])
    assert (
        judge(claim(at_most("m", "ours", 9.0), at_most("m", "theirs", 0.0)), values).verdict
        == "holds"
    )
    assert judge(claim(at_most("m", "ours", 9.0), open_), values).verdict == "tie"
    exact = numbers([1.0, 1.0], [0.0, 0.0])
    assert judge(claim(good, bad), exact).verdict == "fails"
    assert judge(claim(better("m", "theirs", over="theirs"), bad), exact).verdict == "fails"


def test_under_the_floor_nothing_is_claimed():
    gain = better("m", "ours", over="theirs", breaking=("ablation",))
    values = numbers([0.29, 0.30], [0.1, 0.1], [0.1, 0.1])
    assert judge(claim(gain, floor=0.1), values).verdict == "untrained"
    assert (
        judge(claim(gain, floor=0.1, floor_arms=("ours",)), numbers([0.3, 0.31], [0, 0])).verdict
        == "holds"
    )
    assert (
        judge(claim(gain, floor=0.03), values).verdict == "holds"
    )  # the ablation need not learn, theirs must
    low = judge(claim(gain, floor=0.1), numbers([0.9, 0.9], [0.29, 0.29]))
    assert low.verdict == "untrained"
    assert low.reached == {"ours": 0.9, "theirs": 0.29}


@given(
    st.lists(st.tuples(*[st.integers(-50, 50)] * 3), min_size=2, max_size=6),
    st.integers(-9, 9),
    st.sampled_from(
        [
            better("m", "ours", over="theirs", breaking=("ablation",)),
            equal("m", "ours", "theirs", 8.0),
            not_worse("m", "ours", "theirs", 8.0),
        ]
    ),
)
def test_differences_alone_count_and_smaller_is_better_is_its_mirror(rows, shift, expect):
    def outcome(expect, rows):
        columns = [[float(value) for value in column] for column in zip(*rows, strict=True)]
        return judge(claim(expect, floor=-math.inf), numbers(*columns)).judged[0].outcome

    plain = outcome(expect, rows)
    assert (
        outcome(expect, [tuple(value + shift * at for value in row) for at, row in enumerate(rows)])
        == plain
    )
    if expect.kind != "equal":
        mirrored = type(expect)(**{**vars(expect), "higher": False})
        assert outcome(mirrored, [tuple(-value for value in row) for row in rows]) == plain


def test_a_metric_that_an_arm_did_not_return_is_named():
    with pytest.raises(InputError, match="metric of arm 'ours', seed 0 'r1'; there are: m"):
        judge(claim(at_most("r1", "ours", 1.0)), numbers([1, 1], [1, 1]))


def test_what_is_stored_says_what_the_verdict_follows_from():
    stored = judge(
        claim(ABLATED, floor=0.01), numbers([0.5, 0.7], [0.1, 0.2], [0.1, 0.2])
    ).to_dict()
    [item] = stored["expect"]
    assert (item["says"], item["kind"], item["outcome"]) == (
        "m: ours above theirs",
        "better",
        "tie",
    )
    assert item["values"] == pytest.approx([0.4, 0.5])
    half = item["smallest_effect"]
    assert item["interval"] == pytest.approx([item["mean"] - half, item["mean"] + half])
    assert item["ablations"] == [
        {"arm": "ablation", "kept": 0.0, "breaks": True, "mean": 0.0, "interval": [0.0, 0.0]}
    ]
    assert stored["floor"] == {
        "metric": "m",
        "chance": 0.01,
        "value": 0.03,
        "reached": pytest.approx({"ours": 0.6, "theirs": 0.15}),
    }
