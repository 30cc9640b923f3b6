"""Detection: a head that scores every position of a grid as a region, and the model that returns
boxes.

    O = head(patches),    S = O E^T + b

Each position of the grid is a region: it has a vector O_n, a box, and its centrality in that box. S
compares regions with the rows E of a text tower.

Dimensions: B images, N regions (h x w), D tower width, E embedding, C classes, L rows of all
classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from diptych.data.images import Preprocess
from diptych.errors import InputError
from diptych.models.adapted import TrainedClassesModel
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, Progress, evaluating
from diptych.towers.encoded import Encoded
from diptych.towers.nn.transformer import Transformer

PRIOR = 0.01
"""The initial probability of a class at a region, set by the bias."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Options of a grounding head: `depth` blocks of `width` on the tower's patch tokens."""

    width: int = 128
    depth: int = 2
    heads: int | None = None  # width / 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise InputError(
                f"a head of {self.depth} blocks {self.width} wide is none; give positive numbers"
            )


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of images.

    They have vectors (B, N, E), boxes (B, N, 4) as shares of the image, logits of centrality (B, N)
    and, if classes are set, the score of each class (B, N, C).
    """

    vectors: Tensor
    boxes: Tensor
    centre: Tensor
    scores: Tensor | None = None


def grid_of(encoded: Encoded) -> tuple[int, int]:
    """The grid (h, w). Raises InputError for a tower without positions."""
    if encoded.grid is None:
        raise InputError(
            "this image tower pools its positions away, and regions are scored at them; start from one with patches"
        )
    return encoded.grid


class GroundingHead(nn.Module):
    """A head that maps patch tokens (B, N, D) on their grid to `Regions`.

    Boxes are predicted as the distances of their sides from the centre of the cell, exp(…) cells
    each.
    """

    def __init__(self, width: int, embed_dim: int, config: HeadConfig):
        super().__init__()
        self.config = config
        W = config.width
        self.embed = nn.Linear(width, W)
        self.transformer = Transformer(W, config.depth, config.heads, dropout=config.dropout)
        self.norm = nn.LayerNorm(W)
        self.vectors = nn.Linear(W, embed_dim)
        self.sides = nn.Linear(W, 4)
        self.centre = nn.Linear(W, 1)
        nn.init.normal_(self.vectors.weight, std=0.01)
        self.bias = nn.Parameter(torch.logit(torch.tensor(PRIOR)))

    def forward(self, encoded: Encoded) -> Regions:
        """Predict the regions. Raises InputError for a tower without positions."""
        h, w = grid_of(encoded)
        x = self.norm(self.transformer(self.embed(encoded.patches.to(self.bias.dtype))))
        sides = self.sides(x).clamp(max=5).exp()
        y, across = torch.meshgrid(
            torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij"
        )
        centre = torch.stack([across, y], dim=-1).view(-1, 2) + 0.5
        cells = torch.tensor([w, h], device=x.device)
        boxes = torch.cat(
            [(centre - sides[..., :2]) / cells, (centre + sides[..., 2:]) / cells], dim=-1
        )
        return Regions(self.vectors(x), boxes, self.centre(x)[..., 0])

    def align(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The alignment S (B, N, L) of regions (B, N, E) and rows (L, E)."""
        return vectors @ rows.T + self.bias


