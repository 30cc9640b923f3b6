"""The depth of the volumes that tasks read, and the head of the image tower."""

from dataclasses import replace
from typing import Any

from tests.factories import make_method

from diptych.methods.domain.renalclip import RenalCLIP
from diptych.methods.make import Make

TOWER = "resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3"
WORDS = "text:width=16:depth=1:heads=2:causal=false:pooling=mean"


def test_volumes_of_a_task_are_scaled_to_the_depth_that_is_read():
    """The alignment crops in depth, at random in training; a saved task keeps what it has."""
    encoder: Any = make_method("renalclip", image=TOWER, text=WORDS, embed_dim=16).model
    encoder.image.preprocess = replace(encoder.image.preprocess, scaled=(12, 20))
    config = RenalCLIP.configure({"task": "survival"})
    given: Any = {"image": "none", "text": "none", "embed_dim": 16, "tokenizer": None}
    given["dual"] = encoder.config()
    made: Any = RenalCLIP(config, Make(**given))
    assert made.model.image.preprocess.scaled == (12, 20)
    made = RenalCLIP(config, Make(**given, state=encoder.state_dict()))
    assert made.model.image.preprocess.scaled == (8, 20)
    assert made.volume_view(()).preprocess.scaled == (8, 20)
    assert made.model.encoder.config()["image"]["preprocess"]["scaled"] == [8, 20]


def test_the_projection_may_have_a_hidden_layer():
    head = "mlp:bias=true:last_bias=true:last_norm=plain"
    made: Any = make_method(
        "renalclip", image=TOWER, text=WORDS, embed_dim=16, image_projection=head
    )
    layers = made.model.image_projection
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert layers[1].affine
    assert not layers[4].affine
