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
from diptych.errors import InputError
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import _catalogue as catalogue
from diptych.lab.claims import proapo
from diptych.lab.claims._catalogue import (
    CLASSES,
    KINDS,
    MOST,
    SHOTS,
    Entry,
    Stock,
    entries,
    photographs,
)
from diptych.lab.joined import Pair
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
    method._scorer = lambda run: SimpleNamespace(labels=torch.tensor([0, 0, 1, 1, 2, 2]))
    proapo.shuffle(method)
    assert method._scorer(None).labels.tolist() == [2, 2, 0, 0, 1, 1]
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


# ---- another model, and photographs


def test_a_number_means_another_class_and_sentences_are_of_it_or_of_its_kind():
    words = [[entry.word for entry in entries(seed)] for seed in (1, 1, 2)]
    assert words[0] == words[1] != words[2]
    assert len(words[0]) == CLASSES == proapo.real.floor.chance**-1
    for entry in entries(3):
        kind = KINDS[entry.name.rpartition(" ")[0]]
        assert entry.true == tuple(kind[entry.word])
        of_others = {text for word in kind if word != entry.word for text in kind[word]}
        assert set(entry.false) <= of_others
        assert [len(entry.true), len(set(entry.false)), len(set(entry.sentences))] == [4, 4, 10]
        assert not any(entry.word in text for text in entry.name.split())


def test_every_class_has_photographs_to_search_by_and_to_test_on(data_pack, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack("imagenet-1k-sample").parent))
    seen = set()
    for kind in KINDS.values():
        for word in kind:
            found = photographs(word, 1)
            assert SHOTS + 3 <= len(found) <= MOST
            again = photographs(word, 2)
            assert [photo.tobytes() for photo in found] != [photo.tobytes() for photo in again]
            mine = {photo.tobytes() for photo in found}
            assert len(mine) == len(found)
            assert not mine & seen
            seen |= mine


def test_a_missing_pack_is_an_error_that_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"set DIPTYCH_DATA to the folder that holds imagenet-1k-"):
        catalogue._pack()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """`tiny` in place of both pairs, and scenes of two things in place of the photographs."""
    classes = [
        Entry(name="thing 1", word="cat", true=("it is a cat.",), false=("it is a fish.",)),
        Entry(name="thing 2", word="fish", true=("it is a fish.",), false=("it is a cat.",)),
    ]
    monkeypatch.setattr(proapo, "entries", lambda seed: classes)
    tests = []
    for entry in classes:
        source = open_source(f"scenes:number=1:objects={entry.word}:styles=seen:count=12")
        images = [source[index].images["main"].decode() for index in range(12)]
        (tmp_path / "photographs" / entry.name).mkdir(parents=True)
        for index in range(SHOTS):
            images[index].save(tmp_path / "photographs" / entry.name / f"{index}.png")
        tests += images[SHOTS:]
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({entry.name: entry.sentences for entry in classes}))
    held = Stock(
        source=Pair("tiny"),
        target=Pair("tiny"),
        data=str(tmp_path / "photographs"),
        sentences=str(path),
        vectors=proapo.load("tiny").embed_images(tests),
        labels=np.repeat([0, 1], 8),
    )
    return Trial(seed=1, folder=tmp_path, quick=True, prelude=held)


def test_found_prompts_are_used_by_the_second_pair_alone_and_beside_votes(shelf):
    found = proapo.real.arms["transferred", "tip_found", "cones_found"](shelf)
    assert set(found) == {"transferred", "tip_found", "cones_found"}
    assert all(numbers["top1"].mean() > 0.9 for numbers in found.values())
    assert found["transferred"]["false"] < 0.5


def test_what_is_not_searched_has_all_sentences_or_none(shelf):
    described = proapo.real.arms["descriptions"](shelf)
    assert (described["false"], described["kept"]) == (0.5, 4)
    assert set(proapo.real.arms["templates"](shelf)) == {"top1"}
    assert len(proapo.real.arms["tip"](shelf)["top1"]) == 16
    assert len(proapo.real.arms["cones"](shelf)["top1"]) == 16


def test_the_search_by_wrong_labels_keeps_the_wrong_sentences(shelf):
    assert proapo.real.arms["misled"](shelf)["top1"].mean() < 0.5