@dataclass(frozen=True)
class Found:
    """Detections in an image by descending score: boxes (n, 4) as shares of it, classes (n,),
    scores (n,), and the masks (n, S, S) in the boxes, as probabilities, if they were asked for."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    masks: Tensor | None = None


class DetectorModel(TrainedClassesModel):
    """A model that detects classes in images; embeddings are those of its encoder.

    `delivered` has `regions(pixels) -> Regions` with scores, in addition to the attributes for
    `TrainedClassesModel`. If it has `finds_masks`, it also has `maps(pixels)`, `regions(pixels, maps)`,
    and `masks(maps, boxes, image, classes)` of all boxes (K, 4) of a batch.
    """

    delivered: Any
    detections = 100
    """The most detections of an image, unless `detect` is asked for another number."""

    def __init__(self, delivered: Any, preprocess: Preprocess, *, name: str):
        super().__init__(delivered, preprocess, name=name)
        measures = ("ap50", "mask_ap50") if self.finds_masks else ("ap50",)
        self.validation = Validation("detection", measures)

    @property
    def finds_masks(self) -> bool:
        """Whether it finds the masks of objects beside their boxes."""
        return getattr(self.delivered, "finds_masks", False)

    def class_logits(self, images: ImagesLike, **options: Any) -> Tensor:
        raise InputError(
            f"{self.name} finds classes in images and names no whole image; use detect"
        )

    def embed_regions(
        self,
        images: ImagesLike,
        boxes: Sequence[Any] | None = None,
        *,
        batch_size: int = 64,
        exact: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> Any:
        """The `Regions` of images that the head proposes, with the scores of the classes; float32, on
        the CPU. With `boxes` or masks, those that are given, by the encoder (`Model.embed_regions`).

        `images` and errors are those of `embed_images`; InputError also if no classes are set.
        """
        if boxes is not None or options:
            return super().embed_regions(
                images, boxes, batch_size=batch_size, exact=exact, **options
            )
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )
        batches, count = self._batches(images, batch_size, exact)
        found: list[tuple[Tensor, ...]] = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                regions = self._regions(pixels.to(self.device))
                assert regions.scores is not None
                found.append((regions.vectors, regions.boxes, regions.centre, regions.scores))
                if progress:
                    progress(sum(len(part[0]) for part in found), count)
        return Regions(*(torch.cat(parts).clone() for parts in zip(*found, strict=True)))

    def _regions(self, x: Tensor, *maps: Any) -> Regions:
        """The regions of images (B, 3, H, W) with the scores of `classes`; float32, on the CPU."""
        regions = self.delivered.regions(x, *maps)
        parts = (regions.vectors, regions.boxes.clamp(0, 1), regions.centre, regions.scores)
        return Regions(*(part.float().cpu() for part in parts))

    def _numbers(self, classes: Tensor) -> Tensor:
        """The numbers of `classes` (n,) among those of `delivered`."""
        return classes

    def detect(
        self,
        images: ImagesLike,
        *,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        max_boxes: int | None = None,
        masks: bool = False,
        batch_size: int = 64,
        exact: bool = False,
    ) -> list[Found]:
        """The detections in each image, with `masks` those of their objects too.

        They have scores of at least `score_threshold`; of boxes of one class that overlap by more than
        `nms_threshold` (IoU), only the best is kept (non-maximum suppression), and at most `max_boxes` in all
        (None: the model's `detections`).
        Errors are those of `embed_regions`; InputError also for masks of a model without a branch for
        them.
        """
        rule = {
            "score_threshold": score_threshold,
            "nms_threshold": nms_threshold,
            "max_boxes": max_boxes or self.detections,
        }
        if masks:
            return self._with_masks(images, batch_size, exact, rule)
        regions = self.embed_regions(images, batch_size=batch_size, exact=exact)
        return _all_chosen(regions, rule)

    def _with_masks(
        self, images: ImagesLike, batch_size: int, exact: bool, rule: Mapping[str, Any]
    ) -> list[Found]:
        self.require_masks()
        batches, _ = self._batches(images, batch_size, exact)
        found: list[Found] = []
        with evaluating(self.delivered), torch.inference_mode():
            for (pixels,) in batches:
                x = pixels.to(self.device)
                maps = self.delivered.maps(x)
                own = _all_chosen(self._regions(x, maps), rule)
                counts = [len(each.boxes) for each in own]
                image = torch.repeat_interleave(torch.arange(len(own)), torch.tensor(counts))
                boxes = torch.cat([each.boxes for each in own])
                classes = self._numbers(torch.cat([each.classes for each in own]))
                parts = (part.to(x.device) for part in (boxes, image, classes))
                masks = self.delivered.masks(maps, *parts).float().cpu().clone()
                pairs = zip(own, masks.split(counts), strict=True)
                found += [replace(each, masks=part) for each, part in pairs]
        return found

    def require_masks(self) -> None:
        """Raise InputError for a model that finds boxes alone, or that knows no classes."""
        if not self.finds_masks:
            raise InputError(
                f"{self.name} finds boxes and no masks; train it on the masks of objects, such as "
                "dito --method.task detect --method.masks true"
            )
        if not self.classes:
            raise InputError(
                f"{self.name} knows no classes; name them first, with set_classes or --names"
            )


def _all_chosen(regions: Regions, rule: Mapping[str, Any]) -> list[Found]:
    """What is chosen of the regions of each image."""
    assert regions.scores is not None
    rows = zip(regions.boxes, regions.scores, strict=True)
    return [chosen(boxes, scores, **rule) for boxes, scores in rows]


def chosen(
    boxes: Tensor, scores: Tensor, *, score_threshold: float, nms_threshold: float, max_boxes: int
) -> Found:
    """Threshold and non-maximum suppression of the boxes (N, 4) of an image with scores (N, C).

    >>> boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.1, 0.1]])
    >>> scores = torch.tensor([[0.5], [0.6], [0.2]])
    >>> chosen(boxes, scores, score_threshold=0.05, nms_threshold=0.6, max_boxes=9).scores.tolist()
    [0.60..., 0.20...]
    """
    region, number = (scores >= score_threshold).nonzero(as_tuple=True)
    likely = scores[region, number]
    kept = batched_nms(boxes[region], likely, number, nms_threshold)[:max_boxes]
    return Found(boxes[region[kept]], number[kept], likely[kept])
