"""What DenseCLIP reads of an image tower: maps of several scales, and vectors of all positions in the
space of texts.

    [z_bar; z] = P · MHSA([mean(x); x] + positions)          a ResNet of CLIP, with every position a query
    z_bar, z   = P · norm(CLS), P · norm(patches)            a ViT

Other towers give P · x of their last map. One under a new attention pool (`backbone.PooledTower`) is
read as a ResNet of CLIP is.

Dimensions: B images, E embedding, C_i channels of map i, D width, h x w positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError
from diptych.models.mode import evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.attention import attend
from diptych.towers.regions import set_size

LEVELS = 4
"""The number of maps that are read."""


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """`maps` (B, C_i, h_i, w_i), fine to coarse or, of a ViT, of its blocks; the image's `vector`
    (B, E) and the `positions` (B, E, h, w), not normalised."""

    maps: Sequence[Tensor]
    vector: Tensor
    positions: Tensor


def tap_counts(depth: int) -> tuple[int, ...]:
    """After how many of a ViT's blocks maps are taken: a third, a half, two thirds, and all.

    >>> tap_counts(12), tap_counts(4)
    ((4, 6, 8, 12), (1, 2, 3, 4))
    """
    return tuple(max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1))


def is_vit(tower: Any) -> bool:
    """Whether maps are taken from blocks of one size, which need a pyramid."""
    return hasattr(_inner(tower), "transformer")


def _inner(tower: Any) -> Any:
    """The tower under a new attention pool, or the tower itself."""
    return getattr(tower, "inner", tower)


def prepared(tower: Any, size: int | None) -> None:
    """Make an image tower read images of `size` pixels, if it is given, and return all its maps and
    positions. Raises InputError for a size that is not made of whole patches."""
    if getattr(tower.config, "patch_dropout", 0.0):
        tower.config = replace(tower.config, patch_dropout=0.0)
    if getattr(tower.config, "levels", None) is False:
        tower.config = replace(tower.config, levels=True)
    if size is not None:
        set_size(tower, size, "method.size")


def map_widths(encoder: DualEncoder) -> tuple[int, ...]:
    """The channels of the maps. Raises InputError for a tower that has none."""
    tower: Any = encoder.image
    if is_vit(tower):
        return (tower.width,) * LEVELS
    device = next(tower.parameters()).device
    pixels = torch.zeros(1, *tower.preprocess.shape, dtype=torch.uint8, device=device)
    with evaluating(encoder), torch.no_grad():
        return tuple(each.shape[1] for each in dense_features(encoder, pixels).maps)


def dense_features(encoder: DualEncoder, x: Tensor) -> DenseFeatures:
    """The maps, the vector and the positions of images (B, 3, H, W)."""
    tower: Any = encoder.image
    if is_vit(tower):
        counts = tap_counts(len(_inner(tower).transformer.layers))
        encoded, maps = tapped(encoder, x, counts)
    else:
        encoded = encoder.encode_image(x)
        maps = list(encoded.levels[-LEVELS:])
    grid = encoded.grid
    if grid is None or not maps or (maps[0].shape == maps[-1].shape and not is_vit(tower)):
        raise InputError(
            "this image tower has no maps of several scales, which are segmented; choose vit, conv, a "
            "ResNet of timm or open_clip, or a Swin of timm"
        )
    if "values" in tower.routes and not is_vit(tower):  # it pools by attention
        rows = encoder.project_image(pool_rows(tower.model.head, maps[-1]))
        vector = rows[:, 0]
        positions = rows[:, 1:]
    else:
        vector = encoder.image_vectors(encoded)
        positions = encoder.position_vectors(encoded)
    return DenseFeatures(maps, vector, positions.mT.unflatten(2, grid))


def tapped(encoder: DualEncoder, x: Tensor, counts: Sequence[int]) -> tuple[Encoded, list[Tensor]]:
    """Images as a ViT encodes them, and their patches after these numbers of blocks as maps (B, D,
    h, w), before the final norm."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, tokens: Tensor) -> Tensor:
        if layer in counts:
            found[layer] = tokens
        return tokens

    encoded = encoder.encode_image(x, edit=keep)
    assert encoded.grid is not None, "all patches are there"
    assert encoded.raw is not None, "a ViT returns its tokens before the norm"
    count = encoded.grid[0] * encoded.grid[1]
    patches = slice(encoded.prefix, encoded.prefix + count)
    maps = [found.get(layer, encoded.raw)[:, patches] for layer in counts]
    return encoded, [each.mT.unflatten(2, encoded.grid) for each in maps]


def pool_rows(pool: Any, x: Tensor) -> Tensor:
    """What the attention pool of a ResNet of CLIP gives for each query (B, 1 + h · w, D) of a map
    (B, D, h, w): first the mean, whose row is the pooled vector, then each position.

    `pool` is timm's AttentionPool2d. Its positions are interpolated bilinearly.
    """
    grid = x.shape[-2:]
    tokens = x.flatten(2).mT
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
    tokens = tokens + _pool_positions(pool, grid)
    joined = pool.qkv is not None
    parts = (
        pool.qkv(tokens).chunk(3, -1)
        if joined
        else [pool.q(tokens), pool.k(tokens), pool.v(tokens)]
    )
    q, k, v = (each.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for each in parts)
    return attend(q, k, v).transpose(1, 2).flatten(2)


def _pool_positions(pool: Any, grid: tuple[int, ...]) -> Tensor:
    """The positions (1 + h · w, D) of a grid: that of the mean, and those of the map."""
    places = pool.pos_embed
    if tuple(pool.feat_size) == tuple(grid):
        return places
    whole = places[1:].T.unflatten(1, tuple(pool.feat_size))[None]
    resized = F.interpolate(whole, tuple(grid), mode="bilinear", align_corners=False)
    return torch.cat([places[:1], resized[0].flatten(1).T])
