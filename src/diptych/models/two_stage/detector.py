"""A dual encoder with a pyramid and a box head, and with what makes them a two-stage detector of any
classes (DITO, Kim et al., 2023).

    region(x, box) = project( head( RoIAlign(pyramid(tower(x)), box) ) )

The detector also has a head that proposes boxes, a layer that refines them, the embedding of the
background, and a frozen copy of the encoder's image side from before it was trained to detect.

Dimensions: B images, R boxes of an image, K boxes of all images, C classes, E embedding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.class_names import plainly
from diptych.models.classifier import Classifier
from diptych.models.detection import Regions
from diptych.models.regions import squashed
from diptych.models.two_stage.boxes import BoxConfig, fused, moved, padded, scaled
from diptych.models.two_stage.masks import MaskBranch
from diptych.models.two_stage.model import RegionsModel, TwoStageDetector
from diptych.models.two_stage.proposals import ProposalConfig, ProposalHead, proposed
from diptych.models.two_stage.pyramid import (
    BoxHead,
    SimplePyramid,
    map_of,
    pool_level,
    pool_levels,
)
from diptych.models.two_stage.windows import Windows, in_windows
from diptych.spec import Width
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import freeze
from diptych.towers.regions import dense_route, keep_patches, set_size

_VECTORS = 14
"""Positions a side to which the frozen tower's boxes are pooled before their mean."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The module's parts.

    - `size` is the side of the images in pixels (None: the model's).
    - `pyramid` is the number of channels of the pyramid, `width` that of the box head's layers.
    - `detects` adds what makes it a detector: `proposals`, `boxes`, and the `windows` in which its
      image tower attends. `masks` adds a branch for the masks of objects, one for all classes.
    """

    size: int | None = None
    pyramid: Width = 256
    width: Width = 1024
    detects: bool = False
    masks: bool = False
    windows: Windows = field(default_factory=Windows)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    boxes: BoxConfig = field(default_factory=BoxConfig)


class RegionDetector(Classifier):
    """A dual encoder with the box head of a detector; images are squashed to a square."""

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer, template: str, config: DetectorConfig
    ):
        super().__init__(encoder, tokenizer, template, frozen=False)
        tower: Any = encoder.image
        if config.size is not None:
            set_size(tower, config.size, "method.size")
        tower.preprocess = squashed(tower.preprocess)
        keep_patches(tower)
        if (hidden := getattr(tower, "mask_token", None)) is not None:
            freeze(hidden)  # nothing is hidden
        self.config = config
        self.trained: tuple[str, ...] = ()  # the classes of the boxes that it was trained on
        self.pyramid = SimplePyramid(tower.width, config.pyramid)
        self.head = BoxHead(config.pyramid, config.width, encoder.embed_dim)
        if not config.detects:
            return
        self.proposals = ProposalHead(config.pyramid)
        self.refine = nn.Linear(config.width, 4)
        nn.init.normal_(self.refine.weight, std=0.001)
        nn.init.zeros_(self.refine.bias)
        self.background = nn.Parameter(torch.randn(encoder.embed_dim) * 0.02)
        self.scale = nn.Parameter(torch.ones(()))
        self.before = ImageSide(encoder)
        if config.masks:
            self.mask_head = MaskBranch(config.pyramid, config.pyramid)

    @property
    def finds_masks(self) -> bool:
        """Whether it finds the masks of objects."""
        return self.config.detects and self.config.masks

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """The fields that a validation source needs."""
        return "images.main", "boxes"

    @property
    def side(self) -> int:
        """The side in pixels of the images that are read."""
        return self.image.preprocess.side

    def train(self, mode: bool = True) -> Self:  # type: ignore[override]
        super().train(mode)
        if self.encoder.text is not None and not _learns(self.encoder.text):
            self.encoder.text.eval()
        return self

    def class_vectors(self) -> Tensor:
        """The classes as unit vectors (C, E), embedded once in training."""
        return self._classes_now()

    # ---- the parts

    def maps(self, x: Tensor) -> list[Tensor]:
        """The pyramid's maps of images (B, 3, H, W)."""
        return self.pyramid(map_of(self._encoded(x)))

    def _encoded(self, x: Tensor) -> Encoded:
        if self.config.detects and self.config.windows.count > 1:
            return in_windows(self.image, x, self.config.windows)
        return self.encoder.encode_image(x)

    def of_level(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """The vectors (B, R, E) of boxes (B, R, 4) from one map (B, C, h, w)."""
        B, R = boxes.shape[:2]
        image = torch.arange(B, device=boxes.device).repeat_interleave(R)
        return self.head(pool_level(maps, boxes.flatten(0, 1), image)).unflatten(0, (B, R))

    def region_vectors(
        self, x: Tensor, boxes: Tensor, maps: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Unit vectors (B, R, E) of boxes (B, R, 4), shares of images (B, 3, H, W), by the box head,
        each from the map that its size is for. `maps` are those of `maps`, if computed already."""
        B, R = boxes.shape[:2]
        image = torch.arange(B, device=boxes.device).repeat_interleave(R)
        maps = self.maps(x) if maps is None else maps
        pooled = pool_levels(maps, boxes.flatten(0, 1), image)
        return F.normalize(self.head(pooled), dim=-1).unflatten(0, (B, R))

    def named(self, hidden: Tensor, texts: Tensor) -> Tensor:
        """The logits (K, C + 1) of boxes, of which the last is the background's, from the hidden layer
        of the head."""
        vectors = F.normalize(at_least_float32(self.head.project(hidden)), dim=-1)
        rows = torch.cat([texts.to(vectors), F.normalize(self.background, dim=0)[None]])
        return vectors @ rows.T / (0.1 * self.scale)

    # ---- inference

    def regions(self, x: Tensor, maps: Sequence[Tensor] | None = None) -> Regions:
        """The proposals of images (B, 3, H, W), refined, with the scores of the classes; an image with
        fewer than others is filled up with boxes of score 0. `maps` are those of `maps`, if computed
        already."""
        if not self.config.detects:
            raise InputError(
                "this model has the head of a detector and proposes no boxes; give them, or train it on boxes "
                "(dito --method.task detect)"
            )
        texts = self.text_features()
        maps = self.maps(x) if maps is None else maps
        counts = [each.shape[2] * each.shape[3] for each in maps]
        centre, sides = self.proposals(maps)
        found = proposed(centre, sides, counts, self.config.proposals)
        boxes = torch.cat([each for each, _ in found])
        objectness = torch.cat([each for _, each in found])
        lengths = torch.tensor([len(each) for each, _ in found], device=boxes.device)
        image = torch.repeat_interleave(torch.arange(len(x), device=boxes.device), lengths)
        hidden = self.head.hidden(pool_levels(maps, boxes, image))
        refined = moved(boxes, at_least_float32(self.refine(hidden)))
        config = self.config.boxes
        known = self.before.vectors(x, refined, image, self.config)
        scores = fused(
            self.named(hidden, texts).softmax(-1),
            (known @ texts.to(known).T / config.temperature).softmax(-1),
            objectness,
            self.weights().to(known),
            config.objectness,
        )
        vectors = F.normalize(at_least_float32(self.head.project(hidden)), dim=-1)
        rows = lengths.tolist(), self.config.proposals.post_nms_top_n
        return Regions(
            padded(vectors, *rows),
            padded(refined, *rows),
            padded(torch.logit(objectness, eps=1e-6), *rows, fill=-20.0),
            padded(scores, *rows),
        )

    def masks(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, classes: Tensor
    ) -> Tensor:
        """The masks (K, S, S), as probabilities, of boxes (K, 4) of images, by the maps of `maps`. The
        branch is the same for all `classes` (K,)."""
        return self.mask_head.of_classes(maps, boxes, image, classes).sigmoid()

    def weights(self) -> Tensor:
        """The weight (C,) of the pretrained model's score for each class."""
        config = self.config.boxes
        seen = {plainly(name) for name in self.trained}
        return torch.tensor(
            [
                config.base_weight if plainly(name) in seen else config.novel_weight
                for name in self.classes
            ]
        )

    # ---- saving

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "trained": list(self.trained)}

    def load_extra_state(self, values: Any) -> None:
        super().load_extra_state(values)
        self.trained = tuple(values["trained"])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        kind = TwoStageDetector if self.config.detects else RegionsModel
        return kind(self, self.image.preprocess, name=name)


class ImageSide(nn.Module):
    """The frozen image side of a dual encoder, as it is now."""

    def __init__(self, encoder: DualEncoder):
        super().__init__()
        own = copy.copy(encoder)
        own._parameters = dict.fromkeys(encoder._parameters)
        own._modules = {
            name: None if name.startswith("text") else copy.deepcopy(part)
            for name, part in encoder._modules.items()
        }
        self.encoder = own
        freeze(self)

    @torch.no_grad()
    def vectors(self, x: Tensor, boxes: Tensor, image: Tensor, config: DetectorConfig) -> Tensor:
        """Unit vectors (K, E) of boxes (K, 4) of images (B, 3, H, W); all patches attend to each other
        in the last layer alone."""
        encoder = self.encoder
        route = dense_route(encoder.image)
        if config.windows.count > 1:
            windows = Windows(count=config.windows.count, everywhere=1, shift=0)
            encoded = in_windows(encoder.image, x, windows, route)
        else:
            encoded = encoder.encode_image(x, **({} if route == "tokens" else {"route": route}))
        maps = encoder.position_vectors(encoded).mT.unflatten(2, map_of(encoded).shape[-2:])
        own = scaled(boxes, config.boxes.crop)
        found = pool_level(maps, own, image, _VECTORS).mean((2, 3))
        return F.normalize(found, dim=-1)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
