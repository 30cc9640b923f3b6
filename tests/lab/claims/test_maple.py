"""The claim on MaPLe asks what it says: equal recipes, a depth that is `tiny`'s, an image tower
without a signal."""

import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.lab.claim import block, find
from diptych.lab.claims import maple
from diptych.methods.registry import method_class
from diptych.methods.store import load


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("maple"))
    assert "uncoupled" not in claim.learning


def test_the_depth_is_between_the_inputs_and_all_blocks_of_both_towers():
    encoder = load("tiny").encoder
    for tower in (encoder.image, encoder.text):
        assert 1 < maple.DEPTH < len(tower.transformer.layers)


def test_the_target_is_drawings_of_the_things_that_the_model_knows():
    source = open_source(maple.TARGET)
    assert len(source) == len(maple.DESIGNS) * len(COMMON)
    assert set(source.schema()["labels.concept"].classes) == set(COMMON)


def test_the_preset_for_new_target_data_has_the_published_numbers():
    preset = method_class("maple").preset("transfer")
    assert preset.config["depth"] == 3
    assert (preset.recipe.lr, preset.recipe.epochs, preset.recipe.batch_size) == (0.0026, 2, 4)
    assert preset.image == method_class("maple").preset("paper").image


def test_uncoupled_prompts_are_zero_in_the_image_tower_and_stay_so():
    made = method("maple", depth=3)
    maple.uncoupled(made)
    assert all(float(vectors.detach().abs().max()) == 0 for vectors in made.model.image_prompts())
    made.train()
    torch.nn.functional.cross_entropy(
        made.model(random_images(3)), torch.tensor([0, 1, 2])
    ).backward()
    assert all(parameter.grad is None for parameter in made.model.couple.parameters())
    assert made.model.context.grad is not None
