"""The claim on MaPLe asks what it says: equal recipes, a depth that is `tiny`'s, an image tower
without a signal."""

import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method

from diptych.lab.claim import block, find
from diptych.lab.claims import maple
from diptych.methods.store import load


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("maple"))
    assert "uncoupled" not in claim.learning


def test_the_depth_is_that_of_both_towers():
    encoder = load("tiny").encoder
    assert (
        len(encoder.image.transformer.layers) == len(encoder.text.transformer.layers) == maple.DEPTH
    )


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
