"""The claim on searched prompts: sentences as described, arms that differ in one thing, no scene
twice."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.words import COLOURS, PLACES
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import proapo
from diptych.methods.adapt.proapo import ProAPO
from diptych.methods.adapt.proapo.evolution import Operators


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("proapo"))
    assert claim.floor.chance == 1 / 20
    assert "shuffled" not in claim.learning


@pytest.mark.parametrize("seed", range(3))
def test_each_class_has_four_true_sentences_four_of_others_and_two_shared_ones(seed):
    classes = proapo.varieties(seed)
    assert len({variety.name for variety in classes}) == 20
    for variety in classes:
        assert [len(variety.true), len(variety.false), len(set(variety.sentences))] == [4, 4, 10]
        siblings = [each for each in classes if each.concept == variety.concept]
        assert (
            len({each.colour for each in siblings}) == len({each.place for each in siblings}) == 4
        )
        others = {sentence for each in siblings if each is not variety for sentence in each.true}
        assert set(variety.false) <= others
        assert not set(variety.false) & set(variety.true)
        assert sum(variety.colour in sentence for sentence in variety.true) == 2


def test_most_images_are_typical_and_no_scene_comes_twice(monkeypatch):
    seen = []
    drawn = SimpleNamespace(image=None)
    monkeypatch.setattr(proapo.World, "render", lambda self, scene: seen.append(scene) or drawn)
    for number, variety in enumerate(proapo.varieties(3)[:4]):
        list(proapo.images(variety, 3, 10_000 * number, 100))
        things = [scene.things[0] for scene in seen[-100:]]
        assert 0.7 < np.mean([thing.colour == variety.colour for thing in things]) < 0.95
        assert 0.7 < np.mean([thing.place == variety.place for thing in things]) < 0.95
        assert {thing.concept for thing in things} == {variety.concept}
    assert len({scene.number for scene in seen}) == 400
    assert set(COLOURS) >= {scene.things[0].colour for scene in seen}
    assert set(PLACES) == {scene.things[0].place for scene in seen}


def test_arms_differ_in_one_thing_each(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change

    monkeypatch.setattr(proapo, "run", run)
    monkeypatch.setattr(proapo, "load", lambda folder: SimpleNamespace(classifier=None))
    monkeypatch.setattr(proapo, "measure", lambda sets, trial: {})
    prelude = {"data": "images/", "descriptions": "sentences.json"}
    for name in ("proapo", "accuracy", "edits", "random_groups", "shuffled"):
        proapo.claim.arms[name](Trial(seed=3, folder=tmp_path, prelude=prelude))
    assert {name for name, change in changes.items() if change} == {
        "edits",
        "random_groups",
        "shuffled",
    }
    assert {name: c.config["w_ce"] for name, c in begun.items() if "w_ce" in c.config} == {
        "accuracy": 0.0
    }
    same = {
        str(replace(c, config={k: v for k, v in c.config.items() if k != "w_ce"}))
        for c in begun.values()
    }
    assert len(same) == 1


def test_changes_break_what_they_say():
    method = SimpleNamespace(
        operators=Operators(),
        select_groups=lambda search: [np.arange(7), np.arange(5)],
        _scorer=lambda run: SimpleNamespace(labels=torch.arange(5)),
    )
    proapo.edits_alone(method)
    assert method.operators == Operators(mutate=0, cross=0)
    proapo.random_groups(method)
    groups = method.select_groups(
        SimpleNamespace(rng=np.random.default_rng(0), exists=np.ones((20, 11), bool))
    )
    assert [len(set(group.tolist())) for group in groups] == [7, 5]
    assert not np.array_equal(groups[0], np.arange(7))
    assert max(map(max, groups)) < 20
    proapo.shuffle(method)
    assert method._scorer(None).labels.tolist() == [4, 0, 1, 2, 3]
    assert all(hasattr(ProAPO, name) for name in ("select_groups", "_scorer"))


def test_quick_arms_run_and_count_what_is_kept(tmp_path):
    (tmp_path / "prelude").mkdir()
    trial = Trial(seed=5, folder=tmp_path / "prelude", quick=True)
    prelude = proapo.draw(trial)
    source = open_source(prelude["data"])
    assert sorted(source.schema()["labels.class"].classes) == sorted(
        variety.name for variety in proapo.varieties(5)
    )
    assert len(source) == 20
    assert prelude["vectors"].shape == (100, 192)
    assert all(
        len(sentences) == 10
        for sentences in json.loads(Path(prelude["descriptions"]).read_text()).values()
    )
    trial = replace(trial, prelude=prelude)
    described = proapo.claim.arms["descriptions"](trial)
    assert described["false"] == 0.5
    assert described["kept"] == 10
    assert set(proapo.claim.arms["single"](trial)) == {"top1"}
    (tmp_path / "arm").mkdir()
    searched = proapo.claim.arms["edits"](replace(trial, folder=tmp_path / "arm"))
    assert 0 < searched["kept"] < 10
    assert searched["top1"].mean() > described["top1"].mean() - 0.1
