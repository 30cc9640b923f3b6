"""The claim on Lion asks what it says: equal samples, equal rate times decay, a rate for each
arm."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.helpers import small_model

from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import lion
from diptych.training import optim


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=lion.draw(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("lion"))
    assert set(claim.learning) == {"adamw_64", "lion_64", "adamw_large", "lion_large"}


def test_scenes_are_pixels_and_padded_tokens(trial):
    with np.load(trial.prelude["file"]) as data:
        assert data["learnt_pixels"].shape == (600, 768)
        assert data["held_out_ids"].shape == (200, lion.CONTEXT)
        filled = data["learnt_ids"] > 0
        assert filled[:, 0].all()
        assert (np.diff(filled.astype(int), axis=1) <= 0).all()  # what pads is behind all tokens
        assert data["learnt_ids"].max() < data["vocabulary"]


def test_steps_of_both_batches():
    steps = {name: lion.SAMPLES[name] // size for name, size in lion.BATCHES.items()}
    assert steps == {"64": 15_625, "large": 1953}


@pytest.mark.parametrize(("optimizer", "bytes_kept"), [("adamw", 8.0), ("lion", 4.0)])
def test_a_run_learns_and_reports_its_state(trial, monkeypatch, optimizer, bytes_kept):
    monkeypatch.setitem(lion.SAMPLES, "64", 64 * 150)
    found = lion.pairs(optimizer, "64", 3e-3, replace(trial, quick=False))
    assert found["state_bytes_a_parameter"] == pytest.approx(bytes_kept, abs=0.01)
    assert found["lr"] == pytest.approx(3e-3 if optimizer == "adamw" else 3e-4)
    assert found["r1"] > 4 / 200


def test_padding_adds_nothing_to_a_text():
    torch.manual_seed(0)
    towers = lion.Towers(20)
    pixels = torch.rand(1, 768)
    _, short = towers(pixels, torch.tensor([[3, 7]]))
    _, padded = towers(pixels, torch.tensor([[3, 7, 0, 0]]))
    torch.testing.assert_close(short, padded)


def test_weights_that_are_no_numbers_are_worth_nothing():
    towers = lion.Towers(20)
    test = torch.rand(5, 768), torch.arange(1, 11).view(5, 2)
    assert lion.recall(towers, *test) > 0
    with torch.no_grad():
        towers.image[0].bias[0] = torch.nan
    assert lion.recall(towers, *test) == 0.0


def test_rate_times_decay_is_one_number_for_both_optimisers_and_every_rate():
    for lr in (1e-3, 1e-2):
        for name in ("adamw", "lion", "lion:betas=(0.9,0.9)", "lion:factor=1"):
            recipe = lion.recipe(name, 64, lr)
            for group in optim.build(small_model(), recipe, {}).param_groups:
                if group["weight_decay"]:
                    product = group["lr"] * group["weight_decay"]
                    assert product == pytest.approx(lion.RATE_TIMES_DECAY)


def test_arms_differ_in_optimiser_batch_and_rate_alone(monkeypatch, trial):
    begun = {}

    def pretend(module, loss, recipe, trial, *, samples, learnt):
        begun[name] = recipe
        assert samples == lion.SAMPLES["large" if name.endswith("large") else "64"]
        return {}

    monkeypatch.setattr(lion, "fit", pretend)
    for name, arm in lion.claim.arms.items():
        if not name.startswith("other"):
            arm(trial)
    assert {name: (each.optimizer, each.batch_size) for name, each in begun.items()} == {
        "adamw_64": ("adamw", 64),
        "adamw_large": ("adamw", 1024),
        "lion_64": ("lion", 64),
        "lion_large": ("lion", 1024),
        "same_rate_64": ("lion:factor=1", 64),
        "one_beta_64": ("lion:betas=(0.9,0.9)", 64),
    }
    assert begun["same_rate_64"].lr == begun["adamw_64"].lr
    assert begun["one_beta_64"].lr == begun["lion_64"].lr
    same = {
        replace(each, optimizer="", lr=1.0, weight_decay=0.0, batch_size=1)
        for each in begun.values()
    }
    assert len(same) == 1


def test_the_other_tasks_run_and_return_finite_numbers(trial, tmp_path):
    found = lion.others("lion", replace(trial, folder=tmp_path))
    assert set(found) == {"denoising", "language", "fine_tuning"}
    assert all(np.isfinite(value) for value in found.values())
