"""The rule: outcomes of each expectation, looks, mechanism, checks, floors, and how often it errs."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diptych.errors import InputError
from diptych.lab.claim import (
    CONVERGENCE,
    LOOKS,
    Claim,
    Control,
    Floor,
    Tuned,
    at_most,
    better,
    equal,
    not_worse,
)
from diptych.lab.statistics import (
    expected_seeds,
    headline_outcomes,
    holm,
    interval,
    mechanism_outcomes,
    p_values,
    power,
    smallest_effect,
    standard_error,
)
from diptych.lab.verdict import judge

GAIN = better("m", "ours", over="theirs")


def claim(*headline, floor=-math.inf, arms=(), **options):
    options = {"delta": 0.1, "looks": (5,), **options}
    names = ("ours", "theirs", "ablation", "other", *arms)
    return Claim(
        question="?",
        arms={name: lambda trial: {} for name in names},
        headline=headline or (GAIN,),
        floor=Floor("m", floor, arms=("ours", "theirs")),
        **options,
    )


def numbers(ours, theirs=None, ablation=None, other=None):
    """The metric m of each arm, seed by seed."""
    theirs = theirs or [0.0] * len(ours)
    columns = {
        "ours": ours,
        "theirs": theirs,
        "ablation": ablation or theirs,
        "other": other or theirs,
    }
    return {
        200 + at: {arm: {"m": column[at]} for arm, column in columns.items()}
        for at in range(len(ours))
    }


# ---- one expectation


@pytest.mark.parametrize("level", LOOKS.values())
@pytest.mark.parametrize("n", [5, 10, 20])
def test_p_values_and_intervals_are_those_of_a_paired_t_test(level, n):
    d = np.random.default_rng(n).normal(0.3, 1, n)
    error = standard_error(d)
    holds, fails = p_values("better", 0.0, d, error)
    assert holds == pytest.approx(stats.ttest_1samp(d, 0, alternative="greater").pvalue, rel=1e-9)
    assert fails == pytest.approx(1 - holds, rel=1e-9)
    found = interval(d.tolist(), level)
    low, high = stats.t.interval(1 - 2 * level, n - 1, d.mean(), stats.sem(d))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@settings(deadline=None)
@given(
    st.lists(st.floats(-2, 2).map(lambda value: round(value, 6)), min_size=5, max_size=5),
    st.sampled_from(
        [GAIN, not_worse("m", "ours", "theirs", 0.1), equal("m", "ours", "theirs", 0.1)]
    ),
)
def test_outcomes_are_where_the_interval_lies(values, expect):
    if len(set(values)) == 1:
        return
    judged = judge(claim(expect), numbers(values)).headline[0]
    low, high = judged.interval.low, judged.interval.high
    m = expect.bound
    wanted = {
        "better": (low > 0, high < 0),
        "not_worse": (low > -m, high < -m),
        "equal": (-m <= low and high <= m, low > m or high < -m),
    }[expect.kind]
    near = min(abs(edge - at) for edge in (low, high) for at in (0, m, -m)) < 1e-9
    if not near:
        assert judged.outcome == ("holds" if wanted[0] else "fails" if wanted[1] else "undecided")


def test_smaller_is_better_is_the_mirror():
    rows = [0.3, 0.1, 0.25, 0.2, 0.15]
    down = better("m", "ours", over="theirs", higher=False)
    assert judge(claim(GAIN), numbers(rows)).verdict == "holds"
    assert judge(claim(down), numbers(rows)).verdict == "fails"
    assert judge(claim(down), numbers([-value for value in rows])).verdict == "holds"


def test_equal_values_decide_nothing_unless_they_are_exact():
    same = numbers([1.0] * 5)
    assert judge(claim(at_most("m", "ours", 1.0)), same).verdict == "undecided"
    assert judge(claim(at_most("m", "ours", 1.0)), same).headline[0].interval is None
    for bound, verdict in ((1.0, "holds"), (0.99, "fails")):
        assert judge(claim(at_most("m", "ours", bound, exact=True)), same).verdict == verdict
    level = better("m", "ours", over="theirs", exact=True)
    assert judge(claim(level), numbers([0.0] * 5)).verdict == "null"
    assert judge(claim(level), same).verdict == "holds"


def test_items_bound_the_error_from_below():
    """By hand: 5 seeds of 100 items whose differences have variance .09."""
    pairs = {200 + at: {str(GAIN): (100, 0.09)} for at in range(5)}
    close = numbers([0.1, 0.1, 0.1, 0.1, 0.11])
    assert judge(claim(), close).verdict == "holds"
    judged = judge(claim(delta=0.01), close, pairs).headline[0]
    half = stats.t.isf(0.025, 4) * math.sqrt(0.09 / 500)
    assert judged.interval.half == pytest.approx(half)
    same = judge(claim(one_test_set=True), close, pairs).headline[0]
    spread = np.var([0.1, 0.1, 0.1, 0.1, 0.11], ddof=1) / 5
    assert same.interval.half == pytest.approx(
        stats.t.isf(0.025, 4) * math.sqrt(spread + 0.09 / 100)
    )
    assert judge(claim(delta=0.01), numbers([0.1] * 5), pairs).headline[0].interval is not None


def test_a_control_variate_is_taken_off():
    control = Control(metric="m", arm="other", coefficient=0.5, mean=0.4)
    beside = [0.1, 0.3, 0.5, 0.7, 0.9]
    ours = [0.02 + 0.5 * z + at / 1000 for at, z in enumerate(beside)]
    expect = better("m", "ours", over="theirs", control=control)
    judged = judge(claim(expect), numbers(ours, other=beside)).headline[0]
    assert judged.values == pytest.approx([0.22 + at / 1000 for at in range(5)])
    assert judged.outcome == "holds"


# ---- the headline and its looks


def test_a_gain_within_delta_is_null_and_comes_before_holds():
    tiny = numbers([0.011, 0.012, 0.013, 0.012, 0.012])
    assert judge(claim(delta=0.1), tiny).verdict == "null"
    assert judge(claim(delta=0.001), tiny).verdict == "holds"
    both = claim(GAIN, at_most("m", "ours", 1.0), delta=0.1)
    assert judge(both, tiny).verdict == "holds"  # of several, none is null


def test_all_hold_or_one_fails_at_its_share_of_the_level():
    high = at_most("m", "theirs", 1.0, exact=True)
    gain = numbers([0.3, 0.35, 0.4, 0.3, 0.33])
    assert judge(claim(GAIN, high), gain).verdict == "holds"
    low = at_most("m", "theirs", -1.0, exact=True)
    assert judge(claim(GAIN, low), gain).verdict == "fails"
    # A loss whose p is between alpha / 2 and alpha fails alone, and not as one of two.
    loss = np.array([-2.0, -0.6, -1.0, -0.6, -0.3])
    p = float(p_values("better", 0.0, loss, standard_error(loss))[1])
    assert 0.0125 < p < 0.025
    assert judge(claim(), numbers(loss.tolist())).verdict == "fails"
    assert judge(claim(GAIN, high), numbers(loss.tolist())).verdict == "undecided"


def test_a_look_that_decides_is_frozen_and_later_seeds_change_nothing():
    first = [0.3, 0.32, 0.31, 0.29, 0.3]
    rest = [-5.0, -4.0, -6.0, -5.5, -5.2]
    one = judge(claim(looks=(5, 10)), numbers(first))
    two = judge(claim(looks=(5, 10)), numbers(first + rest))
    assert (one.verdict, one.seeds, one.open_look) == ("holds", 5, None)
    assert (two.verdict, two.seeds) == ("holds", 5)
    assert two.headline == one.headline
    open_ = judge(claim(looks=(5, 10)), numbers([0.5, -0.5, 0.4, -0.3, 0.2]))
    assert (open_.verdict, open_.open_look) == ("undecided", 10)
    assert judge(claim(looks=(5,)), numbers([0.5, -0.5, 0.4, -0.3, 0.2])).open_look is None


def test_an_undecided_headline_says_how_many_seeds_would_decide():
    values = [0.5, -0.4, 0.45, 0.1, 0.3]
    found = judge(claim(delta=0.01), numbers(values))
    assert found.verdict == "undecided"
    d = np.array(values)
    n = found.would_decide
    error = d.std(ddof=1) / math.sqrt(n)
    assert smallest_effect(error, n, 0.025) <= d.mean() * 1.02
    assert smallest_effect(d.std(ddof=1) / math.sqrt(n - 3), n - 3, 0.025) > d.mean() * 0.98


# ---- the mechanism


@pytest.mark.parametrize(
    ("kept", "outcome"), [(0.0, "shown"), (-1.0, "shown"), (0.5, "undecided"), (1.0, "not shown")]
)
def test_an_ablation_loses_half_the_gain_or_it_does_not(kept, outcome):
    gain = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
    noise = np.array([0.02, -0.01, 0.015, -0.02, -0.005])
    found = judge(
        claim(mechanism=("ablation",)),
        numbers(gain.tolist(), ablation=(kept * gain + noise).tolist()),
    )
    assert found.verdict == "holds"
    assert found.mechanism.outcome == outcome
    assert found.mechanism.ablations[0].kept == pytest.approx(kept, abs=0.01)
    assert found.open_look is None


def test_every_ablation_must_lose_it_and_it_is_asked_only_of_a_gain():
    gain = [1.0, 1.1, 0.9, 1.05, 0.95]
    two = claim(mechanism=("ablation", "other"))
    keeps = numbers(gain, ablation=[0.01, 0.0, 0.02, 0.0, 0.01], other=[0.9, 1.0, 0.85, 1.0, 0.9])
    assert judge(two, keeps).mechanism.outcome == "not shown"
    assert judge(two, numbers([0.5, -0.5, 0.2, -0.1, 0.1])).mechanism is None


def test_seeds_go_on_for_an_open_mechanism_alone():
    gain = [1.0, 1.1, 0.9, 1.05, 0.95]
    unsure = [0.9, 0.1, 0.5, 0.2, 0.6]
    asked = claim(mechanism=("ablation",), looks=(5, 10))
    first = judge(asked, numbers(gain, ablation=unsure))
    assert (first.verdict, first.mechanism.outcome, first.open_look) == ("holds", "undecided", 10)
    later = judge(asked, numbers(gain * 2, ablation=[*unsure, *[0.1, 0.0, 0.05, 0.1, 0.0]]))
    assert (later.seeds, later.mechanism.seeds) == (5, 10)


# ---- checks


def test_holm_is_that_of_statsmodels_definition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(0, 0.1, 5)
        ranks = np.sort(p)
        alive = 0
        while alive < 5 and ranks[alive] <= 0.025 / (5 - alive):
            alive += 1
        assert sum(holm(p.tolist(), 0.025)) == alive
        assert all(holm(p.tolist(), 0.025)[at] for at in np.argsort(p)[:alive])


def test_checks_decide_nothing_and_are_judged_together():
    checks = [at_most("m", "ours", bound) for bound in (0.5, 0.62, 0.9)]
    found = judge(claim(checks=checks), numbers([0.6, 0.61, 0.59, 0.6, 0.605]))
    assert found.verdict == "holds"
    assert [item.outcome for item in found.checks] == ["fails", "holds", "holds"]
    many = [at_most("m", "ours", 0.625) for _ in range(40)]
    alone = judge(claim(checks=many[:1]), numbers([0.6, 0.62, 0.58, 0.6, 0.61]))
    among = judge(claim(checks=many), numbers([0.6, 0.62, 0.58, 0.6, 0.61]))
    assert alone.checks[0].outcome == "holds"
    assert among.checks[0].outcome == "undecided"


# ---- untrained


def test_an_arm_under_the_floor_in_more_than_a_tenth_of_the_seeds_is_untrained():
    ours = [0.5, 0.52, 0.51, 0.5, 0.49]
    theirs = [0.4, 0.41, 0.4, 0.0, 0.4]
    found = judge(claim(floor=0.1), numbers(ours, theirs))
    assert found.verdict == "untrained"
    assert found.under == {"ours": 0, "theirs": 1}
    assert "theirs is under the floor of 0.3 in 1 of 5 seeds" in found.reasons
    spared = judge(claim(floor=0.1, looks=(5, 10)), numbers(ours * 2, [*theirs, *[0.4] * 5]))
    assert spared.verdict != "untrained"


def test_the_next_look_is_due_where_it_can_bring_an_arm_within_the_tenth():
    ours = [0.5, 0.52, 0.51, 0.5, 0.49]
    for under, looks, due in (
        (1, (5,), None),
        (1, (5, 10), 10),
        (2, (5, 10), None),
        (2, (5, 10, 20), 10),
        (3, (5, 10, 20), None),
    ):
        theirs = [0.0] * under + [0.4] * (5 - under)
        found = judge(claim(floor=0.1, looks=looks), numbers(ours, theirs))
        assert (found.verdict, found.open_look) == ("untrained", due)


def twice(once, later):
    """The metrics of the headline's arms on the tuning seeds, at the steps and at twice as many."""
    found = {}
    for at, seed in enumerate(CONVERGENCE):
        found[seed] = {"ours": {"m": once[at]}, "theirs": {"m": 0.0}}
        found[-seed] = {"ours": {"m": later[at]}, "theirs": {"m": 0.0}}
    return found


