"""Vectors of regions: boxes pooled from the positions of an image tower.

Dimensions: B images, R boxes, C channels, E embedding, h x w positions, S pooled positions a side.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.tower import ImageTower


def pool_boxes(maps: Tensor, boxes: Tensor, size: int = 1) -> Tensor:
    """Pool boxes (B, R, 4) from maps (B, C, h, w): (B, R, C), or (B, R, C, S, S) for a `size` S
    above 1.

    Boxes are x0, y0, x1, y1 as shares of the map. Each of the S x S parts of a box is the mean of
    samples that are interpolated bilinearly, about one for each position (RoIAlign of He et al.,
    2017, aligned). A box without area gives zeros.

    >>> maps = torch.arange(16.0).view(1, 1, 4, 4)
    >>> pool_boxes(maps, torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5]]])).tolist()
    [[[2.5], [4.5]]]
    """
    from torchvision.ops import roi_align  # not above: it loads torch's compiler, for a second

    maps = at_least_float32(maps)
    B, R = boxes.shape[:2]
    h, w = maps.shape[-2:]
    # in float64: a width that rounds up across a whole number of positions takes a sample more
    corners = boxes.double() * boxes.new_tensor([w, h, w, h], dtype=torch.float64)
    image = torch.arange(B, device=maps.device).repeat_interleave(R)
    rows = torch.cat([image[:, None].to(maps), corners.flatten(0, 1).to(maps)], dim=1)
    found = roi_align(maps, rows, size, sampling_ratio=-1, aligned=True).unflatten(0, (B, R))
    return found[..., 0, 0] if size == 1 else found


def area_weights(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The share of each cell of a grid (h, w) that lies inside each box (…, 4): (…, h, w), in 0 … 1.

    Boxes are x0, y0, x1, y1 as shares of the image, which the cells cover; what lies outside of it does
    not count. The sum over the cells, times the area of one, is the area of the box.

    >>> area_weights(torch.tensor([0.25, 0.0, 0.75, 1.0]), (1, 2))
    tensor([[0.5000, 0.5000]])
    """
    h, w = grid
    x0, y0, x1, y1 = at_least_float32(boxes).unbind(-1)
    return _inside(y0 * h, y1 * h, h)[..., :, None] * _inside(x0 * w, x1 * w, w)[..., None, :]


def _inside(low: Tensor, high: Tensor, count: int) -> Tensor:
    """The length (…, count) of each unit 0 … 1, 1 … 2, … that lies between `low` and `high` (…)."""
    start = torch.arange(count, device=low.device, dtype=low.dtype)
    right = torch.minimum(high[..., None], start + 1)
    return (right - torch.maximum(low[..., None], start)).clamp(min=0)


