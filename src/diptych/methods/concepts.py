"""What ConES does beside classification: finding concepts in pictures, and drawing them.

A task has the module that is delivered, and says how a batch becomes a loss: of the stage `base`, which trains a head
or a denoiser by the text tower's rows, and of the stages in which the rows of concepts are searched for.

Dimensions: B samples, N regions, L rows, E embedding.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from diptych.data.batch import Batch
from diptych.data.boxes import things
from diptych.data.sample import Source
from diptych.data.views import Augment, BoxView, LabelView, NoiseView, PictureView, TextView, View
from diptych.errors import InputError
from diptych.methods.base import Features, Losses
from diptych.methods.classify import class_names
from diptych.methods.make import Make
from diptych.models.classifier import check_names
from diptych.models.grounding import Grounding, HeadConfig
from diptych.objectives.regions import box_terms, word_regions
from diptych.spec import configure
from diptych.towers.concepts import TextSide, padded
from diptych.towers.denoiser import DenoiserConfig, Drawing
from diptych.towers.dual import DualEncoder


class Task(Protocol):
    """One of the two."""

    model: Any
    trained: bool
    """Whether the head came with the model that training starts from: then there is no stage `base`."""
    head: ClassVar[str]
    """The part that the stage `base` trains, by the prefix of its parameters."""
    vision: ClassVar[Sequence[str]]
    """What the second stage trains beside."""
    recipe: ClassVar[Mapping[str, Any]]
    """In what the recipe of the stage `base` differs."""

    def meet(self, base: Source | None, side: TextSide | None) -> None:
        """Look at the source of the stage `base`."""
        ...

    def names(self, source: Source) -> tuple[str, ...]:
        """The concepts of a source; () where it lacks the field."""
        ...

    def views(self, base: bool) -> Sequence[View]: ...

    def encode(self, batch: Batch, base: bool) -> Features: ...

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses: ...


class Detect:
    """Concepts are found by a grounding head; in the stage `base` it learns classes by their names."""

    head = "model.head"
    vision = ("model.head", "model.encoder.image")
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "weight_decay": 0.05, "batch_size": 32, "steps": 800}

    def __init__(self, config: Any, make: Make, encoder: DualEncoder, augment: Augment):
        if extra := set(config.augment) - {"flip"}:
            raise InputError(f"augment of detection has {sorted(extra)[0]!r}; boxes move with flip alone")
        options = configure(HeadConfig, dict(config.head), "head")
        self.model = Grounding(encoder, make.words, config.template, count=config.vectors, head=options)
        self.flip = augment.flip
        self.trained = isinstance(given := make.delivered, Grounding)
        if isinstance(given, Grounding):
            self.model.head = copy.deepcopy(given.head)
        self.classes: dict[bool, tuple[str, ...]] = {True: (), False: ()}  # names of box labels: of `base`, and not
        self.known: tuple[str, ...] = ()
        self.rows: tuple[Tensor, Tensor] | None = None  # of the names that the head learns

    def meet(self, base: Source | None, side: TextSide | None) -> None:
        if base is None or "boxes" not in base.schema():
            return
        if side is None:
            raise InputError("the head learns names through a text tower, and this model has none; start from one of "
                             "pictures and texts, or from a run that has a head")  # fmt: skip
        self.known, self.classes[True] = check_names(things(base)), base.schema()["boxes"].classes
        rows = side.concepts(self.known, "name", self.model.count)
        self.rows = padded([each.values for each in rows.values()])

    def names(self, source: Source) -> tuple[str, ...]:
        if "boxes" not in source.schema():
            return ()
        self.classes[False] = source.schema()["boxes"].classes
        return things(source)

    def views(self, base: bool) -> Sequence[View]:
        names = self.known if base else self.model.bank.names
        return (BoxView(preprocess=self.model.image.preprocess, grid=self.model.grid, names=names,
                        classes=self.classes[base], flip=self.flip),)  # fmt: skip

    def _rows(self, base: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        if not base:
            return self.model.bank.as_text_embeddings()
        assert self.rows is not None, "the stage base has met its source"
        return self.rows[0].to(device), self.rows[1].to(device)

    def encode(self, batch: Batch, base: bool) -> Features:
        pixels = batch.image.flat
        regions = self.model(pixels)
        logits, _ = self.model.logits(regions.vectors, self._rows(base, pixels.device))
        return {"logits": logits, "boxes": regions.boxes, "centre": regions.centre}

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses:
        regions: Any = batch.fields["regions"]
        classes, central = regions[..., 0].long(), regions[..., 5]
        _, mask = self._rows(base, regions.device)
        h, w = self.model.grid
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centre = torch.stack([x / w, y / h], -1).view(-1, 2).to(regions.device)
        wanted = torch.cat([centre - regions[..., 1:3], centre + regions[..., 3:5]], -1)
        held = classes >= 0
        boxes, centrality = box_terms(features["boxes"], features["centre"], wanted, held, central)
        words = word_regions(features["logits"], classes, mask.nonzero()[:, 0])
        return Losses({"words": words, "boxes": boxes, "centre": centrality}, {"held": held.float().mean()})


class Generate:
    """Concepts are drawn by a denoiser; in the stage `base` it learns pictures by their captions."""

    head = "model.denoiser"
    vision = ("model.denoiser",)
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "weight_decay": 0.01, "batch_size": 64, "steps": 2000}
    drop: ClassVar[float] = 0.1
    """The share of captions that are left out for the empty prompt, so that drawing can be guided away from it."""

    def __init__(self, config: Any, make: Make, encoder: DualEncoder, augment: Augment):
        options = configure(DenoiserConfig, dict(config.head), "denoiser")
        self.model = Drawing(encoder, make.words, config.template, options)
        self.config, self.augment, self.words = config, augment, make.words
        self.trained = isinstance(given := make.delivered, Drawing)
        if isinstance(given, Drawing):
            self.model.denoiser = copy.deepcopy(given.denoiser)
            self.model.empty = given.empty.clone()
        self.side: TextSide | None = None

    def meet(self, base: Source | None, side: TextSide | None) -> None:
        self.side = side
        if base is None:
            return
        if side is None:
            raise InputError("the denoiser reads captions through a text tower, and this model has none; start from "
                             "one of pictures and texts, or from a run that has a denoiser")  # fmt: skip
        rows, mask = side.tokens(side.tokenizer.encode([""]))
        self.model.empty = rows[mask].to(self.model.empty.device)

    def names(self, source: Source) -> tuple[str, ...]:
        return class_names(source, self.config.label)

    def views(self, base: bool) -> Sequence[View]:
        denoiser = self.model.denoiser
        shape = (3, denoiser.config.size, denoiser.config.size)
        noise = NoiseView(shape=shape, steps=denoiser.config.steps, drop=self.drop if base else 0.0)
        picture = PictureView(preprocess=denoiser.preprocess, augment=self.augment)
        if not base:
            return picture, LabelView(label=self.config.label, name="class", needed=True), noise
        if self.words is None:
            raise InputError("the denoiser reads captions, and this model came without a tokenizer; start from a run "
                             "that has a denoiser")  # fmt: skip
        return picture, TextView(tokenizer=self.words, role=self.config.role), noise

    def encode(self, batch: Batch, base: bool) -> Features:
        fields: Any = batch.fields
        if base:
            assert self.side is not None, "the stage base has met its source"
            rows, mask = self.without(*self.side.encode(*batch.text.flat), fields["dropped"])
        else:
            values, there = self.model.bank.as_text_embeddings()
            rows, mask = values[fields["class"].long()], there[fields["class"].long()]
        return {"error": self.model(batch.image.flat, fields["noise"], fields["time"], rows, mask)}

    def without(self, rows: Tensor, mask: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, L, E) with their mask (B, L), those of the empty prompt where `dropped` (B,)."""
        empty = self.model.empty
        more = max(0, len(empty) - rows.shape[1])
        rows, mask = pad(rows, (0, 0, 0, more)), pad(mask, (0, more))
        nothing = pad(empty, (0, 0, 0, rows.shape[1] - len(empty)))
        there = torch.arange(rows.shape[1], device=rows.device) < len(empty)
        return torch.where(dropped[:, None, None], nothing, rows), torch.where(dropped[:, None], there, mask)

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses:
        return Losses({"noise": features["error"].mean()})


TASKS: Mapping[str, type[Any]] = {"detect": Detect, "generate": Generate}
