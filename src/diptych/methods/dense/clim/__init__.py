"""CLIM: Contrastive Language-Image Mosaic for Region Representation (Wu et al., AAAI 2024).

Images of a batch become the tiles of mosaics. Each tile is a pseudo region, whose box is known: its
vector is pooled from the positions of the mosaic and must find the caption of its image among those
of the batch. So positions learn to tell what is in a region, from captions alone.

    v_i = unit( RoIAlign(z, tile_i) ),   z_n = unit( projection of position n by the dense route )
    L   = 1/2 [ CE(s V T^T, diagonal) + CE(s T V^T, diagonal) ]

A group of n images gives g = n // unit mosaics of each size s x s, unit = the sum of s² over the
choices: the first g s² images for the first size, the next for the second. The n mod unit images
that are left are embedded as any image is. V holds all of them in the batch's order. T are the
frozen text tower's. The last blocks of the image tower and the scale s are trained; the result is

    weights = (1 - alpha) · before + alpha · after

Inference: `embed_regions`, `classify_regions`, and as CLIP. With `task="detect"` mosaics teach a detector
beside boxes (`detection.py`).

Dimensions: B images, G groups of n images, T x T pixels of a mosaic, E embedding.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.plan import Fixed
from diptych.data.views import View
from diptych.errors import InputError
from diptych.methods.base import At, Features, Method, Preset, Recipe, Stage
from diptych.methods.dense.clim.detection import CaptionedDetection
from diptych.methods.dense.clim.mosaic import assemble, counts, tile_boxes
from diptych.methods.families.few_shot import PAPER, SMALL
from diptych.methods.families.pairs import DuplicatesConfig, Pairs
from diptych.methods.make import Make
from diptych.methods.tuning import block_names
from diptych.models.two_stage.boxes import BoxConfig
from diptych.models.two_stage.detector import DetectorConfig
from diptych.models.two_stage.proposals import ProposalConfig
from diptych.models.two_stage.windows import Windows
from diptych.objectives import info_nce
from diptych.spec import AtLeast, Count, NotNegative, Share, Width, configure
from diptych.towers.nn.parts import Frozen, Temperature, between, freeze
from diptych.towers.regions import at_any_size, check_side, keep_patches, region_vectors

card = {
    "title": "CLIM: Contrastive Language-Image Mosaic for Region Representation",
    "year": 2024,
    "kind": "method",
    "entry": "CLIM",
    "provenance": "code",
    "abilities": {"embed_regions": "--init MODEL"},
}


@dataclass(frozen=True, kw_only=True)
class Config(DuplicatesConfig):
    """Options beside those of methods on pairs; `decay` is none of them.

    - `task` is "clip", from captions alone, or "detect", from boxes and captions.
    - `choices` are the sides s of mosaics of s x s tiles.
    - `group` is the number of consecutive images of a batch that are put together. Ranks read whole
      groups, so their number changes no mosaic.
    - `tile` is the side of a tile in pixels (None: of the image tower's images; of a detector half of
      its images), `size` that of a mosaic (None: four times the tile), or of all images of a detector
      (None: the image tower's).
    - `blocks` is the number of the image tower's last blocks that are trained.
    - `alpha` is the share of the trained weights in the result; 1 keeps them.

    Of a detector:

    - A group has `whole` images that are not put together, and one mosaic of each size, with
      `composites` rectangles each. `labelled` images with boxes are read with a group.
    - `queue` is the number of captions that are kept, `caption_weight` that of their loss.
    - `tags` are names that captions may mention, by which a region of each tile is named too: "cat,dog",
      or a file with one a line.
    - The others are those of `methods.dense.dito`.
    """

    task: Literal["clip", "detect"] = "clip"
    choices: tuple[Count, ...] = (2, 3, 4)
    group: Count = 32
    tile: Count | None = None
    size: Count | None = None
    blocks: Count = 6
    alpha: Share = 0.7
    whole: Annotated[int, AtLeast(0)] = 2
    composites: Count = 4
    labelled: Count = 2
    queue: Count = 256
    caption_weight: NotNegative = 0.1
    tags: str | tuple[str, ...] = ()
    pyramid: Width = 256
    width: Width = 1024
    backbone_rate: NotNegative = 0.1
    template: str = "a photo of a {}."
    max_boxes: Count = 100
    flip: bool = True
    jitter: tuple[NotNegative, NotNegative] | None = None
    windows: Mapping[str, Any] = field(default_factory=lambda: {"count": 1})
    proposals: Mapping[str, Any] = field(default_factory=dict)
    boxes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.choices:
            raise InputError("choices is empty; name one size of mosaics at least, such as [2]")
        if self.task == "clip":
            counts(self.group, self.choices)
            if self.tags:
                raise InputError(
                    "tags name the regions of a detector, and task is 'clip'; "
                    "add --method.task detect, or leave them out"
                )
        if self.decay != 1:
            raise InputError(
                f"decay is {self.decay}, and the last blocks are trained at one rate; leave it out"
            )

    def detector(self) -> DetectorConfig:
        """The options of a detector's module."""
        return DetectorConfig(
            size=self.size,
            pyramid=self.pyramid,
            width=self.width,
            detects=True,
            windows=configure(Windows, dict(self.windows), "windows"),
            proposals=configure(ProposalConfig, dict(self.proposals), "proposals"),
            boxes=configure(BoxConfig, dict(self.boxes), "boxes"),
        )


class CLIM(Pairs):
    """A dual encoder whose image tower learns from the tiles of mosaics."""

    Config = Config
    adapts = True
    # mosaics hold several samples; groups of a fixed size keep ranks alike, pieces would cut them
    chunkable = False
    # one size of mosaics, and 7 single images; the parts of a detector are small
    test_options: ClassVar = {
        **{"choices": (3,), "group": 16, "size": 48},
        **{"pyramid": 16, "width": 32, "proposals": {"post_nms_top_n": 50}},
    }
    # the loss is CLIP's; what is new is how images are encoded
    features_from = Method.features_from

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        model = make.dual(logit_scale=Temperature(1 / 0.07, clamp=(1.0, 100.0)))
        self.model = at_any_size(model)
        tower: Any = self.model.image
        keep_patches(tower)
        self.tile = config.tile or tower.image_size
        self.size = config.size or 4 * self.tile
        for what, side in (("method.tile", self.tile), ("method.size", self.size)):
            check_side(tower, side, what)
        freeze(self.model.text, self.model.text_projection)
        self.number, self.rest = counts(config.group, config.choices)
        # what the vectors of whole images alone depend on, if a group leaves none single
        self.find_unused_parameters = not self.rest  # type: ignore[misc]  # set on the instance
        parts = {"image": self.model.image, "logit_scale": self.model.logit_scale}
        self.before = Frozen(copy.deepcopy(nn.ModuleDict(parts)), "the model before")

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.task == "clip":
            return cls(config, make)
        made = CaptionedDetection(config, make)
        made.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return made

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return CaptionedDetection.resolve_options(options)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        assert self.model.text is not None
        self.model.text.eval()
        return self

    def stages(self) -> Sequence[Stage]:
        config = self.config
        least = config.group * collectives.world_size()
        trained = block_names(self.model.image)[-config.blocks :]
        rates = {"": 0.0, "model.logit_scale": 1.0}
        rates |= {f"model.image.{name}": 1.0 for name in trained}
        plain = config.stage(self.model)
        train = replace(
            plain, plan=Fixed(plain.plan_of("train"), least), lr_scale=rates, min_batch=least
        )
        if config.alpha == 1:
            return (train,)
        return train, Stage(name="mix", prepare=self.mix, optimize=False)

    @torch.no_grad()
    def mix(self, run: Any) -> None:
        """Interpolate the weights between those before and those after training."""
        before = self.before.module.state_dict()
        after = {name: value for name, value in self.model.state_dict().items() if name in before}
        mixed = between(before, after, self.config.alpha)
        self.model.load_state_dict(mixed, strict=False)  # the rest is frozen

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        images, *texts = super().views(stage, stream)
        tiles = replace(self.model.image.preprocess, size=self.tile)
        return replace(images, preprocess=tiles), *texts  # type: ignore[type-var]

    def boxes(self, side: int) -> Tensor:
        """The boxes (s², 4) from which the tiles of a mosaic are pooled, row by row."""
        return tile_boxes(side)

    def _encode_images(self, batch: Batch, at: At) -> Features:
        """The vectors of tiles and single images, in the batch's order."""
        config = self.config
        pixels = self.model.image.pixels(batch.image.flat)
        if len(pixels) % config.group:
            raise InputError(
                f"a batch of {len(pixels)} images is not made of groups of {config.group}; give --batch-size as a "
                "multiple of it, for each rank"
            )
        groups = pixels.unflatten(0, (-1, config.group))
        mosaics = []
        boxes = []
        start = 0
        for side in config.choices:
            stop = start + self.number * side**2
            made = assemble(groups[:, start:stop].flatten(0, 1), side, self.size)
            rows = F.pad(self.boxes(side), (0, 0, 0, max(config.choices) ** 2 - side**2))
            mosaics.append(made)
            boxes.append(rows.expand(len(made), -1, -1))
            start = stop
        where = torch.cat(boxes).to(pixels.device)
        regions = region_vectors(self.model, torch.cat(mosaics), where)
        found = [
            own[:, : side**2].reshape(len(groups), -1, own.shape[-1])
            for side, own in zip(config.choices, regions.chunk(len(config.choices)), strict=True)
        ]
        if self.rest:
            whole = self.model.embed_images(groups[:, start:].flatten(0, 1))
            found.append(whole.unflatten(0, (len(groups), self.rest)))
        return {"image": torch.cat(found, dim=1).flatten(0, 1)}

    @torch.no_grad()
    def _encode_texts(self, batch: Batch, at: At) -> Features:
        return super()._encode_texts(batch, at)

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> Mapping[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        if options.get("task") == "detect":
            return (
                "detect {run} IMAGES --names 'A,B,C'",
                "evaluate {run} --data {data} --suite detection",
            )
        return "evaluate {run} --data SOURCE --suite regions", "classify {run} IMAGES --boxes FILE"


_CONFIG = {"augment": {"crop": (0.9, 1.0)}, "keep_statistics": True}
_RECIPE = Recipe(lr=1e-5, weight_decay=0.1, warmup=1000, batch_size=128, epochs=100)
CLIM.presets = {
    "small": replace(
        SMALL,
        config=_CONFIG,
        recipe=replace(_RECIPE, optimizer="muon", lr=8e-3, warmup=0.1, batch_size=64, epochs=10),
    ),
    "paper": replace(PAPER, config={**_CONFIG, "size": 1024}, recipe=_RECIPE),
    "tune": Preset(config=_CONFIG, recipe=replace(_RECIPE, lr=3e-5, warmup=0.1, epochs=5)),
}