def test_a_headline_that_moves_with_more_steps_is_untrained():
    good = numbers([0.5, 0.52, 0.51, 0.5, 0.49])
    for later, verdict in (
        ([0.5, 0.5, 0.5], "untrained"),
        ([0.1, 0.1, 0.1], "untrained"),
        ([0.5, 0.5, 0.35], "holds"),
    ):
        found = judge(claim(delta=0.05), good, twice=twice([0.3, 0.3, 0.3], later))
        assert found.verdict == verdict
        assert found.moved[0].by == pytest.approx([value - 0.3 for value in later])


def test_a_headline_moves_by_the_delta_of_its_metric():
    good = numbers([0.5, 0.52, 0.51, 0.5, 0.49])
    moved = twice([0.3, 0.3, 0.3], [0.5, 0.5, 0.5])
    assert judge(claim(delta={"m": 0.3}), good, twice=moved).verdict == "holds"
    assert judge(claim(delta={"m": 0.1}), good, twice=moved).verdict == "untrained"


def test_a_metric_that_an_arm_did_not_return_is_named():
    with pytest.raises(InputError, match="metric of arm 'ours', seed 200 'r1'; there are: m"):
        judge(claim(at_most("r1", "ours", 1.0)), numbers([1, 1, 1, 1, 2]))


