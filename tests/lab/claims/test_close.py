"""CLOSE's claim asks what it says: one encoder with a gap, equal texts and steps, and arms that
differ in the noise."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import close


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What each arm but the encoder begins, by name."""
    found = {}
    monkeypatch.setattr(
        close, "run", lambda config, folder, change=None: found.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(close, "load", lambda folder: None)
    monkeypatch.setattr(close, "measure", lambda model, trial: {"facts": 0.4, "texts": 0.5})
    prelude = {"texts": "texts.jsonl", "pairs": "scenes", "task": "scenes", "clip": "tiny"}
    for name, arm in close.claim.arms.items():
        if name != "encoder":
            assert arm(Trial(seed=3, folder=tmp_path, prelude=prelude))["own"] == (
                0.4 if name == "images" else 0.5
            )
    return found


def test_arms_differ_in_the_noise_the_layer_and_what_is_read_alone(begun):
    free = ("noise", "train_on", "gap")
    same = {
        str(
            replace(
                config, data={}, config={k: v for k, v in config.config.items() if k not in free}
            )
        )
        for config, _ in begun.values()
    }
    assert len(same) == 1
    reported = {
        name: {k: v for k, v in config.config.items() if k in free[1:]}
        for name, (config, _) in begun.items()
    }
    assert {name: options for name, options in reported.items() if options} == {
        "images": {"train_on": "images"},
        "mean_shift": {"gap": "mean"},
        "random_shift": {"gap": "random:scale=0.5"},
    }
    assert {name for name, (_, change) in begun.items() if change is not None} == {"not_unit"}
    assert {name for name, (config, _) in begun.items() if "scenes" in config.data.values()} == {
        "images",
        "mean_shift",
    }


def test_noise_has_the_length_that_it_has_at_768_dimensions(begun):
    lengths = {
        name: config.config["noise"] * close.WIDTH**0.5 for name, (config, _) in begun.items()
    }
    assert lengths["w08"] == pytest.approx(2.217, abs=1e-3)  # as published
    assert {name: round(length / 768**0.5, 4) for name, length in lengths.items()} == {
        "w0": 0,
        "w02": 0.02,
        "w04": 0.04,
        "w08": 0.08,
        "w16": 0.16,
        "w32": 0.32,
        "images": 0,
        "mean_shift": 0,
        "not_unit": close.TUNED,
        "random_shift": close.TUNED,
    }


def test_the_commonest_values_are_told_by_chance():
    samples = list(
        open_source(f"{close.SCENES}:{close.ALL}:seed=3:split=val:count={close.HELD_OUT}")
    )
    facts = close.told_of(samples)
    shares = [
        Counter(each[fact] for each in facts).most_common(1)[0][1] / len(facts)
        for fact in close.FACTS
    ]
    assert sum(shares) / len(shares) <= close.CHANCE
    assert close.rightly([sample.captions()[0] for sample in samples], facts) == 1


def test_captions_of_the_encoder_leave_out_most_facts():
    reported = {}
    for how in (close.LITTLE, close.ALL):
        samples = list(open_source(f"{close.SCENES}:{how}:seed=3:count=100"))
        reported[how] = close.rightly(
            [sample.captions()[0] for sample in samples], close.told_of(samples)
        )
    assert reported[close.LITTLE] < 0.6
    assert reported[close.ALL] == 1


def test_one_quick_arm_runs(tmp_path):
    trial = Trial(seed=5, folder=tmp_path / "prelude", quick=True)
    trial.folder.mkdir()
    prelude = close.draw(trial)
    found = {}
    for name in ("encoder", "not_unit"):
        (folder := tmp_path / name).mkdir()
        found[name] = close.claim.arms[name](replace(trial, folder=folder, prelude=prelude))
    assert found["encoder"]["excess"] == pytest.approx(
        found["encoder"]["matched"] - found["encoder"]["unrelated"]
    )
    assert all(0 <= value <= 1 for value in found["not_unit"].values())


def test_vectors_that_are_not_made_unit_again_stay_as_long_as_noise_makes_them():
    from types import SimpleNamespace

    gap = SimpleNamespace(finish=lambda z: torch.nn.functional.normalize(z, dim=-1))
    close.long(SimpleNamespace(model=SimpleNamespace(gap=gap)))
    assert gap.finish(torch.tensor([[3.0, 4.0]])).norm() == 5
