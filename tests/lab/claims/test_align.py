"""The claim on noisy pairs asks what it says: equal steps, noise at its rate, filters that keep
what they should."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, best, block, find
from diptych.lab.claims import align

N = 60  # pairs of the smallest set


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "N", N)
        patch.setattr(align, "PAIRS", 50)
        patch.setattr(align, "PROBED", 50)
        return align.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("align")))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("align"))
    assert claim.floor.chance == 1 / align.PAIRS
    assert not {"noise32", "fixed"} & set(claim.learning)


def test_sets_are_nested_and_noisy_as_they_say(drawn):
    sets = {name: open_source(spec) for name, spec in drawn.items()}
    assert [len(sets[f"noisy{times}"]) for times in (1, 32)] == [N, 32 * N]
    assert list(sets["noisy32"].keys())[:N] == list(sets["noisy1"].keys())
    assert list(sets["clean1"].keys()) == list(
        sets["noisy1"].keys()
    )  # the same scenes, their captions apart
    noise = np.array([sample.labels["noise"] for sample in sets["noisy32"]])
    assert np.mean(noise > 0) == pytest.approx(0.4, abs=0.05)
    assert {sample.labels["noise"] for sample in sets["clean1"]} == {0}
    names = sets["noise32"].schema()["labels.noise"].classes
    assert {names[sample.labels["noise"]] for sample in sets["noise32"]} == {"swap"}


def test_the_filter_drops_noise_and_as_many_are_dropped_at_random(drawn):
    kept = {name: open_source(drawn[name]) for name in ("filtered", "dropped")}
    assert len(kept["filtered"]) == len(kept["dropped"])
    share = {
        name: np.mean([sample.labels["noise"] > 0 for sample in source])
        for name, source in kept.items()
    }
    assert share["filtered"] < 0.3
    assert share["dropped"] == pytest.approx(0.4, abs=0.06)


def test_arms_differ_in_data_passes_and_divisor_alone(tmp_path, monkeypatch, drawn):
    begun = {}
    monkeypatch.setattr(align, "run", lambda config, folder: begun.__setitem__(name, config))
    monkeypatch.setattr(align, "measure", lambda trial: {})
    shares = {}
    for name, arm in align.claim.arms.items():
        shares[name] = arm(Trial(seed=100, folder=tmp_path, prelude=drawn))["noise"]
    steps = {name: c.recipe.steps for name, c in begun.items()}
    assert steps["filtered"] == steps["dropped"] < align.STEPS
    assert {steps[name] for name in set(steps) - {"filtered", "dropped"}} == {align.STEPS}
    same = {
        str(replace(c, data={}, config={}, recipe=replace(c.recipe, steps=1, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1
    rates = {name: c.recipe.lr for name, c in begun.items()}
    assert rates.pop("clean") == rates.pop("noisy") == best(align.RATES["clean"])
    assert set(rates.values()) == {best(align.RATES["noisy32"])}
    divisors = {
        name: (c.config.get("sigma", 1.0), c.config.get("learned", True))
        for name, c in begun.items()
    }
    assert divisors.pop("fixed") == (1.0, False)
    assert divisors.pop("best_fixed") == (best(align.SIGMAS), False)
    assert set(divisors.values()) == {(1.0, True)}
    assert begun["fixed"].data == begun["best_fixed"].data == begun["noisy32"].data
    assert (shares["clean"], shares["noise32"]) == (0, 1)
    assert shares["filtered"] < shares["noisy32"]