# ---- how often it errs


def looked(d, looks, level, delta, expect=GAIN):
    """The verdicts of many cases d (cases, n) under a sequence of looks."""
    alive = np.ones(len(d), bool)
    found = np.full(len(d), "undecided", dtype="U9")
    for look in looks:
        part = d[:, :look]
        outcome = headline_outcomes([(expect, part, standard_error(part))], level, delta)
        now = alive & (outcome != "undecided")
        found[now] = outcome[now]
        alive &= ~now
    return found


@pytest.mark.parametrize("looks", LOOKS)
def test_of_claims_without_an_effect_at_most_2_6_percent_hold(looks):
    rng = np.random.default_rng(1)
    d = rng.normal(0, 1, (200_000, looks[-1]))
    held = looked(d, looks, LOOKS[looks], delta=0.01) == "holds"
    assert held.mean() <= 0.026
    edge = rng.normal(-0.5, 1, (200_000, looks[-1]))
    held = looked(edge, looks, LOOKS[looks], 0.5, not_worse("m", "ours", "theirs", 0.5)) == "holds"
    assert held.mean() <= 0.026


def test_an_effect_of_one_standard_deviation_is_found():
    rng = np.random.default_rng(2)
    for looks, least in (((5,), 0.39), ((5, 10), 0.72), ((5, 10, 20), 0.95)):
        d = rng.normal(1, 1, (20_000, looks[-1]))
        assert (looked(d, looks, LOOKS[looks], delta=0.01) == "holds").mean() >= least


