"""A vision transformer with attention in windows, averaged with a shifted copy of itself (shifted-window
learning of DITO).

    F(x, s) = roll back( blocks( roll(patches(x), s) + positions ) ),      tokens = ½ (F(x, 0) + F(x, s))

The grid of patches is cut into W x W windows, in which the patches attend to each other; in some layers
all of them do. `roll` moves the patches of an image by s rows up and s columns to the right, and those
that leave on one side enter on the other. Positions stay. So patches at the edge of a window are in the
middle of one in the copy, which has the same weights.

CLS tokens and registers are in every window, and are averaged over the windows behind each group of
such layers: ours, since published towers have none. With one window nothing changes.

Dimensions: B images, h x w patches, W x W windows, N tokens, D width.
"""

import copy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.spec import Count, NotNegative
from diptych.towers.encoded import Encoded


@dataclass(frozen=True, kw_only=True)
class Windows:
    """`count` windows a side, `everywhere` layers in which all patches attend to each other, evenly
    spaced with the last one among them, and by how many patches the copy is `shift`ed (0: there is
    no copy; None: by half a window)."""

    count: Count = 4
    everywhere: Count = 4
    shift: NotNegative | None = None

    def shift_of(self, grid: tuple[int, int]) -> int:
        """The shift on a grid of patches."""
        half = min(grid) // self.count // 2
        return half if self.shift is None else int(self.shift)

    def layers(self, depth: int) -> frozenset[int]:
        """The layers without windows.

        >>> sorted(Windows().layers(12)), sorted(Windows(everywhere=1).layers(12))
        ([2, 5, 8, 11], [11])
        """
        count = min(self.everywhere, depth)
        return frozenset((at + 1) * depth // count - 1 for at in range(count))


def in_windows(tower: Any, x: Tensor, windows: Windows, route: str = "tokens") -> Encoded:
    """Encode images (B, 3, H, W) by a ViT. By the `route` "values" each token attends to itself alone
    in the last layer, as in `ViT.forward`.

    Raises InputError for another tower, and for a grid that is not made of whole windows.
    """
    if not hasattr(tower, "patch_embed"):
        raise InputError(
            "attention in windows is of vision transformers; choose vit, or windows of count 1"
        )
    grid = tower.grid(x)
    if grid[0] % windows.count or grid[1] % windows.count:
        raise InputError(
            f"{grid[0]} x {grid[1]} patches are not {windows.count} x {windows.count} equal windows; choose another "
            "size, or count"
        )
    tokens = _run(tower, x, windows, 0, route)
    if shift := windows.shift_of(grid):
        tokens = (tokens + _run(tower, x, windows, shift, route)) / 2
    return tower.finish(tokens, grid)


def _run(tower: Any, x: Tensor, windows: Windows, shift: int, route: str) -> Tensor:
    """The tokens (B, N, D) before the final norm, of a copy that is shifted."""
    grid = tower.grid(x)
    tokens = (_shifted(tower, shift) if shift else tower).embed(x)
    depth = tower.config.depth
    everywhere = windows.layers(depth) if windows.count > 1 else frozenset(range(depth))
    run = range(depth if route == "tokens" else depth - 1)
    for alike, group in groupby(run, lambda layer: layer in everywhere):
        start, *rest = group
        stop = [start, *rest][-1] + 1
        if alike:
            tokens = tower.blocks(tokens, start=start, stop=stop)
        else:
            tokens = _windowed(tower, tokens, grid, windows.count, start, stop)
    if route == "values":
        tokens = tower.transformer.layers[depth - 1].values(tokens)
    if not shift:
        return tokens
    first, patches = _parts(tower, tokens)
    back = patches.unflatten(1, grid).roll((shift, -shift), (1, 2)).flatten(1, 2)
    return torch.cat([first, back], dim=1)


def _windowed(
    tower: Any, tokens: Tensor, grid: tuple[int, int], count: int, start: int, stop: int
) -> Tensor:
    """Layers start … stop - 1 on the tokens (B, N, D) of each window."""
    B = len(tokens)
    rows = grid[0] // count
    columns = grid[1] // count
    first, patches = _parts(tower, tokens)
    cells = patches.unflatten(1, (count, rows, count, columns)).transpose(2, 3)
    cells = cells.reshape(B * count**2, rows * columns, -1)
    joined = torch.cat([first.repeat_interleave(count**2, 0), cells], dim=1)
    found = tower.blocks(joined, start=start, stop=stop)
    first = found[:, : tower.prefix].unflatten(0, (B, -1)).mean(1)
    cells = found[:, tower.prefix :].reshape(B, count, count, rows, columns, -1)
    return torch.cat([first, cells.transpose(2, 3).flatten(1, 4)], dim=1)


def _parts(tower: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens before the patches, and the patches."""
    return tokens[:, : tower.prefix], tokens[:, tower.prefix :]


class _Rolled(nn.Module):
    """Patches of images, moved by a shift before positions are added."""

    def __init__(self, patch_embed: nn.Module, shift: int):
        super().__init__()
        self.patch_embed = patch_embed
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_embed(x).roll((-self.shift, self.shift), (2, 3))


def _shifted(tower: Any, shift: int) -> Any:
    """The tower with the same parameters, whose patches are moved."""
    other = copy.copy(tower)
    other._modules = dict(tower._modules)
    other._modules["patch_embed"] = _Rolled(tower.patch_embed, shift)
    return other
