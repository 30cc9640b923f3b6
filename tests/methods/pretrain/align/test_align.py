"""ALIGN: numeric anchors, parity with transformers, the divisor, the towers of the published
size."""

import math

import pytest
import torch
from tests.factories import TEXT, make_method
from torch.nn.functional import normalize

from diptych.errors import InputError
from diptych.methods.pretrain.align import ALIGN

COSINES = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.1], [0.0, 0.3, 0.7]])


def method(**config):
    return make_method(ALIGN, text=f"{TEXT}:causal=false:pooling=first", **config)


def loss(cosines=COSINES, **config):
    """Rows of the identity have the columns of any matrix as their similarities."""
    return method(**config).terms(torch.eye(len(cosines)), cosines.T.contiguous())["contrastive"]


@pytest.mark.parametrize(
    ("config", "total"),
    [
        ({"smoothing": 0.0}, 0.702420 + 0.700842),
        ({}, 0.747976 + 0.746397),
        ({"sigma": 0.07, "smoothing": 0.0}, 0.001568),
        ({"sigma": 0.07}, 2 * 0.651578),
    ],
)
def test_the_loss_sums_both_directions_at_a_divisor(config, total):
    assert float(loss(**config)) == pytest.approx(total, abs=2e-6)
    assert float(loss(COSINES.T.contiguous(), **config)) == pytest.approx(total, abs=2e-6)
    assert float(loss(learned=False, **config)) == pytest.approx(total, abs=2e-6)


def test_the_divisor_wants_to_fall_from_one():
    held = method()
    held.terms(torch.eye(3), COSINES.T.contiguous())["contrastive"].backward()
    assert float(held.model.logit_scale.value.grad) == pytest.approx(2 * 0.291323, abs=1e-5)


def test_equal_embeddings_cost_log_n_each_way():
    for config in ({}, {"sigma": 0.07}, {"smoothing": 0.0}):
        assert float(loss(torch.ones(5, 5), **config)) == pytest.approx(2 * math.log(5), abs=1e-5)


def test_the_divisor_stays_above_its_least_value_and_has_no_decay():
    held = method(sigma=0.5, least_sigma=0.25)
    with torch.no_grad():
        held.model.logit_scale.value.fill_(-1.0)
    held.model.logit_scale.clamp_()
    assert float(held.model.logit_scale()) == 4.0
    assert held.model.logit_scale.value.ndim == 0  # what has no dimension gets no decay


@pytest.mark.parity
def test_twice_the_loss_of_transformers():
    """Its loss is the mean of the two directions, the paper's their sum."""
    from transformers.models.align.modeling_align import align_loss

    generator = torch.Generator().manual_seed(0)
    image, text = (normalize(torch.randn(6, 32, generator=generator), dim=1) for _ in range(2))
    found = method(sigma=0.3).terms(image, text)["contrastive"]
    torch.testing.assert_close(found, 2 * align_loss(text @ image.T / 0.3))


def test_the_image_tower_is_projected_only_where_widths_differ():
    assert isinstance(method().model.image_projection, torch.nn.Identity)
    assert method().model.text_projection.bias is not None
    assert make_method(ALIGN, embed_dim=16).model.image_projection.weight.shape == (16, 32)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"smoothing": 1.0}, "'smoothing' of method ALIGN is 1.0"),
        ({"sigma": 0.0}, "'sigma' of method ALIGN is 0.0"),
        ({"least_sigma": 2.0}, "in order"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        ALIGN.configure(config)


def test_published_images_are_scaled_alike_in_training_and_outside():
    from diptych.towers.build import image_tower

    preset = ALIGN.presets["paper"]
    with torch.device("meta"):
        preprocess = image_tower(preset.image).preprocess
    assert (preprocess.edge, preprocess.size) == (346, 289)
    crop = preset.config["augment"]["crop"][0]
    assert preprocess.size / crop**0.5 == pytest.approx(preprocess.edge, rel=0.005)
