"""The claim on affect asks what it says: paintings apart, arms that differ in losses, lexicon and negatives
alone, what an arm knows of later words."""

from dataclasses import replace

import pytest
import torch

from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.lab.claim import Trial
from diptych.lab.claims import sevlm


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sevlm, "PARTS", {"train": 160, "fitted": 200, "test": 80, "read": 800})
        return sevlm.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("sevlm"), quick=True))


def test_paintings_of_the_parts_differ_and_evoke_several_emotions(drawn):
    sources = [open_source(drawn[part]) for part in sevlm.PARTS]
    keys = [set(source.keys()) for source in sources]
    assert len(set.union(*keys)) == sum(map(len, keys))
    assert all(len(set(sample.captions("emotion"))) > 1 for source in sources for sample in source)
    assert not any(name.startswith("labels.") for name in sources[0].schema())


def test_arms_differ_in_losses_lexicon_and_negatives_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder, change):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(sevlm, "run", run)
    for name, arm in sevlm.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    own = begun["full"].config
    assert {
        name: {key: value for key, value in each.config.items() if own.get(key, "default") != value}
        for name, each in begun.items()
    } == {
        "xe": {"lexicon": None, "contrastive": 0.0},
        "full": {},
        "permuted": {"permuted": 0},
        "vad": {"contrastive": 0.0},
        "contrast": {"lexicon": None},
        "copies": {"partner": "copy"},
        "leak": {"causal_vad": False},
    }
    assert len({str(replace(each, config={})) for each in begun.values()}) == 1


def test_an_arm_measures_what_is_judged_and_knows_no_later_word(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(sevlm, "LEAKED", 4)
    held = []
    measured = sevlm.measured

    def kept(trial, model, method):
        held.append((model, method))
        return measured(trial, model, method)

    monkeypatch.setattr(sevlm, "measured", kept)
    trial = Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn)
    found = sevlm.claim.arms["full"](trial)
    assert set(found) == set(sevlm.claim.table)
    [(model, method)] = held
    opening, tokens = opened(method, drawn["test"])
    assert found["leak"] == pytest.approx(opening / tokens, abs=1e-4)
    assert sevlm.leaked(model, method, drawn["test"]) == found["leak"]


@torch.no_grad()
def opened(method, place):
    """The log-probability of the openings of texts, which counts in training alone, and the tokens of the texts."""
    source = Wrapped(open_source(place), range(4))
    [stage] = method.stages()
    [batch] = Loader(source, method.views(stage), InOrder(), 4).epoch(0)
    ids, lengths = batch.text.flat
    before = len(method.model.phrasing.asked())
    patches = method.model.see(batch.image.flat).repeat_interleave(2, 0)
    hidden = method.model.lm(ids[:, :before], memory=patches)
    count = torch.full((len(ids),), before)
    found = method.model.lm.log_probs_of(hidden, ids[:, :before], count)
    return float(found.sum()), float((lengths - 1).sum())
