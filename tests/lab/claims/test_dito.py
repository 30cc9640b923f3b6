"""The claim on random boxes asks what it says: held-out names that no caption has, arms that differ in boxes
and their pooling, windows without training."""

from dataclasses import replace

import pytest
from tests.factories import make_method

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import dito


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=dito.draw(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("dito"))
    assert claim.floor.chance == 1 / 14
    assert claim.learning == ("image", "dito")


def test_no_caption_names_what_is_held_out_and_boxes_have_it(trial):
    novel = trial.prelude["novel"]
    assert len(set(novel)) == dito.HELD_OUT
    learnt = open_source(trial.prelude["learnt"])
    said = {word for sample in learnt for text in sample.captions() for word in text.split()}
    assert not said & {*novel, *(f"{name}s" for name in novel)}
    assert said & set(COMMON)
    boxed = open_source(trial.prelude["boxed"])
    assert not set(learnt.keys()) & set(boxed.keys())
    classes = boxed.schema()["boxes"].classes
    assert set(classes) == set(COMMON)
    names = {classes[box.label] for sample in boxed for box in sample.boxes}
    assert names & set(novel)
    assert names - set(novel)


def test_arms_differ_in_boxes_and_their_pooling_alone(tmp_path, monkeypatch):
    begun = {}
    changes = {}
    routes = {}

    def run(config, folder, change=None):
        name = folder.parent.name
        begun[name] = config
        changes[name] = change

    def measure(model, trial, route):
        routes[trial.folder.name] = route
        return {}

    monkeypatch.setattr(dito, "run", run)
    monkeypatch.setattr(dito, "load", lambda folder: None)
    monkeypatch.setattr(dito, "measure", measure)
    trained = ("start", "image", "dito", "whole_box", "mean")
    for name in trained:
        prelude = {"learnt": "scenes:count=4"}
        dito.claim.arms[name](Trial(seed=3, folder=tmp_path / name, prelude=prelude))
    assert routes == {name: "tokens" if name in trained[:2] else "head" for name in trained}
    assert {name for name, change in changes.items() if change} == {"image"}
    image = begun.pop("image")
    assert (image.method, image.recipe.steps) == ("clip", begun["dito"].recipe.steps)
    assert image.recipe.batch_size == begun["dito"].recipe.batch_size
    assert {
        name: (c.config["regions"], c.config.get("pool", "max")) for name, c in begun.items()
    } == {
        "dito": ("random:count=8", "max"),
        "whole_box": ("grid:side=1", "max"),
        "mean": ("random:count=8", "mean"),
    }
    rate = begun["dito"].recipe.lr * begun["dito"].config["backbone_rate"]
    assert rate == pytest.approx(dito.TOWER_RATE)
    ours = ("regions", "pool")
    same = {
        str(replace(c, config={k: v for k, v in c.config.items() if k not in ours}))
        for c in begun.values()
    }
    assert len(same) == 1


def test_texts_are_held():
    made = make_method("clip")
    dito.hold_texts(made)
    learnt = {name for name, weight in made.named_parameters() if weight.requires_grad}
    assert any(name.startswith("model.image") for name in learnt)
    assert not any(name.startswith("model.text") for name in learnt)


def test_windows_change_what_positions_see(trial, monkeypatch):
    monkeypatch.setattr(dito, "MOVED", 4)
    found = {name: dito.claim.arms[name](trial) for name in ("everywhere", "windowed", "shifted")}
    assert all(0 < each["moved"] < 2 and 0 <= each["boxes"] <= 1 for each in found.values())
    assert len({each["moved"] for each in found.values()}) == 3


def test_one_quick_arm_runs_and_is_measured(trial, tmp_path, brief):
    brief(dito)
    found = dito.claim.arms["dito"](replace(trial, folder=tmp_path))
    assert set(found) == {"novel", "base", "tokens", "values"}
    assert all(0 <= value <= 1 for value in found.values())
