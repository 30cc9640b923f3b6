"""Regions of images, given by boxes or masks: their vectors and their classes.

Dimensions: N images, R regions of an image at most, E embedding, C classes, h x w positions, H x W
pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.models.mode import evaluating
from diptych.models.pixels import ImagesLike, pixel_batches
from diptych.towers.dual import DualEncoder
from diptych.towers.regions import at_any_size, check_side, position_maps, region_vectors

_BEYOND = 1e-4
"""How far a box may reach beyond the image, by rounding."""


class RegionVectors(NamedTuple):
    """Unit vectors (N, R, E) of regions, their boxes (N, R, 4) as shares of the image, and which are
    real (N, R); the others are zeros."""

    vectors: Tensor
    boxes: Tensor
    there: Tensor


def squashed(preprocess: Any, size: int | None = None) -> Preprocess:
    """The preprocessing for regions: of whole images, squashed to `size` pixels a side, so that boxes
    are shares of what is read. Raises InputError for a model of volumes."""
    if not isinstance(preprocess, Preprocess):
        raise InputError("regions are of images, and this model reads volumes; name one of images")
    side = size or preprocess.size
    return replace(preprocess, size=side, resize="squash", ratio=None, margin=None)


class NamesRegions:
    """What a dual encoder with positions does with given regions; a base of `Model`."""

    name: str
    encoder: DualEncoder
    preprocess: Any
    classes: tuple[str, ...]
    device: Any

    def embed_regions(
        self,
        images: ImagesLike,
        boxes: Sequence[Any] | None = None,
        *,
        masks: Sequence[Any] | None = None,
        route: str | None = None,
        size: int | None = None,
        batch_size: int = 64,
        exact: bool = False,
    ) -> RegionVectors:
        """Embed regions of images as unit vectors, float32, on the CPU.

            v_r = unit( RoIAlign(z, box_r) )     or     unit( sum_n share_rn z_n )

        z_n are the unit vectors of positions by the `route` of the image tower, by default its
        `dense_route`; by "crops", a ResNet of CLIP reads each box by itself (`region_vectors`).
        `boxes` has for each image (R, 4) numbers x0, y0, x1, y1 as shares of it; `masks` has in
        their place (R, H, W) bool, of which share_rn is the part of position n. Images are read whole
        at `size` pixels a side, by default the model's; a ViT interpolates its positions.

        `images` is as in `embed_images`. Raises InputError for a box outside its image or without
        area, an empty mask, and an image tower without positions.

        >>> import diptych
        >>> model = diptych.load("tiny")
        >>> image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        >>> found = model.embed_regions(image, [[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]])
        >>> found.vectors.shape, found.there
        (torch.Size([1, 2, 192]), tensor([[True, True]]))
        """
        if (boxes is None) == (masks is None):
            raise InputError("regions are given by boxes or by masks; give one of the two")
        if size is not None:
            check_side(self.encoder.image, size, "size")
        whole = squashed(self.preprocess, size)
        batches, count = pixel_batches(images, whole, batch_size, exact)
        given: list[Tensor] = (
            [checked_boxes(own, at) for at, own in enumerate(boxes)]
            if boxes is not None
            else [_checked_masks(own, at) for at, own in enumerate(masks or ())]
        )
        if len(given) != count:
            raise InputError(
                f"{count} images have the regions of {len(given)}; give those of each image, [] for none"
            )
        encoder = at_any_size(self.encoder)
        rest = iter(given)
        vectors = []
        with evaluating(encoder), torch.inference_mode():
            for (pixels,) in batches:
                x = pixels.to(self.device)
                own = list(islice(rest, len(pixels)))
                if masks is None:
                    found = self._regions_of(encoder, x, own, route)
                else:
                    found = _pooled_masks(position_maps(encoder, x, route).float(), own)
                vectors += [each.cpu() for each in found]
        there = _padded([torch.ones(len(each)) for each in given]) > 0
        sides = given if masks is None else [_boxes_of(each) for each in given]
        return RegionVectors(_padded(vectors).clone(), _padded(sides), there)

    def _regions_of(
        self, encoder: DualEncoder, x: Tensor, boxes: Sequence[Tensor], route: str | None
    ) -> list[Tensor]:
        """Unit vectors (R, E) of each image's boxes, of images (n, 3, H, W)."""
        found = region_vectors(encoder, x, _padded(boxes).to(x.device), route).float()
        return [row[: len(own)] for row, own in zip(found, boxes, strict=True)]

    def classify_regions(
        self,
        images: ImagesLike,
        boxes: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        *,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Probabilities (N, R, C) of the classes of regions; those that are not there are zeros.

            p_rc = softmax_c( s <v_r, t_c> )

        The classes are `names`, or those that were set. s is `scale`, by default the model's own.
        `options` and errors are those of `embed_regions`.
        """
        model: Any = self
        if names is not None:
            model.set_classes(names)
        vectors = getattr(self, "_class_vectors", None)
        if not self.classes or vectors is None:
            raise InputError(
                f"{self.name} has no class embeddings for regions; give names to a model of images and texts"
            )
        found = self.embed_regions(images, boxes, **options)
        s = float(self.encoder.logit_scale().detach()) if scale is None else scale
        return (s * found.vectors @ vectors.T.float()).softmax(-1) * found.there[..., None]


def checked_boxes(boxes: Any, image: int) -> Tensor:
    """The boxes (R, 4) of image number `image` as a tensor.

    Raises InputError for another shape, a box outside the image, and one without area.

    >>> checked_boxes([[0, 0, 2, 1]], 3)
    Traceback (most recent call last):
    diptych.errors.InputError: box 0 of image 3, (0, 0, 2, 1), lies outside the image: sides are shares of it...
    """
    found = torch.as_tensor(np.asarray(boxes, np.float32))
    if found.numel() == 0:
        return torch.zeros(0, 4)
    if found.ndim != 2 or found.shape[1] != 4:
        raise InputError(
            f"the boxes of image {image} have the shape {tuple(found.shape)}; give rows of x0, y0, x1, y1"
        )
    for at, (x0, y0, x1, y1) in enumerate(found.tolist()):
        box = f"box {at} of image {image}, ({x0:g}, {y0:g}, {x1:g}, {y1:g}),"
        if not (min(x0, y0, x1, y1) >= -_BEYOND and max(x0, y0, x1, y1) <= 1 + _BEYOND):
            raise InputError(
                f"{box} lies outside the image: sides are shares of it, 0 to 1; divide pixels by width and height"
            )
        if not (x0 < x1 and y0 < y1):
            raise InputError(f"{box} has no area; give left, upper, right and lower side")
    return found.clamp(0, 1)


def _checked_masks(masks: Any, image: int) -> Tensor:
    found = torch.as_tensor(np.asarray(masks)).bool()
    if found.ndim != 3:
        raise InputError(
            f"the masks of image {image} have the shape {tuple(found.shape)}; give (regions, height, width)"
        )
    if len(empty := (~found.flatten(1).any(1)).nonzero()):
        raise InputError(f"mask {int(empty[0])} of image {image} is empty; leave it out")
    return found


def _pooled_masks(maps: Tensor, masks: Sequence[Tensor]) -> list[Tensor]:
    """Unit vectors (R, E) of each image's masks, from maps (n, E, h, w)."""
    found = []
    for grid, own in zip(maps, masks, strict=True):
        shares = F.adaptive_avg_pool2d(own.to(grid), (grid.shape[1], grid.shape[2]))
        found.append(F.normalize(shares.flatten(1) @ grid.flatten(1).T, dim=-1))
    return found


def _boxes_of(masks: Tensor) -> Tensor:
    """The boxes (R, 4) of masks (R, H, W), as shares of the image."""
    rows = torch.zeros(len(masks), 4)
    for at, mask in enumerate(masks):
        y, x = mask.nonzero(as_tuple=True)
        sides = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        rows[at] = sides / torch.tensor([*mask.shape[::-1], *mask.shape[::-1]])
    return rows


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of varying number as one tensor (N, R, …), filled up with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