def pool_areas(tokens: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pool boxes (B, R, 4) from the tokens (B, h · w, D) of a grid (h, w) by exact areas: (B, R, D).

        v_r = Σ_q w_rq F_q / Σ_q w_rq,      w_rq the share of cell q inside box r (`area_weights`)

    A box without area in the image gives zeros.

    >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> pool_areas(tokens, torch.tensor([[[0.25, 0.0, 0.75, 1.0]]]), (1, 2))
    tensor([[[0.5000, 0.5000]]])
    """
    tokens = at_least_float32(tokens)
    weights = area_weights(boxes, grid).flatten(-2).to(tokens)
    total = weights.sum(-1, keepdim=True)
    with torch.autocast(tokens.device.type, enabled=False):
        return weights / total.where(total > 0, 1) @ tokens


CROPS = "crops"
"""The route on which a ResNet reads each box by itself: it is cut from the map before the last stage."""


def dense_route(tower: ImageTower) -> str:
    """How a tower computes what is at a position: "values" if it has that route, else "tokens"."""
    return "values" if "values" in tower.routes else "tokens"


def position_maps(encoder: DualEncoder, x: Tensor, route: str | None = None) -> Tensor:
    """Unit vectors of the positions of images (B, 3, H, W), as maps (B, E, h, w).

    `route` is that of the image tower, by default its `dense_route`. Raises InputError for a route
    that the tower lacks, and for a tower without positions.
    """
    return _maps(encoder, _encoded(encoder, x, route))


def _encoded(encoder: DualEncoder, x: Tensor, route: str | None) -> Encoded:
    """The encoded images, with positions by a route."""
    tower = encoder.image
    route = dense_route(tower) if route is None else route
    if route not in tower.routes:
        raise InputError(
            f"this image tower has no route {route!r}; it has {' and '.join(tower.routes)}"
        )
    return encoder.encode_image(x, **({} if route == "tokens" else {"route": route}))


def _maps(encoder: DualEncoder, encoded: Encoded) -> Tensor:
    """Unit vectors of the positions of encoded images, as maps (B, E, h, w)."""
    pooler = encoder.query_pooler
    fits = pooler is not None or encoded.tokens.shape[-1] == encoded.pooled.shape[-1]
    if encoded.grid is None or not fits:
        raise InputError(
            "this image tower pools its positions away, and regions are pooled from them; "
            "choose vit or conv"
        )
    vectors = F.normalize(encoder.position_vectors(encoded), dim=-1)
    return vectors.mT.unflatten(2, encoded.grid)


def region_vectors(
    encoder: DualEncoder, x: Tensor, boxes: Tensor, route: str | None = None
) -> Tensor:
    """Unit vectors (B, R, E) of boxes (B, R, 4) of images (B, 3, H, W).

        v_r = unit( RoIAlign(z, box_r) ),      z_n = unit( projection of position n )

    Boxes and errors are those of `pool_boxes` and `position_maps`. By the route "crops" of a ResNet of
    CLIP a region is what the tower would pool if the box were the image:

        v_r = unit( projection of pool(last stage(RoIAlign(m, box_r))) )

    m is the map before the last stage, and RoIAlign gives as many positions a side as an image of the
    tower's size has in it. Source: Zhong et al. 2022 (RegionCLIP).
    """
    return F.normalize(image_and_regions(encoder, x, boxes, route)[1], dim=-1)


def image_and_regions(
    encoder: DualEncoder, x: Tensor, boxes: Tensor, route: str | None = None
) -> tuple[Tensor, Tensor]:
    """The vectors (B, E) of images and those of their regions (B, R, E) from one pass, not normalised.

    Arguments and errors are those of `region_vectors`. The vector of an image is that of
    `embed_images`.
    """
    if route == CROPS:
        return _crops(encoder, x, boxes)
    encoded = _encoded(encoder, x, route)
    if encoder.pool == "after" and route != "tokens":  # pooled from positions of the other route
        image = encoder.image_vectors(encoder.encode_image(x))
    else:
        image = encoder.image_vectors(encoded)
    return image, pool_boxes(_maps(encoder, encoded), boxes)


def _crops(encoder: DualEncoder, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    tower: Any = encoder.image
    if not tower.splits or encoder.pool == "after" or encoder.query_pooler is not None:
        raise InputError(
            f"boxes are cut from the map before the last stage of a ResNet of CLIP, and this image tower has none; its "
            f"routes are {' and '.join(tower.routes)}"
        )
    maps = tower.before_last(x)
    image = encoder.image_vectors(tower.from_last(maps))
    side = max(2, round(maps.shape[-1] * tower.image_size / x.shape[-1]))
    cut = pool_boxes(maps, boxes, side).flatten(0, 1)
    regions = encoder.image_vectors(tower.from_last(cut.to(maps.dtype)))
    return image, regions.unflatten(0, boxes.shape[:2])


def at_any_size(encoder: DualEncoder) -> DualEncoder:
    """The encoder with an image tower that reads images of any size; it shares the parameters.

    A ViT interpolates its positions. Other towers are returned as they are.
    """
    tower: Any = encoder.image
    if getattr(tower.config, "any_size", True):
        return encoder
    other = copy.copy(encoder)
    other._modules = dict(encoder._modules)
    other.image = copy.copy(tower)
    other.image.config = replace(tower.config, any_size=True)
    return other


def set_size(tower: ImageTower, size: int, what: str) -> None:
    """Make a tower one for images of this side; a ViT interpolates its positions once. Raises InputError,
    which calls the size `what`, unless they are whole patches."""
    own: Any = tower
    if size == tower.image_size:
        return
    check_side(tower, size, what)
    if hasattr(own, "resize"):
        own.resize(size)
        return
    # convolutions read any size, and attention pools interpolate their positions
    own.preprocess = replace(own.preprocess, size=size)
    if "image_size" in vars(own.config):
        own.config = replace(own.config, image_size=size, preprocess=None)


def keep_patches(tower: ImageTower) -> None:
    """Let a ViT that leaves out patches in training read all of them, from which regions are pooled."""
    own: Any = tower
    if getattr(own.config, "patch_dropout", 0.0):
        own.config = replace(own.config, patch_dropout=0.0)


def check_side(tower: ImageTower, size: int, what: str) -> None:
    """Raise InputError unless images of this side are whole patches of the tower."""
    patch = getattr(tower.config, "patch", 1)
    if size % patch:
        raise InputError(
            f"{what} is {size} pixels, and the image tower's patches are of {patch}; give a multiple"
        )
