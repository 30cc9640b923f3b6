"""The claim on Tip-Adapter asks what it says: one image or all, labels dealt out anew, the classes
learnt alone."""

import itertools

import numpy as np
import pytest
import torch
from tests.methods.adapt.helpers import filled

from diptych.data import descriptions
from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import tip_adapter
from diptych.lab.joined import Pair
from diptych.methods.base import At
from diptych.training.prepare import Run


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("tip_adapter"))
    assert "dealt" not in claim.learning


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """`tiny` and scenes of two things in the place of the joined pair and the photographs."""

    def goods(split, trial):
        count = 80 if split == "train" else 24
        return f"scenes:number=1:texts=caption:objects=cat+fish:styles=poster:split={split}:count={count}"

    monkeypatch.setattr(tip_adapter, "goods", goods)
    monkeypatch.setattr(tip_adapter, "GOODS", "object")
    descriptions.write(
        tmp_path / "bank.json",
        {"cat": ["it has legs.", "it is on the grass."], "fish": ["it swims."]},
    )
    held = tip_adapter.Shop(Pair("tiny"), str(tmp_path / "bank.json"))
    return Trial(seed=1, folder=tmp_path, quick=True, prelude=held)


def test_votes_are_those_that_are_best_on_the_validation_split(shop, monkeypatch):
    monkeypatch.setattr(tip_adapter, "told", lambda model, trial: {"model": model})
    model = tip_adapter.voted()(shop)["model"]
    classifier, source = model.classifier, open_source(tip_adapter.goods("val", shop))
    x = model.embed_images([source[at].images["main"] for at in range(len(source))])
    labels = torch.tensor([source[at].labels["object"] for at in range(len(source))])
    chosen, right = (classifier.alpha, classifier.beta), {}
    for alpha, beta in itertools.product(tip_adapter.ALPHAS, tip_adapter.BETAS):
        classifier.alpha, classifier.beta = alpha, beta
        with torch.no_grad():
            right[alpha, beta] = int((classifier.of_vectors(x).argmax(1) == labels).sum())
    assert right[chosen] == max(right.values())


def test_described_classes_are_told_by_all_of_their_sentences(shop, monkeypatch):
    monkeypatch.setattr(tip_adapter, "told", lambda model, trial: {"model": model})
    sets = tip_adapter.described(shop)["model"].classifier
    assert sets.prompts.of("cat") == (
        "a photo of a cat. it has legs.",
        "a photo of a cat. it is on the grass.",
    )


@pytest.mark.parametrize("arm", ["names", "gist", "coop", "probe", "tuned"])
def test_real_arms_give_what_the_table_shows(shop, arm):
    found = tip_adapter.real.arms[arm](shop)
    assert set(found) == {"top1", "mean"}
    assert np.mean(found["top1"]) > 0.5


def test_all_goods_are_described_in_sentences(data_pack, monkeypatch):
    folder = data_pack("grocery")
    said = tip_adapter.sentences(folder / "classes.jsonl")
    names = open_source(str(folder / "val.tar")).schema()["labels.label"].classes
    assert len(said) == len(names) == 81
    assert len(said["Pink Lady"]) == 1
    assert max(map(len, said.values())) > 1
    assert all(
        sentence == sentence.strip() != "" for reported in said.values() for sentence in reported
    )


def test_dealt_labels_are_the_same_labels_in_another_order():
    made, source = filled(count=12)
    before = made.model.owners.clone()
    tip_adapter.dealt(made)
    made.stages()[0].prepare(Run(made, {"train": source}, At(0, 0, 0, 0), torch.device("cpu")))
    assert not torch.equal(made.model.owners, before)
    assert torch.equal(made.model.owners.sort().values, before.sort().values)


def test_arms_learn_from_as_many_images_as_they_say(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tip_adapter, "measure", lambda model, trial: {"keys": len(model.classifier.keys)}
    )
    train = "scenes:number=1:texts=caption:objects=cat:held_out=0.0:styles=seen:count=100"
    for shots, keys in ((1, 8), (None, 100)):
        (tmp_path / str(keys)).mkdir()
        trial = Trial(seed=3, folder=tmp_path / str(keys), quick=True, prelude={"train": train})
        assert tip_adapter.tip(shots=shots)(trial) == {"keys": keys}


def test_arms_are_judged_on_the_classes_that_they_learnt(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        tip_adapter, "classes", lambda seed: (["green cat", "blue cat"], ["red cat"])
    )
    monkeypatch.setattr(
        tip_adapter,
        "evaluate",
        lambda model, source, suites, label: (
            seen.update(source.schema()) or {"zeroshot": {"top1": 0.5}}
        ),
    )
    test = "scenes:number=1:texts=caption:objects=cat:colours=red+blue+green:styles=seen:count=20"
    assert tip_adapter.measure(None, Trial(seed=3, folder=tmp_path, prelude={"test": test})) == {
        "base": 0.5
    }
    assert set(seen["labels.pair"].classes) == {"green cat", "blue cat"}
