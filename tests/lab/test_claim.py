"""Claims as files: what they must say, and how they are found."""

import pytest

from diptych.errors import InputError
from diptych.lab.claim import (
    SEEDS,
    Claim,
    Control,
    Floor,
    Tuned,
    at_most,
    better,
    block,
    equal,
    find,
    names,
    not_worse,
)

ARMS = {"ours": lambda trial: {}, "theirs": lambda trial: {}, "broken": lambda trial: {}}
GAIN = better("r1", "ours", over="theirs")
NAMES = Control(metric="top1", arm="broken", coefficient=0.5, mean=0.2)
UNKNOWN = Control(metric="r1", arm="x", coefficient=1, mean=0)


def claim(**changed):
    plain = {
        "question": "?",
        "arms": ARMS,
        "headline": (GAIN,),
        "mechanism": ("broken",),
        "delta": 0.1,
        "floor": Floor("r1", 0.1),
    }
    return Claim(**{**plain, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"looks": (3,)}, r"looks after \(3,\) seeds; declare \(5,\) or \(5, 10\)"),
        ({"headline": ()}, "no headline"),
        ({"arms": {"a/b": print}}, "'a/b' cannot be the name of a folder"),
        (
            {"headline": (better("r1", "our", over="theirs"),)},
            "arm of a claim 'our'; did you mean 'ours'",
        ),
        ({"checks": (better("r1", "ours", over="thiers"),)}, "did you mean 'theirs'"),
        (
            {
                "checks": (
                    better(
                        "r1",
                        "ours",
                        over="theirs",
                        control=UNKNOWN,
                    ),
                )
            },
            "arm of a claim 'x'",
        ),
        ({"mechanism": ("borken",)}, "did you mean 'broken'"),
        (
            {"headline": (at_most("r1", "ours", 1.0),)},
            "no expectation of the headline is `better`",
        ),
        ({"checks": (equal("r1", "ours", to="theirs", margin=-0.1),)}, "the margin is -0.1"),
        (
            {"headline": (GAIN, equal("r1", "ours", to="theirs", margin=0.2))},
            "the margin is above delta, 0.1",
        ),
        ({"delta": 0.0}, "has no delta"),
        ({"edition": 0}, "the first is 1"),
        (
            {"tuned": Tuned(effect=0.3, sd=0.1, best=0.6, chance=0.1, seconds=1)},
            "delta is 0.1, above a tenth",
        ),
        ({"rates": {"ours": {0.1: 0.3, 0.2: 0.4, 0.4: 0.5}}}, "the best 0.4; try three or more"),
        ({"rates": {"ours": {0.1: 0.3, 0.2: 0.4}}}, "try three or more"),
        ({"floor": Floor("r1", 0.1, ("our",))}, "'our'; did you mean 'ours'"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        claim(**changed)


def test_what_a_claim_may_be():
    found = claim(
        tuned=Tuned(effect=0.3, sd=0.1, best=1.1, chance=0.1, seconds=1),
        rates={"ours": {0.1: 0.3, 0.2: 0.5, 0.4: 0.4}},
        looks=(5, 10),
    )
    assert found.seeds == SEEDS[:10] == tuple(range(200, 210))
    assert claim(edition=2).seeds == tuple(range(220, 225))
    several = claim(arms={("ours", "theirs"): print, "broken": print})
    assert several.names == ("ours", "theirs", "broken")
    bytes_alone = at_most("bytes", "ours", 4, exact=True)
    assert claim(headline=(bytes_alone,), mechanism=(), delta=0.0).delta == 0


def test_each_metric_of_a_headline_may_have_a_delta():
    both = (better("rank", "ours", over="theirs"), not_worse("r1", "ours", "theirs", 0.05))
    found = claim(headline=both, delta={"rank": 2.0, "r1": 0.05})
    assert (found.delta_of("rank"), found.delta_of("r1")) == (2.0, 0.05)
    for delta in ({"rank": 2.0, "r1": 0.04}, {"r1": 0.05}):
        with pytest.raises(InputError, match="above delta, 0.04|no delta of rank"):
            claim(headline=both, delta=delta)


def test_delta_is_a_tenth_of_the_gain_where_smaller_is_better_too():
    lower = (better("loss", "ours", over="theirs", higher=False),)
    tuned = Tuned(effect=0.4, sd=0.1, best=0.6, chance=1.0, seconds=1)
    floor = Floor("r1", 0.1)
    assert claim(headline=lower, delta=0.04, tuned=tuned, floor=floor).delta == 0.04
    with pytest.raises(InputError, match="delta is 0.05, above a tenth of what lies between"):
        claim(headline=lower, delta=0.05, tuned=tuned, floor=floor)


def test_what_an_arm_must_return_follows_from_what_is_judged():
    asked = claim(
        checks=(
            at_most("bytes", "theirs", 4),
            better(
                "r5",
                "ours",
                over="theirs",
                control=NAMES,
            ),
        ),
        floor=Floor("loss", 0.1),
    )
    assert asked.needs("ours") == {"r1", "r5", "loss"}
    assert asked.needs("theirs") == {"r1", "r5", "bytes", "loss"}
    assert asked.needs("broken") == {"r1", "top1"}


@pytest.mark.parametrize(
    ("chance", "floor"),
    [(0.0, 0.0), (0.002, 0.006), (0.2, 0.6), (0.21, 0.447), (0.5, 0.65), (1.0, 1.0)],
)
def test_the_floor_is_thrice_chance_or_three_tenths_of_the_way(chance, floor):
    assert Floor("r1", chance).value == pytest.approx(floor)


def test_a_floor_may_be_higher_than_that_of_chance():
    assert Floor("r1", 0.1, least=0.4).value == 0.4
    assert Floor("r1", 0.1, least=0.2).value == pytest.approx(0.3)


def test_what_is_shown_and_what_must_learn_follow_from_what_is_expected():
    assert claim().shown == ("r1",)
    assert claim(checks=(at_most("bytes", "ours", 1),), floor=Floor("r5", 0.1)).shown == (
        "r1",
        "bytes",
        "r5",
    )
    assert claim(table=("loss",)).shown == ("loss",)
    assert claim().learning == ("ours", "theirs")
    assert claim(floor=Floor("r1", 0.1, ("ours",))).learning == ("ours",)


def test_expectations_in_words():
    assert str(GAIN) == "r1: ours above theirs"
    assert str(better("gap", "ours", over="theirs", higher=False)) == "gap: ours below theirs"
    assert (
        str(not_worse("r1", "ours", than="theirs", margin=0.02))
        == "r1: ours not worse than theirs by 0.02"
    )
    assert str(equal("r1", "ours", to="theirs", margin=0.02)) == "r1: ours within 0.02 of theirs"
    assert str(at_most("bytes", "ours", 4.0)) == "bytes: ours at most 4"


FILE = """
from __future__ import annotations
from dataclasses import dataclass
from diptych.lab.claim import Claim, Floor, at_most

@dataclass(frozen=True)
class Size:
    width: int = 3

claim = Claim(question="?", arms={"a": lambda trial: {"m": Size().width}},
              headline=(at_most("m", "a", 3),), floor=Floor("m", 0.1))
other = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gap.py").write_text(FILE)
    (tmp_path / "_shared.py").write_text("")
    return tmp_path


def test_claims_are_found_by_folder_and_by_path(folder):
    assert names(folder) == ["gap"]
    assert find("gap", folder) == folder / "gap.py"
    assert find(str(folder / "gap.py")) == folder / "gap.py"
    with pytest.raises(InputError, match="unknown claim 'gpa'; did you mean 'gap'"):
        find("gpa", folder)
    with pytest.raises(InputError, match="there is no such file"):
        find(str(folder / "gpa.py"))


def test_a_block_is_the_claim_of_that_name(folder):
    assert block(folder / "gap.py").arms["a"](None) == {"m": 3}
    for name in ("real", "other"):
        with pytest.raises(InputError, match=f"has no {name} = Claim"):
            block(folder / "gap.py", name)
