"""The claim on Tip-Adapter asks what it says: one picture or all, labels dealt out anew, the classes learnt alone."""

import torch
from tests.methods.adapt.test_tip_adapter import filled

from diptych.data.sources import open_source
from diptych.lab.adapting import LABEL, classes
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import tip_adapter
from diptych.methods.base import At
from diptych.training.prepare import Run


def test_the_file_holds_a_claim_on_seeds_that_nothing_was_chosen_on():
    claim = block(find("tip_adapter"))
    assert len(claim.seeds) >= 5
    assert 100 not in claim.seeds
    assert "dealt" not in claim.learning


def test_dealt_labels_are_the_same_labels_in_another_order():
    made, source = filled(count=12)
    before = made.model.owners.clone()
    tip_adapter.dealt(made)
    made.stages()[0].prepare(Run(made, {"train": source}, At(0, 0, 0, 0), torch.device("cpu")))
    assert not torch.equal(made.model.owners, before)
    assert torch.equal(made.model.owners.sort().values, before.sort().values)


def test_arms_learn_from_as_many_pictures_as_they_say_and_are_judged_on_their_classes(tmp_path, monkeypatch):
    seen = {}

    def measured(model, trial, **how):
        source = open_source(f"{trial.prelude['train']}:shots=1:draw=0:of={LABEL}")
        seen[len(model.classifier.keys)] = tuple(source.schema()[f"labels.{LABEL}"].classes)
        return {"base": 0.0}

    monkeypatch.setattr(tip_adapter, "measure", measured)
    trial = Trial(seed=3, folder=tmp_path, quick=True)
    (tmp_path / "a").mkdir()
    prelude = tip_adapter.pictures(Trial(seed=3, folder=tmp_path / "a", quick=True), shots=2)
    for shots in (1, None):
        folder = tmp_path / str(shots)
        folder.mkdir()
        tip_adapter.tip(shots=shots)(Trial(seed=3, folder=folder, quick=True, prelude=prelude))
    assert set(seen) == {10, 20}
    assert set(seen[10]) == set(classes(trial.seed)[0])
