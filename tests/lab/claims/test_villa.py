"""The claim on maps of regions asks what it says: equal budgets, arms that differ in the map and the units of
the contrast, a held-out test that all share."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.data.worlds.docmnist.words import ATTRIBUTES
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import villa

THERE = torch.tensor([[True, True, True, False], [True, True, False, False]])


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(villa, "BUDGET", 12000)
        patch.setattr(villa, "BASE", 960)
        patch.setattr(villa, "MEASURED", 80)
        patch.setattr(villa, "TOWER", "conv:image_size=24:widths=(8,16):depths=(1,1)")
        return replace(trial, prelude=villa.begin(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("villa"))
    assert claim.learning == ("whole", "villa")
    assert {claim.floor.metric} <= claim.needs("whole") & claim.needs("villa")


def test_chance_is_the_mean_share_of_cells_that_have_an_attribute():
    world = open_source("docmnist:complexity=16:count=60")
    held = [box.text.split(", ") for sample in world for box in sample.boxes]
    shares = [sum(name in own for own in held) / len(held) for name in ATTRIBUTES]
    assert abs(sum(shares) / len(shares) - villa.CHANCE) < 0.02


def test_pages_of_both_complexities_have_as_many_pairs(trial):
    pairs = {}
    for name in ("pages4", "pages16"):
        source = open_source(trial.prelude[name])
        pairs[name] = sum(int(sample.labels["pairs"]) for sample in source)
    assert all(800 - 16 < found <= 800 for found in pairs.values())


def test_no_page_is_in_two_sources(trial):
    names = ("base", "pages4", "test")
    keys = [set(open_source(trial.prelude[name]).keys()) for name in names]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_arms_differ_in_the_map_and_the_units_alone(tmp_path, monkeypatch):
    begun = {}
    changes = {}

    def run(config, folder, change=None):
        begun.setdefault(name, []).append(config)
        changes[name] = change
        folder.mkdir(parents=True)
        (folder / "mapping.json").write_text('{"f1": 0.5}', encoding="utf-8")

    monkeypatch.setattr(villa, "run", run)
    monkeypatch.setattr(villa, "load", lambda folder: None)
    monkeypatch.setattr(villa, "measure", lambda model, trial: 0.5)
    prelude = {"pages4": "docmnist:complexity=4", "pages16": "docmnist", "start": "tiny"}
    for name, arm in villa.claim.arms.items():
        arm(Trial(seed=3, folder=tmp_path / name, prelude=prelude))
    assert {name: len(configs) for name, configs in begun.items()} == {
        "whole": 2,
        "villa": 2,
        "random": 1,
        "mean": 1,
        "every": 1,
    }
    assert changes == {
        "whole": villa.without_regions,
        "villa": None,
        "random": villa.at_random,
        "mean": villa.by_mean,
        "every": None,
    }
    assert begun["every"][0].config["eps"] == 2.0
    same = {
        str(
            replace(
                each,
                data={},
                config={k: v for k, v in each.config.items() if k != "eps"},
                recipe=replace(each.recipe, lr=1.0),
            )
        )
        for configs in begun.values()
        for each in configs
    }
    assert len(same) == 1


def test_without_regions_the_whole_image_is_the_only_unit():
    units = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    method = SimpleNamespace(_assigned=lambda batch: {"units": units, "regions_found": units})
    villa.without_regions(method)
    found = method._assigned(None)
    assert found["units"].tolist() == [[0, 0, 1], [0, 0, 1]]
    assert found["regions_found"] is units


def cosines(regions, chosen):
    return regions[..., chosen]


def test_a_random_map_deals_the_regions_of_an_image_out():
    torch.manual_seed(0)
    method = SimpleNamespace(_cosines=cosines)
    method._assigned = lambda batch: method._cosines(batch.fields["regions"], torch.arange(2))
    villa.at_random(method)
    regions = torch.arange(16.0).view(2, 4, 2)
    batch = SimpleNamespace(fields={"regions": regions, "regions_there": THERE.float()})
    draws = [method._assigned(batch) for _ in range(8)]
    for found in draws:
        for own, given, there in zip(found, regions, THERE, strict=True):
            assert sorted(own[there].tolist()) == sorted(given[there].tolist())
    assert any(not torch.equal(found[0], regions[0]) for found in draws)
    assert method._cosines is cosines


def test_by_the_mean_all_regions_of_an_image_have_its_score():
    method = SimpleNamespace(_cosines=cosines)
    method._mapping_loss = lambda regions, batch: method._cosines(regions, torch.tensor([0]))
    villa.by_mean(method)
    regions = torch.arange(8.0).view(2, 4, 1)
    batch = SimpleNamespace(fields={"regions_there": THERE.float()})
    found = method._mapping_loss(regions, batch)[..., 0]
    assert found.tolist() == [[1.0] * 4, [4.5] * 4]
    assert method._cosines is cosines


def test_one_quick_arm_runs_and_is_measured(trial, tmp_path, brief):
    brief(villa)
    arm = villa.trained(villa.at_random, complexities=villa.COMPLEXITIES)
    found = arm(replace(trial, folder=tmp_path))
    assert set(found) == set(villa.claim.table)
    assert 0 < found["r16"] < 1
    assert 0 <= found["f1"] <= 1
