"""The claim on Lion asks what it says: equal samples, grids of equal rate times decay, a choice
that saw no result."""

import pytest
import torch
from tests.training.helpers import small_model

from diptych.data.plan import Distinct
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import lion
from diptych.lab.demo.trial import CHOICE, FINAL
from diptych.training import optim


@pytest.fixture(scope="module")
def data():
    return lion.drawings()


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("lion"))
    assert set(claim.learning) == {"adamw_64", "lion_64", "adamw_large", "lion_large"}


def test_hands_are_apart_and_the_reported_one_has_a_image_for_each_name(data):
    designs = [
        set(FINAL.source(FINAL.learnt, *names).labels("design"))
        for names in (CHOICE.designs, (CHOICE.held_out,), (FINAL.held_out,))
    ]
    assert sum(map(len, designs)) == len(set.union(*designs)) == 4
    assert len(data["final"][0]) == len(data["final"][1]) == lion.PAIRS
    assert data["learnt"][0].shape[1] == 768


def test_all_batches_see_the_same_samples_and_the_large_one_each_concept_once():
    source = FINAL.source(FINAL.learnt, *CHOICE.designs)
    concepts = source.labels("concept")
    for size in lion.BATCHES.values():
        batches = Distinct("concept")(source, 0, 0, size)
        assert sorted(i for batch in batches for i in batch) == list(range(len(source)))
        assert all(len(set(concepts[batch])) == len(batch) for batch in batches)
    assert [len(batch) for batch in batches] == pytest.approx([1420, 1420], abs=30)


def test_a_run_learns_and_tells_its_state(data, monkeypatch):
    monkeypatch.setitem(lion.BATCHES, "64", 256)
    found = {
        name: lion.train(data, lion.recipe(name, "64", 1e-3), 5, 1) for name in ("adamw", "lion")
    }
    assert found["lion"]["state_bytes_a_parameter"] == 4
    assert 8 < found["adamw"]["state_bytes_a_parameter"] < 8.01
    assert (found["adamw"]["lr"], found["lion"]["lr"]) == pytest.approx((1e-3, 1e-4))
    again = lion.train(data, lion.recipe("lion", "64", 1e-3), 5, 1)
    assert again["r1_choice"] == found["lion"]["r1_choice"]


def test_weights_that_are_no_numbers_are_worth_nothing(data):
    towers = lion.Towers(data["vocabulary"])
    assert lion.recall(towers, *data["choice"]) < 0.02
    with torch.no_grad():
        towers.words.weight[0, 0] = torch.nan
        towers.image[0].bias[0] = torch.nan
    assert lion.recall(towers, *data["choice"]) == 0.0


def test_rate_times_decay_is_one_number_for_both_optimisers_and_every_rate():
    for times in lion.GRID:
        for name in ("adamw", "lion", "lion:betas=(0.9,0.9)"):
            recipe = lion.recipe(name, "64", times * lion.LOWEST)
            for group in optim.build(small_model(), recipe, {}).param_groups:
                if group["weight_decay"]:
                    assert group["lr"] * group["weight_decay"] == pytest.approx(
                        lion.RATE_TIMES_DECAY
                    )


def test_arms_take_the_rate_that_does_best_on_the_other_hand(tmp_path, monkeypatch):
    """On what is reported another rate would do better."""
    runs = []

    def pretend(data, recipe, seed, epochs):
        runs.append(recipe)
        times = round(recipe.lr / lion.LOWEST)
        return {
            "r1": times / 100,
            "r1_choice": {1: 0.1, 3: 0.4, 10: 0.3, 30: 0.2}[times],
            "lr": recipe.lr,
        }

    monkeypatch.setattr(lion, "train", pretend)
    monkeypatch.setattr(lion, "drawings", dict)
    first = lion.prelude(Trial(seed=0, folder=tmp_path))
    assert [(r.optimizer, r.batch_size) for r in runs] == [("adamw", 64)] * 4 + [
        ("adamw", 2048)
    ] * 4
    trial = Trial(seed=0, folder=tmp_path, prelude=first)
    assert lion.ARMS["adamw_64"](trial)["r1"] == 0.03
    runs.clear()
    found = lion.ARMS["lion_large"](trial)
    assert (found["r1"], found["advantage"]) == (0.03, 0.0)
    assert {r.optimizer for r in runs} == {"lion"}
    assert len({r.lr for r in runs}) == len(lion.GRID)
    runs.clear()
    lion.ARMS["same_rate_64"](trial)
    assert [(r.optimizer, r.lr, r.batch_size) for r in runs] == [
        ("lion:factor=1", 3 * lion.LOWEST, 64)
    ]
    runs.clear()
    lion.ARMS["one_beta_64"](trial)
    assert {r.optimizer for r in runs} == {"lion:betas=(0.9,0.9)"}
