"""The claim on separated spaces asks what it says: parts that share no image, a term with the wrong
partners, photographs with stamps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import AT, make_batch, make_method
from torch.nn.functional import normalize

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import sepclr
from diptych.methods.make import NO_TOWER


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=sepclr.draw(trial))


def test_parts_share_no_scene_and_stamps_tell_nothing_of_the_colour(trial):
    parts = {part: open_source(trial.prelude[part]) for part in sepclr.PARTS}
    keys = [set(source.keys()) for source in parts.values()]
    assert len(set.union(*keys)) == sum(map(len, keys))
    whole = open_source(f"{sepclr.WORLD}:count=2000")
    samples = [whole[at].labels for at in range(2000)]
    stamps, colours = (np.array([each[name] for each in samples]) for name in ("stamp", "colour"))
    assert abs((stamps >= 0).mean() - 0.8) < 0.03
    table = np.array(
        [[((stamps == s) & (colours == c)).sum() for c in range(8)] for s in range(-1, 8)]
    )
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 100  # chi square of 56 degrees of freedom


def test_dealt_vectors_change_the_joint_term_alone():
    method = make_method("sepclr", text=NO_TOWER, embed_dim=16, label="stamp", salient_dim=3)
    batch = make_batch(8, {"main": 2}, kind=torch.arange(8) % 3 - 1)
    features = {name: value.detach() for name, value in method.encode(batch, AT).items()}
    before = method.loss(features, batch, AT).terms
    sepclr.deal(method)
    after = method.loss(features, batch, AT).terms
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"joint"}
    common = normalize(features["common"], dim=-1).unbind(1)
    moved = [view.roll(1, 0) for view in features["salient"].unbind(1)]
    target = (batch.fields["kind"] >= 0).roll(1)
    other = make_method("sepclr", text=NO_TOWER, embed_dim=16).joint(common, moved, target)
    torch.testing.assert_close(after["joint"], 10 * other)


def test_photographs_are_halved_and_half_of_them_get_half_of_a_stamp(tmp_path, monkeypatch):
    grey = [(Image.new("RGB", (32, 32), (200, 200, 200)), 1)] * 90
    monkeypatch.setattr(sepclr, "open_source", lambda spec: open_source(grey))
    monkeypatch.setattr(sepclr, "PARTS", dict.fromkeys(sepclr.PARTS, 30))
    trial = Trial(seed=100, folder=tmp_path)
    parts = {part: open_source(sepclr.photographs(trial)[part]) for part in sepclr.PARTS}
    keys = [key for source in parts.values() for key in source.keys()]  # noqa: SIM118
    assert len(keys) == len(set(keys)) == 90
    source = parts["train"]
    labels = source.labels("stamp")
    assert 5 < (labels >= 0).sum() < 25
    for at, label in enumerate(labels):
        pixels = np.asarray(source[at].images["main"].decode())
        assert pixels.min() == 100
        assert (pixels.max() > 200) == (label >= 0)
    assert "texts.caption" not in source.schema()
    assert sepclr.Stamps().schema()["labels.stamp"].classes == tuple(sepclr.SHAPES)


def test_floor_and_mechanism():
    claim = block(find("sepclr"))
    assert claim.floor.arms == ("full", "unjoined")
    assert claim.mechanism == ("dealt",)


def test_arms_differ_in_their_weights_and_change_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(
        sepclr, "run", lambda config, folder, change: begun.__setitem__(name, (config, change))
    )
    monkeypatch.setattr(sepclr, "measure", lambda trial: {})
    for name, arm in sepclr.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude={"train": "scenes:count=4"}))
    full = begun["full"][0]
    beside = {
        name: {key: value for key, value in config.config.items() if key not in full.config}
        for name, (config, _) in begun.items()
    }
    assert beside == {
        "full": {},
        "unjoined": {"joint": 0.0},
        "unpinned": {"beta_background": 0.0},
        "dealt": {},
        "untrained": {},
    }
    assert {name for name, (_, change) in begun.items() if change} == {"dealt"}
    untrained = begun.pop("untrained")[0].recipe
    assert (untrained.steps, untrained.lr) == (1, 1e-9)
    same = {
        str(replace(config, config={}, recipe=replace(config.recipe, lr=1.0)))
        for config, _ in begun.values()
    }
    assert len(same) == 1


def test_a_quick_arm_runs_and_is_measured(trial, tmp_path, brief):
    brief(sepclr)
    found = sepclr.claim.arms["untrained"](replace(trial, folder=tmp_path))
    assert set(found) == set(sepclr.claim.table)
