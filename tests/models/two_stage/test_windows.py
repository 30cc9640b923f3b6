"""Attention in windows, averaged with a shifted copy."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diptych.errors import InputError
from diptych.models.two_stage.windows import Windows, _windowed, in_windows
from diptych.towers.image.vit import ViT, ViTConfig


class Means(nn.Module):
    """A tower whose first layer replaces each patch by the mean of those it attends to; the second
    one changes nothing."""

    prefix = 0
    config = SimpleNamespace(depth=2)

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Identity()

    def grid(self, x):
        return x.shape[-2], x.shape[-1]

    def embed(self, x):
        return self.patch_embed(x).flatten(2).mT

    def blocks(self, tokens, start, stop):
        return tokens.mean(1, keepdim=True).expand_as(tokens) if start == 0 else tokens

    def finish(self, tokens, grid):
        return tokens.unflatten(1, grid)[..., 0]


def test_anchor_of_two_windows_and_a_shift_of_half_a_window():
    """In both directions, since patches are alike across the other one."""
    x = torch.arange(1.0, 9.0).expand(1, 1, 8, 8)
    plain = in_windows(Means(), x, Windows(count=2, everywhere=1, shift=0))
    both = in_windows(Means(), x, Windows(count=2, everywhere=1, shift=2))
    assert plain[0, 0].tolist() == [2.5] * 4 + [6.5] * 4
    assert both[0, 0].tolist() == [3.5] * 4 + [5.5] * 4
    turned = in_windows(Means(), x.mT, Windows(count=2, everywhere=1))  # half a window by default
    assert turned[0, :, 0].tolist() == both[0, 0].tolist()


def tower(**options):
    torch.manual_seed(0)
    made = ViT(
        ViTConfig(image_size=32, patch=4, width=32, depth=4, heads=2, registers=1, **options)
    )
    return made.double().eval()


X = torch.rand(2, 3, 32, 32, dtype=torch.float64)


def test_one_window_is_the_plain_tower_by_both_routes():
    made = tower()
    for route in ("tokens", "values"):
        found = in_windows(made, X, Windows(count=1, shift=0), route)
        wanted = made(X, route=route)
        assert torch.allclose(found.patches, wanted.patches, atol=1e-12)
    assert torch.allclose(
        in_windows(made, X, Windows(count=1, shift=0)).pooled, made(X).pooled, atol=1e-12
    )


def test_all_layers_everywhere_are_the_plain_tower():
    made = tower()
    found = in_windows(made, X, Windows(count=2, everywhere=4, shift=0))
    assert torch.allclose(found.tokens, made(X).tokens, atol=1e-12)


def test_without_positions_a_shift_changes_nothing_where_all_attend_to_all():
    made = tower()
    nn.init.zeros_(made.positions)
    for shift in (1, 3):
        found = in_windows(made, X, Windows(count=2, everywhere=4, shift=shift))
        assert torch.allclose(found.tokens, made(X).tokens, atol=1e-10)


def test_positions_stay_where_the_patches_move():
    """With positions the copy differs, and is not the plain tower on moved pixels."""
    made = tower()
    found = in_windows(made, X, Windows(count=2, everywhere=4, shift=3))
    assert (found.tokens - made(X).tokens).abs().max() > 1e-3


@torch.no_grad()
def test_a_window_sees_nothing_of_the_others():
    made = tower()
    other = X.clone()
    other[:, :, 16:] = 0.3  # the lower half
    windows = Windows(count=2, everywhere=1, shift=0)
    tokens = []
    for x in (X, other):
        seen = made.embed(x)
        tokens.append(_windowed(made, seen, (8, 8), windows.count, 0, 3)[:, made.prefix :])
    upper, lower = (tokens[0] - tokens[1]).unflatten(1, (8, 8)).abs().amax((0, 3)).split(4)
    assert float(upper.max()) < 1e-12
    assert float(lower.min()) > 1e-6


def test_gradients_reach_the_tower_through_both_copies():
    made = tower()
    in_windows(made, X, Windows(count=2, everywhere=1)).patches.square().sum().backward()
    for name in ("patch_embed.weight", "positions", "transformer.layers.0.attn.q.weight"):
        assert float(made.get_parameter(name).grad.abs().sum()) > 0


def test_patches_that_are_no_whole_windows():
    with pytest.raises(InputError, match="8 x 8 patches are not 3 x 3 equal windows"):
        in_windows(tower(), X, Windows(count=3))
    with pytest.raises(InputError, match="of vision transformers"):
        in_windows(nn.Identity(), X, Windows(count=2))
