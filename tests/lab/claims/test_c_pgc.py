"""The claim on one change of all images asks what it says: two models, one change, equal bounds."""

from dataclasses import replace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import c_pgc
from diptych.methods.store import load


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c_pgc, "POOL", 24)
        patch.setattr(c_pgc, "GALLERY", 12)
        patch.setattr(c_pgc, "MODEL_RECIPE", {**c_pgc.MODEL_RECIPE, "batch_size": 12})
        patch.setattr(Trial, "steps", lambda self, full, quick: 30)
        return replace(trial, prelude=c_pgc.pretrain(trial))


def test_the_floor_is_of_recall_before_the_change():
    claim = block(find("c_pgc"))
    assert claim.floor.metric == "r1"
    assert claim.floor.chance == 1 / c_pgc.GALLERY


def test_the_models_differ_in_size_and_scenes(trial):
    sources = {
        name: open_source(trial.prelude[f"{name}_data"])
        for name in ("surrogate", "victim", "gallery")
    }
    assert {name: len(source) for name, source in sources.items()} == {
        "surrogate": 24,
        "victim": 24,
        "gallery": 12,
    }
    seen = [source[at].images["main"].read() for source in sources.values() for at in range(12)]
    assert len(set(seen)) == len(seen)
    own, other = (load(trial.prelude[name]) for name in ("surrogate", "victim"))
    assert own.encoder.image.width != other.encoder.image.width


def test_arms_differ_in_what_makes_the_change_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        c_pgc, "run", lambda config, folder, change: begun.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(c_pgc, "load", lambda folder: None)
    monkeypatch.setattr(c_pgc, "measure", lambda model, trial: {})
    prelude = {"surrogate_data": "scenes:count=4", "surrogate": "tiny"}
    for name, arm in c_pgc.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    plain = {"by": "generator", "contrast": 1, "alpha": 0.1}
    found = {
        name: (*({**plain, **c.config}[option] for option in plain), change)
        for name, (c, change) in begun.items()
    }
    assert found == {
        "c_pgc": ("generator", 1, 0.1, None),
        "wide": ("generator", 1, 0.1, None),
        "noise": ("noise", 1, 0.1, None),
        "wide_noise": ("noise", 1, 0.1, None),
        "distance": ("generator", 0, 0.1, None),
        "contrast": ("generator", 1, 0, None),
        "no_target": ("generator", 1, 0.1, c_pgc.drop_targets),
        "flipped": ("generator", 1, 0.1, c_pgc.flip),
        "swapped": ("generator", 1, 0.1, c_pgc.swap),
        "pgd": ("pgd", 1, 0.1, None),
    }
    bounds = {name: c.config["eps"] for name, (c, _) in begun.items()}
    assert {name for name, eps in bounds.items() if eps != c_pgc.EPS} == {"wide", "wide_noise"}
    steps = {c.recipe.steps for name, (c, _) in begun.items() if "noise" not in name}
    assert steps == {c_pgc.STEPS}


def test_changes_of_the_contrast_are_what_they_are_called():
    class Fake:
        contrast = None

    own, far = torch.rand(2, 4, 3, dtype=torch.float64)
    swapped = Fake()
    c_pgc.swap(swapped)  # type: ignore[arg-type]
    alone = Fake()
    c_pgc.drop_targets(alone)  # type: ignore[arg-type]
    p, q = ((each / 0.1).exp().sum(1).mean() for each in (own, far))
    torch.testing.assert_close(swapped.contrast(own, far, 0.1), (q / (p + q)).log())
    torch.testing.assert_close(alone.contrast(own, far, 0.1), p.log())


def test_one_quick_arm_runs_and_is_measured(trial, tmp_path, monkeypatch):
    monkeypatch.setattr(Trial, "steps", lambda self, full, quick: 2)
    small = {**c_pgc.PERTURBATION, "channels": 16, "text_channels": 16}
    monkeypatch.setattr(c_pgc, "PERTURBATION", small)
    own = trial.prelude  # that the surrogate knows, so that there is something to get wrong
    known = {**own, "gallery_data": own["surrogate_data"], "victim": own["surrogate"]}
    found = c_pgc.claim.arms["c_pgc"](replace(trial, folder=tmp_path, prelude=known))
    assert set(found) == {*c_pgc.claim.table}
    assert all(0 <= value <= 1 for value in found.values() if value == value)
