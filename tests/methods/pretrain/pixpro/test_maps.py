"""The propagation module and the feature pyramid."""

import math

import pytest
import torch
from tests.factories import raw
from torch.nn.functional import normalize

from diptych.errors import InputError
from diptych.methods.pretrain.pixpro.maps import Propagation, Pyramid
from diptych.towers.build import image_tower

CONV = "conv:image_size=32:widths=(8,16):depths=(1,1)"


def positions(n, d, k):
    return raw(n, d, k).T[None]


def slow(z, gamma, transform):
    """By loops over positions."""
    unit = [row / row.norm() for row in z]
    values = [transform(row) / transform(row).norm() for row in z]
    least = 1e-6 if gamma < 1 else 0.0
    return [
        sum(
            (max(float(mine @ other), 0) + least) ** gamma * value
            for other, value in zip(unit, values, strict=True)
        )
        for mine in unit
    ]


def test_figures_of_the_propagation():
    z = positions(3, 4, 0)
    unit = normalize(z, dim=-1)
    similar = (unit @ unit.mT).clamp(min=0) ** 2
    expected = torch.eye(4, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 0.2940590496
    expected[2, 3] = expected[3, 2] = 0.3504050339
    torch.testing.assert_close(similar[0], expected, atol=1e-10, rtol=0)
    found = Propagation(3, layers=0)(z)[0, :, 0]
    figures = (0.5139251755, 0.9058897199, -0.5565685333, -0.9987334574)
    assert found.tolist() == pytest.approx(figures, abs=1e-10)


@pytest.mark.parametrize(("gamma", "layers"), [(2.0, 1), (1.0, 0), (3.0, 2), (0.5, 1)])
def test_propagation_is_that_of_loops(gamma, layers):
    torch.manual_seed(0)
    module = Propagation(3, gamma, layers).double().eval()
    z = positions(3, 5, 1)
    found = module(z)[0]
    torch.testing.assert_close(
        found, torch.stack(slow(z[0], gamma, lambda row: module.transform(row[None])[0])),
        atol=1e-12, rtol=0,
    )  # fmt: skip
    biases = [name for name, _ in module.named_parameters() if name.endswith("bias")]
    assert len(biases) == (layers if layers < 2 else 3)  # of each linear layer, and of the norm


def test_orthogonal_positions_stay_and_equal_ones_keep_their_direction():
    module = Propagation(4, layers=0)
    apart = torch.eye(4)[None]
    assert torch.equal(module(apart), apart)
    row = normalize(torch.tensor([1.0, 2.0, -1.0, 0.5]), dim=0)
    torch.testing.assert_close(module(row.expand(1, 6, 4)), 6 * row.expand(1, 6, 4))


def test_a_power_below_one_has_a_finite_gradient_at_0():
    z = torch.eye(3)[None].requires_grad_()
    Propagation(3, gamma=0.5, layers=0)(z).sum().backward()
    assert z.grad.isfinite().all()


def test_a_pyramid_keeps_the_tower_and_is_built_from_its_spec():
    torch.manual_seed(0)
    tower = image_tower(CONV).eval()
    pyramid = Pyramid.of(tower, 2, 4).eval()
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = pyramid(x)
    assert torch.equal(found.tokens, tower(x).tokens)
    assert torch.equal(found.pooled, tower(x).pooled)
    # the coarsest level has what comes from above alone, the other also its own map
    coarse = pyramid.pyramid.layer_blocks[1](pyramid.pyramid.inner_blocks[1](tower(x).levels[1]))
    torch.testing.assert_close(found.levels[1], coarse)
    again = image_tower(pyramid.spec).eval()
    again.load_state_dict(pyramid.state_dict())
    # a method that does not read the levels would wait for their gradients on many ranks
    assert not any(parameter.requires_grad for parameter in again.pyramid.parameters())
    assert torch.equal(again(x).levels[0], found.levels[0])
    assert Pyramid.of(again, 2, 4) is again
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert Pyramid.of(again, 0, 4) is again.inner
    assert Pyramid.of(tower, 0, 4) is tower
    with pytest.raises(InputError, match="levels=2 and channels=4, and levels=1 and channels=4"):
        Pyramid.of(again, 1, 4)


@pytest.mark.parametrize(
    ("spec", "count"),
    [("vit:image_size=32:patch=8:width=16:depth=1:heads=1", 0), (CONV, 2), ("timm:test_resnet:image_size=32", 1)],
)  # fmt: skip
def test_a_pyramid_needs_maps(spec, count):
    with pytest.raises(InputError, match=f"gives {count} feature maps, and the pyramid has 3"):
        Pyramid.of(image_tower(spec), 3, 8)


def test_timms_maps_of_all_stages_have_a_pyramid():
    tower = image_tower("timm:test_resnet:image_size=64:levels=true")
    with torch.no_grad():
        found = Pyramid.of(tower, 3, 8).eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(level.shape) for level in found.levels] == [
        (1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 2, 2)
    ]  # fmt: skip
    assert math.prod(found.grid) == found.patches.shape[1] == 4