@pytest.mark.parametrize("looks", LOOKS)
@pytest.mark.parametrize(("kept", "wrong"), [(0.4, "not shown"), (0.6, "shown")])
def test_a_mechanism_is_rarely_called_what_it_is_not(looks, kept, wrong):
    """Gains of 2.5 standard deviations; an ablation truly keeps .4 or .6 of them."""
    rng = np.random.default_rng(3)
    gain = rng.normal(2.5, 1, (20_000, looks[-1]))
    own = kept * 2.5 + rng.normal(0, 1, gain.shape)
    alive = np.ones(len(gain), bool)
    called = np.zeros(len(gain), bool)
    for look in looks:
        half = (gain / 2 - own)[:, :look]
        outcome = mechanism_outcomes([(half, standard_error(half))], LOOKS[looks])
        called |= alive & (outcome == wrong)
        alive &= outcome == "undecided"
    assert called.mean() <= 0.05


# ---- power


def test_the_smallest_effect_is_found_in_four_of_five_runs():
    rng = np.random.default_rng(4)
    for n, level in ((5, 0.025), (10, 0.014), (20, 0.0096)):
        effect = smallest_effect(1 / math.sqrt(n), n, level)
        d = rng.normal(effect, 1, (40_000, n))
        found = p_values("better", 0.0, d, standard_error(d))[0] <= level
        assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_power_and_expected_seeds_are_those_of_the_looks():
    asked = claim(
        delta=0.01, looks=(5, 10, 20), tuned=Tuned(effect=1.0, sd=1.0, best=2.0, seconds=60)
    )
    by_look = power(asked)
    assert [look for look, _ in by_look] == [5, 10, 20]
    assert all(one < two for (_, one), (_, two) in pairwise(by_look))
    assert by_look[-1][1] >= 0.95
    assert 10 < expected_seeds(asked) < 14  # the review simulated 12.4


def test_what_is_stored_says_what_the_verdict_follows_from():
    found = judge(
        claim(mechanism=("ablation",), checks=[at_most("m", "ours", 9.0)], floor=0.01),
        numbers([0.5, 0.7, 0.6, 0.55, 0.65], [0.1, 0.2, 0.1, 0.2, 0.15]),
    ).to_dict()
    [item] = found["headline"]
    assert (item["says"], item["kind"], item["outcome"]) == (
        "m: ours above theirs",
        "better",
        "holds",
    )
    assert item["values"] == pytest.approx([0.4, 0.5, 0.5, 0.35, 0.5])
    low, high = item["interval"]
    assert low < item["mean"] < high
    assert item["smallest_effect"] > (high - low) / 2
    assert found["decided_at"] == 5
    assert found["mechanism"]["outcome"] == "shown"
    assert found["checks"][0]["outcome"] == "holds"
    assert found["floor"]["under"] == {"ours": 0, "theirs": 0}
