"""The claim on Hydra asks what it says: arms that differ in pairs and gates alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.methods.pretrain.hydra.helpers import held

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import hydra


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=hydra.draw(trial))


def test_parts_share_no_scene_and_all_classes(trial):
    parts = [open_source(trial.prelude[name]) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [750, 375, 250]
    assert len({key for part in parts for key in [*part.keys()]}) == 1375
    classes = [np.unique(part.labels("pair")) for part in parts]
    assert len({part.schema()["labels.pair"].classes for part in parts}) == 1
    assert len(classes[0]) == hydra.CLASSES
    assert all(np.array_equal(each, classes[0]) for each in classes)
    assert {text.role for text in parts[0][0].texts} == {"pair_name"}


def test_open_gates_are_one_and_dealt_gates_are_those_of_other_anchors():
    y, p = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 2, 1, 2, 2])
    made = held()
    made.eval()
    own = made.gates_of(y, p)
    hydra.deal_gates(made)
    torch.manual_seed(0)
    dealt = made.gates_of(y, p)
    assert not torch.equal(dealt, own)
    torch.testing.assert_close(dealt.sort(0).values, own.sort(0).values)
    hydra.open_gates(made)
    assert torch.equal(made.gates_of(y, p), torch.ones(6, 16))


def test_arms_differ_in_pairs_gates_and_rate_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        hydra, "run", lambda config, folder, change: begun.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(hydra, "measure", lambda trial: {})
    prelude = {"train": "scenes:count=4", "label": "pair"}
    for name, arm in hydra.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    assert {name: (c.config.get("pairs"), change) for name, (c, change) in begun.items()} == {
        "identical": ("identical", hydra.open_gates),
        "gated": (None, None),
        "open": (None, hydra.open_gates),
        "dealt": (None, hydra.deal_gates),
    }
    same = {
        str(replace(c, config={**c.config, "pairs": ""}, recipe=replace(c.recipe, lr=1.0)))
        for c, _ in begun.values()
    }
    assert len(same) == 1
    assert begun["dealt"][0].recipe.lr == begun["gated"][0].recipe.lr


@pytest.mark.parametrize("arm", ["identical", "dealt"])
def test_a_quick_arm_runs_and_is_measured(trial, tmp_path, brief, arm):
    brief(hydra)
    found = hydra.claim.arms[arm](replace(trial, folder=tmp_path))
    assert set(found) == {"probe", "knn", "rank"}
    assert 1 <= found["rank"] <= 64
