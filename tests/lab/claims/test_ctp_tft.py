"""The claim on class-aware prompts asks what it says: recipes alike but for rates, a shift of 0 at
the start, one query."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method, zero_shot

from diptych.lab import adapting
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import ctp_tft

FOUR = "red cat+blue cat+red bus+blue bus"
WORLD = f"scenes:number=1:objects=cat+bus:colours=red+blue:held_out=0.0:texts=caption:classes={FOUR}:of=pair"


def test_arms_that_learn_must_gain_over_the_names():
    claim = block(find("ctp_tft"))
    assert claim.learning == ("cocoop", "still", "ctp_tft")
    assert (claim.floor.metric, claim.floor.value) == ("gain", 0)
    prelude = {"names": {"base": 0.5}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctp_tft, "halves", lambda model, trial: {"base": 0.75})
        patch.setattr(ctp_tft, "cosine", lambda model, trial: 0.0)
        found = ctp_tft.measure(None, Trial(seed=3, folder=Path(), prelude=prelude))
    assert found == {"base": 0.75, "gain": 0.25, "cosine": 0.0}


def test_arms_differ_in_method_change_and_the_rate_of_the_method_alone(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change

    monkeypatch.setattr(adapting, "run", run)
    monkeypatch.setattr(adapting, "load", lambda folder: SimpleNamespace(classifier=None))
    monkeypatch.setattr(ctp_tft, "as_one", lambda classifier: None)
    monkeypatch.setattr(ctp_tft, "halves", lambda model, trial: {"base": 0.5})
    monkeypatch.setattr(ctp_tft, "cosine", lambda model, trial: 0.0)
    prelude = {"train": "scenes:count=4", "names": {"base": 0.5}}
    for name in ctp_tft.claim.arms:
        found = ctp_tft.claim.arms[name](Trial(seed=3, folder=tmp_path, prelude=prelude))
        assert found["base"] == 0.5
    assert {name: config.method for name, config in begun.items()} == {
        "cocoop": "cocoop",
        "still": "cocoop",
        "ctp_tft": "ctp_tft",
        "agnostic": "ctp_tft",
        "uniform": "ctp_tft",
    }
    assert {name for name, change in changes.items() if change} == {"still", "agnostic", "uniform"}
    assert {name: config.recipe.lr for name, config in begun.items()} == {
        "cocoop": ctp_tft.RECIPE["lr"],
        "still": ctp_tft.RECIPE["lr"],
        "ctp_tft": ctp_tft.OURS["lr"],
        "agnostic": ctp_tft.OURS["lr"],
        "uniform": ctp_tft.OURS["lr"],
    }
    alike = {"epochs": 1.0, "lr": 0.1}  # steps win over epochs
    same = {str(replace(c, method="", recipe=replace(c.recipe, **alike))) for c in begun.values()}
    assert len(same) == 1


def step(made):
    """A step of descent."""
    made.train()
    learning = [parameter for parameter in made.parameters() if parameter.requires_grad]
    torch.nn.functional.cross_entropy(
        made.model(random_images(3)), torch.tensor([0, 1, 2])
    ).backward()
    torch.optim.SGD(learning, lr=0.1).step()
    made.zero_grad()


def test_uniform_attention_reads_one_mean_for_all_after_steps_too():
    made = method("ctp_tft")
    ctp_tft.uniform(made)
    for _ in range(2):
        step(made)
    model = made.model.eval()
    with torch.no_grad():
        image, patches = model.look(model.encoder.encode_image(random_images(2)))
        tokens = torch.cat([image, patches], 1)
        texts = model.text_features().expand(2, -1, -1)
        weights = model.ctp.weights(texts, tokens)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / tokens.shape[1]))
        classes = model.aware(image, patches, model.text_features())
        weights = model.tft.weights(image, classes)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))
        assert not torch.allclose(model.tuned(image, patches, classes), image, atol=1e-4)


def test_a_still_shift_begins_as_coop():
    made = method("cocoop")
    ctp_tft.still(made)
    with torch.no_grad():
        torch.testing.assert_close(
            made.model.class_features(random_images(1))[0], zero_shot(made), atol=1e-5, rtol=1e-5
        )
    step(made)
    assert bool(made.model.meta[2].weight.any())


def test_the_agnostic_arm_asks_with_one_query_in_training_and_when_measured(tmp_path):
    """The classes are the base ones in training, all of them or a half when measured."""
    trial = Trial(
        seed=5,
        folder=tmp_path,
        quick=True,
        prelude={
            "train": f"{WORLD}:count=20",
            "test": f"{WORLD}:split=val:count=20",
            "novel": ["blue cat", "red bus"],
            "names": {"base": 0.5},
        },
    )
    asked = []
    aware = ctp_tft.ClassAware.aware

    def watched(self, image, patches, texts):
        asked.append(texts.detach())
        return aware(self, image, patches, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctp_tft.ClassAware, "aware", watched)
        found = ctp_tft.claim.arms["agnostic"](trial)
    assert set(found) == {"base", "novel", "H", "all", "gain", "cosine"}
    assert -1 <= found["cosine"] <= 1
    assert {len(texts) for texts in asked} == {2, 4}
    assert all(torch.equal(texts, texts[:1].expand_as(texts)) for texts in asked)
    for texts in asked:
        torch.testing.assert_close(texts.norm(dim=-1), torch.ones(len(texts)))
