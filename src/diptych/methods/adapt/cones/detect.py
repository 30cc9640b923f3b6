"""Detection with ConES: an encoder with a head that scores regions against rows, and the losses of
its stages.

    S = O E^T + b,    score_c = centrality · mean over the rows l of c of sigmoid(S_l)

The rows E of concepts are a text tower's tokens, or the trained rows in their place; they are not
fused with the image before S.

Dimensions: B images, N regions (h x w), D tower width, E embedding, C concepts, L rows of all
concepts.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.boxes import things
from diptych.data.images import Preprocess
from diptych.data.sample import Source
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import Augment, BoxView, View
from diptych.errors import InputError
from diptych.methods.adapt.cones.bank import ConceptBank, ConceptModule, TextSide, padded
from diptych.methods.adapt.cones.regions import box_terms, word_regions
from diptych.methods.base import Features, Losses
from diptych.methods.make import Make
from diptych.models.class_names import check_names
from diptych.models.detection import DetectorModel, GroundingHead, HeadConfig, Regions, grid_of
from diptych.models.model import evaluating
from diptych.spec import configure
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded


class ConceptDetector(ConceptModule):
    """An encoder with a detection head for concepts of several rows each. Images are squashed to a
    square, so that boxes are shares of the whole image."""

    form = "name"
    reads = ("images.main", "boxes")

    def __init__(
        self,
        encoder: DualEncoder,
        tokenizer: Tokenizer | None,
        template: str,
        *,
        count: int | None = None,
        head: HeadConfig = HeadConfig(),
    ):
        super().__init__()
        encoder.image.preprocess = Preprocess.from_dict(
            {**encoder.image.preprocess.to_dict(), "resize": "squash"}
        )
        if getattr(encoder.image.config, "patch_dropout", 0.0):  # regions need all patches
            encoder.image.config = replace(encoder.image.config, patch_dropout=0.0)
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.template = template
        self.count = count
        self.bank = ConceptBank(encoder.embed_dim)
        self.build_head(head)
        self.classes = ()
        self.label = ""

    def build_head(self, config: HeadConfig) -> None:
        """Create what the stage `base` trains."""
        self.head = GroundingHead(self.encoder.image.width, self.encoder.embed_dim, config)

    @property
    def image(self) -> Any:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(h, w): the positions of the image tower."""
        size = self.image.preprocess.side
        device = next(self.head.parameters()).device
        with evaluating(self.encoder), torch.no_grad():
            return grid_of(
                self.image(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
            )

    def maps(self, x: Tensor) -> Encoded:
        """Images (B, 3, H, W) -> the tower's output, which the head reads."""
        return self.encoder.encode_image(x)

    def forward(self, x: Tensor) -> Regions:
        """Images (B, 3, H, W) -> Regions, without scores."""
        return self.head(self.maps(x))

    def regions(self, x: Tensor, maps: Encoded | None = None) -> Regions:
        """Images (B, 3, H, W) -> Regions with the scores of the classes; `maps` are those of `maps`,
        if computed already."""
        regions = self(x) if maps is None else self.head(maps)
        logits, owner = self.logits(regions.vectors)
        scores = (
            concept_scores(logits, owner, len(self.classes)) * regions.centre.sigmoid()[..., None]
        )
        return replace(regions, scores=scores)

    def logits(
        self, vectors: Tensor, rows: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return S (B, N, L) of regions (B, N, E) against the rows of the classes, or the given
        rows with their mask, and the class of each row (L,)."""
        values, mask = self.class_rows() if rows is None else rows
        return self.head.align(vectors, values[mask]), mask.nonzero()[:, 0]

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "head": asdict(self.head.config)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.build_head(configure(HeadConfig, values["head"], "head"))
        super().load_extra_state(values)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return DetectorModel(self, preprocess, name=name)


def concept_scores(logits: Tensor, owner: Tensor, concepts: int) -> Tensor:
    """Return the probabilities (…, C) of concepts: the mean over a concept's rows of the sigmoid of
    S (…, L). `owner` (L,) is the concept of each row.

    >>> concept_scores(torch.tensor([[0.0, 0.0, 100.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[0.5, 1.0]]
    """
    own = nn.functional.one_hot(owner, concepts).to(logits.dtype)  # (L, C)
    return logits.sigmoid() @ (own / own.sum(0))


class Detect:
    """Detection of concepts by a grounding head; in the stage `base` the head is trained on classes
    by their names."""

    Model: ClassVar[type[ConceptDetector]] = ConceptDetector
    targets: ClassVar[str] = "regions"
    """The field of the targets of the cells."""
    heads: ClassVar[Sequence[str]] = ("model.head",)
    vision: ClassVar[Sequence[str]] = ("model.head", "model.encoder.image")
    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-3,
        "weight_decay": 0.05,
        "batch_size": 32,
        "steps": 800,
    }

    def __init__(self, config: Any, make: Make, encoder: DualEncoder, augment: Augment):
        if extra := set(config.augment) - {"flip"}:
            raise InputError(
                f"augment of detection has {sorted(extra)[0]!r}; boxes move with flip alone"
            )
        options = configure(HeadConfig, dict(config.head), "head")
        self.model = self.Model(
            encoder, make.words, config.template, count=config.vectors, head=options
        )
        self.flip = augment.flip
        self.trained = isinstance(given := make.delivered, self.Model)
        if isinstance(given, self.Model):
            self.model.head = copy.deepcopy(given.head)
        self.classes: dict[bool, tuple[str, ...]] = {
            True: (),
            False: (),
        }  # names of box labels, by whether they are those of `base`
        self.known: tuple[str, ...] = ()
        self.rows: tuple[Tensor, Tensor] | None = None  # of the names that train the head

    def setup(self, base: Source | None, side: TextSide | None) -> None:
        if base is None or "boxes" not in base.schema():
            return
        if side is None:
            raise InputError(
                "the head learns names through a text tower, and this model has none; start from one of "
                "images and texts, or from a run that has a head"
            )
        self.known = check_names(things(base))
        self.classes[True] = base.schema()["boxes"].classes
        rows = side.concepts(self.known, "name", self.model.count)
        self.rows = padded([each.values for each in rows.values()])

    def names(self, source: Source) -> tuple[str, ...]:
        if "boxes" not in source.schema():
            return ()
        self.classes[False] = source.schema()["boxes"].classes
        return things(source)

    def names_of(self, base: bool) -> tuple[str, ...]:
        """Return the concepts of a stage."""
        return self.known if base else self.model.bank.names

    def views(self, base: bool) -> Sequence[View]:
        return (
            BoxView(
                preprocess=self.model.image.preprocess,
                grid=self.model.grid,
                names=self.names_of(base),
                classes=self.classes[base],
                flip=self.flip,
            ),
        )

    def rows_of(self, base: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rows of all concepts of a stage, with their mask."""
        if not base:
            return self.model.bank.as_text_embeddings()
        assert self.rows is not None, "the stage base has met its source"
        return self.rows[0].to(device), self.rows[1].to(device)

    def encode(self, batch: Batch, base: bool) -> Features:
        return self.read(self.model.maps(batch.image.flat), base)

    def read(self, maps: Encoded, base: bool) -> Features:
        """What the head reads from the tower's output."""
        regions = self.model.head(maps)
        logits, _ = self.model.logits(regions.vectors, self.rows_of(base, regions.vectors.device))
        return {"logits": logits, "boxes": regions.boxes, "centre": regions.centre}

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses:
        regions: Any = batch.fields[self.targets]
        classes = regions[..., 0].long()
        central = regions[..., 5]
        _, mask = self.rows_of(base, regions.device)
        h, w = self.model.grid
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        centre = torch.stack([x / w, y / h], -1).view(-1, 2).to(regions.device)
        wanted = torch.cat([centre - regions[..., 1:3], centre + regions[..., 3:5]], -1)
        held = classes >= 0
        boxes, centrality = box_terms(features["boxes"], features["centre"], wanted, held, central)
        words = word_regions(features["logits"], classes, mask.nonzero()[:, 0])
        return Losses(
            {"words": words, "boxes": boxes, "centre": centrality}, {"held": held.float().mean()}
        )
