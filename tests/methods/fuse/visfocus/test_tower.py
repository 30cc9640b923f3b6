"""The tower of VisFocus: SwinV2's own tokens without a prompt, what a prompt adds against a slow reference,
padding, both blends, and sizes."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.fuse.helpers import attention, norm

from diptych.errors import InputError
from diptych.methods.fuse.visfocus.tower import (
    PromptAttention,
    PromptedSwin,
    SwinConfig,
    neighbours,
)
from diptych.towers.build import image_tower

SMALL = {"image_size": 32, "width": 8, "heads": 2, "depths": (1, 2, 1), "window": 4}


def tower(seed=0, prompted=(1, 2, 3), scale=1.0, **insert):
    torch.manual_seed(seed)
    made = PromptedSwin(SwinConfig(**SMALL)).double()
    if prompted:
        made.insert(6, prompted, **insert)
    made = made.double().eval()
    for module in made.vilma.values():  # away from what is published, which is near 0
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3 * scale)
    return made


def prompts(count=2, tokens=5, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, tokens, 6, generator=generator, dtype=torch.float64)


@torch.no_grad()
def test_without_a_prompt_it_is_swin_v2():
    for made in (tower(prompted=()), tower()):
        x = made.pixels(random_images(2))
        expected = made.swin.forward_features(x)
        found = made(x)
        assert torch.equal(found.tokens, expected.flatten(1, 2))
        assert torch.equal(found.pooled, found.tokens.mean(1))
        assert found.grid == (2, 2)


def test_sizes_are_the_published_ones():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        made = PromptedSwin(SwinConfig())
        other = timm.create_model("swinv2_small_window16_256", num_classes=0)
        own = sum(parameter.numel() for parameter in made.parameters())
        made.insert(768, (1, 2, 3, 4))
        prompt = torch.empty(1, 20, 768)
        tokens = made(torch.empty(1, 3, 1536, 768), prompt=prompt).tokens
    assert [made.config.grid(stage) for stage in range(4)] == [
        (384, 192), (192, 96), (96, 48), (48, 24),
    ]  # fmt: skip
    assert tokens.shape == (1, 1152, 768)
    assert own == sum(parameter.numel() for parameter in other.parameters())
    widths = {name: module.positions.shape for name, module in made.vilma.items()}
    assert widths == {
        "1": (192, 96, 384), "2": (96, 48, 768), "3": (48, 24, 1536), "4": (48, 24, 768),
    }  # fmt: skip
    assert [module.attention.heads for module in made.vilma.values()] == [3, 6, 12, 24]


def test_neighbours_are_joined_in_the_published_order():
    x = torch.arange(4 * 6 * 2.0).view(1, 4, 6, 2)
    found = neighbours(x)
    for row in range(2):
        for column in range(3):
            cells = [(0, 0), (1, 0), (0, 1), (1, 1)]
            parts = [x[0, 2 * row + down, 2 * column + right] for down, right in cells]
            assert torch.equal(found[0, row, column], torch.cat(parts))
    assert neighbours(x[:, :3]).shape == (1, 2, 3, 8)  # an odd side is filled up


@torch.no_grad()
def test_what_a_prompt_adds_is_that_of_a_slow_reference():
    made = tower()
    images = random_images(2)
    states, mask = prompts(), torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = made(images, prompt=states, mask=mask).tokens
    for row in range(2):
        keys = [state for state, real in zip(states[row], mask[row], strict=True) if real]
        x = made.swin.patch_embed(made.pixels(images[row : row + 1]))
        for number, stage in enumerate(made.swin.layers):
            if number:
                merging = stage.downsample
                h, w = x.shape[1] // 2, x.shape[2] // 2
                merged = torch.zeros(1, h, w, merging.norm.weight.numel(), dtype=torch.float64)
                cells = [
                    torch.cat(
                        [x[0, 2 * i + a, 2 * j + b] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
                    )
                    for i in range(h)
                    for j in range(w)
                ]
                blended = looked(made.vilma[str(number)], cells, keys)
                for at, cell in enumerate(blended):
                    merged[0, at // w, at % w] = norm(merging.reduction.weight @ cell, merging.norm)
                x = merged
            for block in stage.blocks:
                x = block(x)
        last = looked(made.vilma["3"], list(x[0].flatten(0, 1)), keys)
        expected = torch.stack([norm(cell, made.swin.norm) for cell in last])
        assert torch.allclose(found[row], expected, atol=1e-10)


def looked(module, cells, keys):
    """(X + LN(MHA(X + P, prompt))) / 2, cell by cell."""
    places = module.positions.flatten(0, 1)
    queries = [cell + place for cell, place in zip(cells, places, strict=True)]
    read = attention(module.attention, queries, keys)
    return [(cell + norm(each, module.norm)) / 2 for cell, each in zip(cells, read, strict=True)]


@torch.no_grad()
def test_padding_and_the_order_of_a_prompt_change_nothing():
    made = tower()
    images, states = random_images(2), prompts()
    found = made(images, prompt=states).tokens
    filled = torch.cat([states, torch.full((2, 3, 6), 9.0, dtype=torch.float64)], 1)
    mask = torch.arange(8) < torch.tensor([[5], [5]])
    assert torch.allclose(made(images, prompt=filled, mask=mask).tokens, found, atol=1e-12)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(made(images, prompt=states[:, order]).tokens, found, atol=1e-12)
    assert not torch.allclose(made(images, prompt=states + 1).tokens, found, atol=1e-3)
    layer = made.vilma["1"]
    x = neighbours(made.embed(images))
    weights = layer.attention.weights(layer.queries(x), filled, mask=mask)
    assert weights.shape == (2, 2, 16, 8)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 16, dtype=torch.float64))
    assert float(weights[..., 5:].max()) == 0


@torch.no_grad()
def test_both_blends_give_the_same_tokens_up_to_the_epsilon_of_the_norm():
    mean, total = tower(blend="mean"), tower(blend="sum")
    images, states = random_images(2), prompts()
    for eps in (0.0, 1e-5):
        for made in (mean, total):
            for module in made.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = eps
        x = neighbours(mean.embed(images))
        layer, merging = mean.vilma["1"], mean.swin.layers[1].downsample
        reduced = merging.reduction(2 * layer(x, states))
        one = merging.norm(merging.reduction(layer(x, states)))
        other = merging.norm(merging.reduction(total.vilma["1"](x, states)))
        apart = (one / other - 1).abs().amax(-1)
        assert bool((apart <= 1.6 * eps / reduced.var(-1, unbiased=False) + 1e-12).all())
        if not eps:
            found = [made(images, prompt=states).tokens for made in (mean, total)]
            assert torch.allclose(*found, atol=1e-9)


@torch.no_grad()
def test_a_prompt_that_says_nothing_leaves_plain_merging():
    made = tower(prompted=(1, 2))
    for module in made.vilma.values():
        for part in (module.attention.v, module.attention.out, module.norm):
            part.bias.zero_()
        module.attention.v.weight.zero_()
        module.norm.bias.fill_(0.25)
    x = neighbours(made.embed(random_images(2)))
    found = made.vilma["1"](x, prompts())
    assert torch.allclose(found, (x + 0.25) / 2)  # A is the bias of its norm
    for module in made.vilma.values():
        module.norm.bias.zero_()
    for module in made.swin.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.0
    images = random_images(2)
    assert torch.allclose(made(images, prompt=prompts()).tokens, made(images).tokens, atol=1e-9)


def test_queries_begin_at_the_identity_and_are_trained_or_not():
    for query, is_identity, trained in (
        ("identity", True, True),
        ("frozen", True, False),
        ("random", False, False),
    ):
        torch.manual_seed(0)
        layer = PromptAttention(8, 2, 6, (2, 2), query=query).attention.q
        assert torch.equal(layer.weight, torch.eye(8)) == is_identity
        assert layer.weight.requires_grad == trained
        assert getattr(layer.weight, "frozen", False) != trained


@torch.no_grad()
def test_images_of_another_size_have_interpolated_positions():
    made = tower()
    found = made(random_images(2, 64), prompt=prompts())
    assert (found.grid, found.tokens.shape) == ((4, 4), (2, 16, 32))
    layer = made.vilma["2"]
    layer.positions.fill_(0.5)
    x = torch.zeros(1, 6, 4, layer.positions.shape[-1], dtype=torch.float64)
    assert torch.allclose(layer.queries(x), torch.full((1, 24, x.shape[-1]), 0.5).double())


def test_the_spec_builds_the_same_tower():
    made = tower(prompted=(2, 3), query="frozen")
    again = image_tower(made.spec).double()
    again.load_state_dict(made.state_dict())
    again.eval()
    images, states = random_images(2), prompts()
    assert again.spec == made.spec
    assert torch.equal(again(images, prompt=states).tokens, made(images, prompt=states).tokens)
    assert sorted(again.vilma) == ["2", "3"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image_size": 40}, "multiples of 16, and image_size is 40"),
        ({"heads": 3}, "cannot be split over 3 heads"),
        ({"depths": (1, 0)}, "are at least 1"),
        ({"prompted": (4,)}, "there are the stages 1 to 3"),
        ({"prompted": (1, 1)}, "name each once"),
    ],
)
def test_what_does_not_fit_is_told(options, told):
    with pytest.raises(InputError, match=told):
        SwinConfig(**{**SMALL, **options})


def test_windows_have_nothing_to_edit():
    with pytest.raises(InputError, match="choose a vit"):
        tower(prompted=())(random_images(1), edit=lambda layer, tokens: tokens)
