"""The claim on images of several styles asks what it says: equal steps and images, groups and
losses as named."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.data.templates import templates
from diptych.data.worlds.scenes.words import RESERVED_STYLES, STYLES
from diptych.lab import adapting
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import mocoop


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("mocoop"))
    assert claim.floor.chance == 1 / len(adapting.classes(0)[0])
    assert {*mocoop.STYLES} == {*STYLES} - {
        *RESERVED_STYLES
    }  # templates name what the model knows, and nothing else


def test_arms_differ_in_groups_losses_and_norms_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        adapting, "run", lambda config, folder, change=None: begun.__setitem__(name, config)
    )
    monkeypatch.setattr(adapting, "load", lambda folder: None)
    monkeypatch.setattr(mocoop, "load", lambda name: None)
    given = {}
    accuracies = ("top1", "base_top1", "novel_top1", "harmonic", "worst_group_top1")

    def evaluate(model, source, suites, **how):
        given.setdefault(name, how)
        return {"zeroshot": dict.fromkeys(accuracies, 0.5)}

    monkeypatch.setattr(mocoop, "evaluate", evaluate)
    monkeypatch.setattr(mocoop, "open_source", lambda spec: None)
    for name, arm in mocoop.claim.arms.items():  # noqa: B007  (the patched functions read it)
        arm(
            Trial(
                seed=3,
                folder=tmp_path,
                prelude={
                    "train": "scenes:count=4",
                    "test": "scenes",
                    "shifted": "scenes",
                    "novel": ["red cat"],
                },
            )
        )
    assert {name: how["templates"] for name, how in given.items() if "templates" in how} == {
        "names": (adapting.TEMPLATE,),
    }
    assert all(how["group"] == "style" for how in given.values())
    reported = {
        name: (
            len(c.config.get("templates", ())),
            c.config.get("gate", 1.0),
            c.config.get("text", 5.0),
            c.config.get("norms", 0.1),
            c.config.get("k", 2),
        )
        for name, c in begun.items()
    }
    assert reported.pop("coop")[0] == 0
    assert reported == {
        "mocoop": (6, 1.0, 5.0, 0.1, 2),
        "ungated": (6, 0.0, 5.0, 0.1, 2),
        "untaught": (6, 1.0, 0.0, 0.1, 2),
        **dict.fromkeys(("mocoop_1", "mocoop_4"), (6, 1.0, 5.0, 0.1, 2)),
        **dict.fromkeys(("one", "one_1", "one_4"), (1, 1.0, 5.0, 0.1, 1)),
    }
    shots = {name: c.data["train"].partition("shots=")[2][:1] for name, c in begun.items()}
    assert {name: count for name, count in shots.items() if count} == {
        "mocoop_1": "1",
        "one_1": "1",
        "mocoop_4": "4",
        "one_4": "4",
    }
    assert all("names" not in c.config for c in begun.values())  # no name of a novel class
    assert (
        len(
            {
                str(
                    replace(
                        c,
                        method="",
                        data={},
                        config={},
                        recipe=replace(c.recipe, epochs=1.0, lr=1.0),
                    )
                )
                for c in begun.values()
            }
        )
        == 1
    )
    [one] = begun["one"].config["templates"].values()
    assert tuple(one) == templates("styles")


def test_what_a_router_tells_of_the_style_is_its_information():
    source = open_source("scenes:count=12:number=1:size=32:styles=seen")
    styles = [sample.labels["style"] for sample in source]
    assert len(set(styles)) > 2

    class Guide:
        def __init__(self, groups):
            self.groups = groups

        def route(self, images):
            return [((str(group), 0.7), ("other", 0.3)) for group in self.groups]

    shares = [styles.count(style) / 12 for style in set(styles)]
    from math import log

    assert mocoop.routed(Guide(styles), source) == pytest.approx(
        -sum(share * log(share) for share in shares)
    )
    assert mocoop.routed(Guide([0] * 12), source) == pytest.approx(0)


def test_one_quick_arm_runs(tmp_path):
    trial = Trial(seed=5, folder=tmp_path / "prelude", quick=True)
    prelude = mocoop.prelude(trial)
    (tmp_path / "arm").mkdir()
    found = mocoop.claim.arms["mocoop"](replace(trial, folder=tmp_path / "arm", prelude=prelude))
    assert set(found) == {"base", "novel", "H", "worst", "shifted", "style"}
    assert found["style"] >= 0
    assert 0 < found["worst"] < found["base"] <= 1
