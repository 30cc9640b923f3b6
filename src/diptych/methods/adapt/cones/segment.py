"""Instance segmentation with ConES: the detector of `detect`, with masks that the rows of concepts read.

    M_kp = <P_kp, A Ē_c + a>,    Ē_c = mean of the rows of c,    L = mean over boxes k and cells p of BCE(M_kp, target)

P_k are the vectors of the cells of box k, by the layers of Mask R-CNN's branch (He et al., 2017) on the
image tower's patch tokens. A and a are trained in the stage `base`. So a cell is scored by its concept's
rows as a region is, and the loss of masks has a gradient to E. Boxes are those of objects in the data,
and those that the head predicts for them (IoU of .5 or more).

Dimensions: B images, N regions (h x w), K boxes of all images, D tower width, W width of the branch, E
embedding, C concepts, L rows of a concept, S x S cells of a mask.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.boxes import on_grid
from diptych.data.loader import require
from diptych.data.sample import Sample, Source
from diptych.data.views import Augment, RegionView, View
from diptych.methods.adapt.cones.detect import ConceptDetector, Detect
from diptych.methods.base import Features, Losses
from diptych.methods.families.detection import terms_of_masks
from diptych.methods.make import Make
from diptych.models.detection import HeadConfig
from diptych.models.two_stage.boxes import BoxConfig, chosen
from diptych.models.two_stage.masks import MASK_SIDE, MaskBranch
from diptych.models.two_stage.pyramid import map_of
from diptych.models.two_stage.sampling import SeedView
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded

_LEARNT = BoxConfig(sampled=8, share=1.0)  # the boxes of an image whose masks are learnt in a step


class ConceptMasks(nn.Module):
    """Boxes (K, 4) of maps with the vectors (K, E) of their concepts, as logits of masks (K, S, S)."""

    def __init__(self, channels: int, width: int, embed_dim: int):
        super().__init__()
        self.cells = MaskBranch(channels, width, width)
        self.words = nn.Linear(embed_dim, width)
        nn.init.normal_(self.words.weight, std=0.01)  # rows may be ten long

    def forward(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, vectors: Tensor
    ) -> Tensor:
        cells = self.cells(maps, boxes, image)
        return torch.einsum("kwyx,kw->kyx", cells, self.words(vectors).to(cells))


@dataclass(frozen=True, eq=False)
class MasksOf:
    """The branch for concepts with these `vectors` (C, E)."""

    branch: ConceptMasks
    vectors: Tensor

    def of_classes(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, classes: Tensor
    ) -> Tensor:
        """Return the logits (K, S, S) of the masks of boxes (K, 4) of these `classes` (K,)."""
        return self.branch(maps, boxes, image, self.vectors[classes])


def mean_rows(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (C, E) of the existing rows (C, L, E) of each concept.

    >>> mean_rows(torch.tensor([[[1.0], [3.0]], [[5.0], [0.0]]]), torch.tensor([[True, True], [True, False]]))
    tensor([[2.],
            [5.]])
    """
    there = mask[..., None].to(rows)
    return (rows * there).sum(1) / there.sum(1)


class ConceptSegmentor(ConceptDetector):
    """A detector of concepts that also finds the masks of objects."""

    finds_masks = True
    reads = ("images.main", "boxes", "boxes.mask")

    def build_head(self, config: HeadConfig) -> None:
        super().build_head(config)
        encoder = self.encoder
        self.mask_head = ConceptMasks(encoder.image.width, config.width, encoder.embed_dim)

    def masks_of(self, rows: tuple[Tensor, Tensor]) -> MasksOf:
        """Return the branch for concepts of these rows (C, L, E), with their mask."""
        return MasksOf(self.mask_head, mean_rows(*rows))

    def masks(self, maps: Encoded, boxes: Tensor, image: Tensor, classes: Tensor) -> Tensor:
        """Return the masks (K, S, S), as probabilities, of boxes (K, 4) of these classes (K,)."""
        branch = self.masks_of(self.class_rows())
        return branch.of_classes([map_of(maps)], boxes, image, classes).sigmoid()


@dataclass(frozen=True, kw_only=True)
class CellView:
    """The images, boxes and masks of a `RegionView` with `names`, and the targets of the boxes for each
    cell of a grid, fields.cells (B, h · w, 6), as returned by `data.boxes.on_grid`."""

    regions: RegionView
    grid: tuple[int, int]

    @property
    def reads(self) -> tuple[str, ...]:
        return self.regions.reads

    @property
    def gives(self) -> tuple[str, ...]:
        return *self.regions.gives, "fields.cells"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        found = self.regions(sample, rng, progress)
        there = found["fields.regions.there"]
        boxes = found["fields.regions"][there].numpy()
        numbers = found["fields.regions.classes"][there].numpy()
        cells = on_grid(boxes, numbers, self.grid)
        return {**found, "fields.cells": torch.from_numpy(cells)}


class Segment(Detect):
    """Detection of concepts with the masks of their objects; the stage `base` trains head and branch."""

    Model = ConceptSegmentor
    model: ConceptSegmentor
    targets = "cells"
    heads = ("model.head", "model.mask_head")
    vision: ClassVar[Sequence[str]] = (*heads, "model.encoder.image")

    def __init__(self, config: Any, make: Make, encoder: DualEncoder, augment: Augment):
        super().__init__(config, make, encoder, augment)
        self.max_boxes = config.max_boxes
        if isinstance(given := make.delivered, ConceptSegmentor):
            self.model.mask_head = copy.deepcopy(given.mask_head)

    def names(self, source: Source) -> tuple[str, ...]:
        """Return the concepts of a source. Raises InputError for one without masks, before the stage
        `base` is trained."""
        require(source, self.model.reads, "ConES")
        return super().names(source)

    def views(self, base: bool) -> Sequence[View]:
        preprocess = self.model.image.preprocess
        regions = RegionView(
            preprocess=preprocess,
            max_boxes=self.max_boxes,
            classes=self.classes[base],
            names=self.names_of(base),
            flip=self.flip,
            masks=min(MASK_SIDE, preprocess.side),
        )
        return SeedView(), CellView(regions=regions, grid=self.model.grid)

    def encode(self, batch: Batch, base: bool) -> Features:
        maps = self.model.maps(batch.image.flat)
        features = self.read(maps, base)
        boxes, there, classes = (
            batch.fields[f"regions{name}"] for name in ("", ".there", ".classes")
        )
        count = len(self.names_of(base))
        given = chosen(
            list(features["boxes"].detach().clamp(0, 1)),
            [own[held] for own, held in zip(boxes, there, strict=True)],
            [own[held] for own, held in zip(classes, there, strict=True)],
            batch.fields["seed"],
            count,
            _LEARNT,
        )
        branch = self.model.masks_of(self.rows_of(base, boxes.device))
        return {**features, **terms_of_masks(branch, [map_of(maps)], given, batch, count)}

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses:
        found = super().loss(features, batch, base)
        masks = features["masks"].sum() / features["masks_count"].sum().clamp(min=1)
        return replace(found, terms={**found.terms, "masks": masks})
