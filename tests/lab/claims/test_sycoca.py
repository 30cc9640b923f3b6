"""The claim on drawing masked patches from texts asks what it says: captions of one thing of three, arms
that differ in masks and in the texts that are drawn from."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import sycoca
from diptych.towers.encoded import Encoded


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sycoca, "LEARNT", 320)
        patch.setattr(sycoca, "run", lambda config, folder: None)
        return sycoca.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("sycoca"), quick=True))


def test_captions_describe_one_thing_whose_mask_is_known(tmp_path):
    source = open_source(sycoca.held_out(Trial(seed=5, folder=tmp_path, quick=True)))
    assert len(source) == 30
    for at in range(8):
        sample = source[at]
        [text] = sample.texts
        assert len(text.attrs["objects"]) == 1
        assert len(sample.boxes) == 3
        assert "instance" in sample.masks


def test_arms_differ_in_masks_and_texts_drawn_from_alone(tmp_path, monkeypatch, drawn):
    begun, changed = {}, {}

    def run(config, folder, change):
        method = SimpleNamespace(
            config=config, masks=None, model=SimpleNamespace(draw="own", scores=None)
        )
        if change is not None:
            change(method)
        begun[name] = config
        changed[name] = (method.masks is not None, method.model.draw != "own")
        raise StopIteration

    monkeypatch.setattr(sycoca, "run", run)
    for name, arm in sycoca.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude={**drawn, "start": "tiny"}))
    own = {"drop": 0.5, "reconstruction": 1.0, "random_masks": 0.1}
    said = {
        name: tuple(c.config.get(key, value) for key, value in own.items())
        for name, c in begun.items()
    }
    assert said == {
        "coca": (0.0, 0.0, 0.1),
        "drop": (0.5, 0.0, 0.1),
        "random": (0.5, 1.0, 1.0),
        "sycoca": (0.5, 1.0, 0.1),
        "reversed": (0.5, 1.0, 0.1),
        "dealt": (0.5, 1.0, 0.1),
    }
    assert {name for name, (masks, _) in changed.items() if masks} == {"reversed"}
    assert {name for name, (_, draws) in changed.items() if draws} == {"dealt"}
    same = {str(replace(c, config={}, recipe=replace(c.recipe, lr=1.0))) for c in begun.values()}
    assert len(same) == 1


def test_ablations_break_what_they_are_said_to():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
    received = []
    method = SimpleNamespace(
        config=SimpleNamespace(drop=0.5, mask=0.5, random_masks=0.1),
        model=SimpleNamespace(
            scores=lambda *args: scores, draw=lambda *args: received.append(args)
        ),
    )
    sycoca.exchanged(method)
    dropped, masked = method.masks(None, None, None, None, SimpleNamespace(progress=0.5))
    assert dropped.tolist() == [[False, True, True, False]]
    assert masked.tolist() == [[True, False, False, True]]
    sycoca.dealt(method)
    tokens = torch.arange(3.0)[:, None, None]
    method.model.draw(None, None, Encoded(tokens, tokens[:, 0]), torch.tensor([7, 8, 9]))
    [(_, _, text, lengths)] = received
    assert text.tokens.flatten().tolist() == [2, 0, 1]
    assert lengths.tolist() == [9, 7, 8]


def test_an_arm_goes_on_from_the_prelude_and_measures_what_is_judged(tmp_path, monkeypatch, brief):
    brief(sycoca)
    monkeypatch.setattr(sycoca, "LEARNT", 640)
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    found = sycoca.claim.arms["sycoca"](replace(trial, prelude=sycoca.draw(trial)))
    assert sycoca.claim.needs("sycoca") <= set(found)
    assert set(sycoca.claim.table) == set(found)
    assert 0 <= found["iou"] <= 1
