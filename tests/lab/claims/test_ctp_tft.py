"""The claim on class-aware prompts asks what it says: recipes alike but for rates, halves left out,
one query."""

from dataclasses import replace

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method, zero_shot

from diptych.lab import adapting
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import ctp_tft

FOUR = "red cat+blue cat+red bus+blue bus"
WORLD = f"scenes:number=1:objects=cat+bus:colours=red+blue:held_out=0.0:texts=caption:classes={FOUR}:of=pair"


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("ctp_tft"))
    assert "agnostic" not in claim.learning


def test_arms_differ_in_method_change_and_the_rate_of_the_method_alone(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change

    monkeypatch.setattr(adapting, "run", run)
    monkeypatch.setattr(adapting, "load", lambda folder: None)
    monkeypatch.setattr(ctp_tft, "as_one", lambda classifier: None)
    monkeypatch.setattr(ctp_tft, "halves", lambda model, trial: {})
    monkeypatch.setattr(ctp_tft, "cosine", lambda model, trial: 0.0)
    for name, arm in ctp_tft.claim.arms.items():
        if name not in (
            "names",
            "agnostic",
        ):  # the first trains nothing, the other is measured by a part of the model
            assert arm(Trial(seed=3, folder=tmp_path, prelude={"train": "scenes:count=4"})) == {
                "cosine": 0.0
            }
    assert {name: config.method for name, config in begun.items()} == {
        "coop": "coop",
        "cocoop": "cocoop",
        "still": "cocoop",
        "ctp_tft": "ctp_tft",
        "ctp": "ctp_tft",
        "tft": "ctp_tft",
    }
    assert {name for name, change in changes.items() if change} == {"still", "ctp", "tft"}
    rates = {name: config.recipe.lr for name, config in begun.items()}
    assert rates == {
        "coop": 0.02,
        "cocoop": 0.02,
        "still": 0.02,
        "ctp_tft": 0.01,
        "ctp": 0.01,
        "tft": 0.01,
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


@pytest.mark.parametrize(("change", "out"), [(ctp_tft.ctp, "tuned"), (ctp_tft.tft, "aware")])
def test_a_half_that_is_left_out_adds_nothing_after_steps_either(change, out):
    made = method("ctp_tft")
    change(made)
    for _ in range(2):
        step(made)
    model = made.model.eval()
    with torch.no_grad():
        image, patches = model.look(model.encoder.encode_image(random_images(2)))
        classes = model.aware(image, patches, model.text_features())
        found = {"tuned": model.tuned(image, patches, classes), "aware": classes}
        kept = {
            "tuned": image,
            "aware": model.pair_features(torch.zeros(2, 1, 32)),
        }  # with no shift
        other = "aware" if out == "tuned" else "tuned"
        torch.testing.assert_close(found[out], kept[out])
        assert not torch.allclose(found[other], kept[other], atol=1e-4)


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
    assert set(found) == {"base", "novel", "H", "all", "cosine"}
    assert -1 <= found["cosine"] <= 1
    assert {len(texts) for texts in asked} == {2, 4}
    assert all(torch.equal(texts, texts[:1].expand_as(texts)) for texts in asked)
