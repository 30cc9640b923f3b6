"""The claim on the search asks what it says: the programs of each arm, searches of equal size, a task that
was not searched on."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import discover
from diptych.lab.discover import Discovery
from diptych.training.programs.known import adamw


@pytest.fixture
def searches(monkeypatch):
    """The searches that are begun, none of which is run: each has an own program by name."""
    begun = []

    def search(config, out, **options):
        begun.append((config, out.name, options))
        names = ("best.py", "found 1", "found 2", "AdamW, tuned")
        rows = [
            {"program": name, "proxy": loss, "text": f"{out.name} {name}"}
            for name, loss in zip(names, (2.0, 3.0, 1.5, 1.0), strict=True)
        ]
        return Discovery(path=out / "best.py", evaluated=6, rows=rows)

    monkeypatch.setattr(discover, "discover", search)
    return begun


def test_arms_have_the_program_that_they_say(tmp_path, searches):
    found = discover.search(Trial(seed=3, folder=tmp_path))
    assert found == {
        "adamw": "evolution AdamW, tuned",
        "evolution": "evolution best.py",
        "unselected": "evolution found 2",
        "random": "random best.py",
    }


def test_searches_differ_in_their_kind_alone(tmp_path, searches):
    discover.search(Trial(seed=3, folder=tmp_path))
    [(config, first, options), (other, second, others)] = searches
    assert (first, second) == ("evolution", "random")
    assert config == other
    assert replace(options["settings"], kind="random") == others["settings"]
    for name in ("held", "test", "sizes"):
        assert options[name] == others[name]


def test_the_task_that_is_judged_was_not_searched_on(tmp_path):
    trial = Trial(seed=3, folder=tmp_path, quick=True)
    searched = discover.task(trial, "searched", 4)
    judged = discover.task(trial, "judged", 4)
    assert searched.image_tower != judged.image_tower
    sources = [
        searched.data["train"],
        judged.data["train"],
        discover.held(trial, discover.SEARCHED, "val"),
        discover.held(trial, discover.SEARCHED, "test"),
        discover.held(trial, discover.JUDGED, "test"),
    ]
    texts = [set(open_source(source)[0].captions()) for source in sources]
    assert len(set.union(*texts)) == len(sources)
    assert not set(discover.SEEDS) & {0, 1, 2}  # of the search and its longer task


def test_a_run_that_diverges_is_worth_nothing():
    assert discover.below_chance(float("inf")) == 0
    assert discover.below_chance(100.0) == 0


def test_floor_and_mechanism():
    claim = block(find("discover"))
    assert claim.learning == ("adamw", "evolution", "random")
    assert claim.mechanism == ("unselected",)


def test_an_arm_is_judged_at_a_given_rate(tmp_path):
    trial = Trial(seed=3, folder=tmp_path, quick=True, prelude={"adamw": str(adamw())})
    found = discover.judged("adamw", rate=1e-3)(trial)
    assert set(found) == set(discover.claim.table)
    assert found["rate"] == 1e-3
    assert found["statements"] == len(adamw().statements)
    assert found["nats"] >= 0
