"""PixPro: Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual
Representation Learning (Xie et al., CVPR 2021).

Two crops of an image are encoded as feature maps. Each position of one map must be similar to those
positions of the other that lie near it in the image (`objectives.pixels`):

    y = propagation(z),   y_p = Σ_q max(cos(z_p, z_q), 0)² · unit(W z_q + b)                (`maps`)
    L = -2 mean l(y_1, z'_2, A) - 2 mean l(y_2, z'_1, Aᵀ),   l the mean cosine of the pairs in A

z are the projected positions, z' those of a momentum copy, as in BYOL; A are the pairs of positions
whose distance in the image is below 0.7 of a cell's diagonal. PixContrast has a contrastive loss of
the same pairs, without propagation. A feature pyramid and an instance-level branch can be trained
along. Inference: the tower, or the pyramid's levels, without the heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from diptych.data.batch import Batch
from diptych.data.views import Augment, ImageView, View
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Recipe, Stage
from diptych.methods.families.image_only import PAPER, SMALL, ImageOnly, ImageOnlyConfig
from diptych.methods.make import Make
from diptych.methods.pretrain.pixpro.maps import Propagation, Pyramid
from diptych.models.blank import encoded_blank, unread
from diptych.objectives.pixels import pixel_consistency, pixel_contrast, positives
from diptych.spec import Natural, NetworkSpec, NotNegative, Positive, Share, Width, configure
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Momentum, Temperature, cosine_momentum, freeze
from diptych.towers.tower import ImageTower

card = {
    "title": "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning",
    "year": 2021,
    "kind": "method",
    "entry": "PixPro",
    "provenance": "code",
}

FIRST: Mapping[str, Any] = {
    "crop": (0.08, 1.0),
    "flip": True,
    "colour": (0.4, 0.4, 0.2, 0.1),
    "recoloured": 0.8,
    "grey": 0.2,
    "blur": 1.0,
}
"""BYOL's augmentation of the first view."""
SECOND: Mapping[str, Any] = {**FIRST, "blur": 0.1, "solarise": 0.2}
_HEAD = "mlp:hidden=4096:bias=true:last_bias=true"


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """Options.

    - `augment` and `second` hold options of `data.views.Augment` for the two views.
    - `objective` is "consistency" (PixPro) or "contrast" (PixContrast), whose temperature is `tau`.
    - `ratio` is the largest distance of a positive pair, in diagonals of a cell.
    - `projector` is the head at each position (`towers.nn.heads`).
    - `gamma` is the power of similarities in the propagation, `transform` the number of its linear
      layers.
    - `momentum` is that of the copy at the start; it rises to 1.
    - `instance` is the weight of the instance-level branch, 0 for none, whose projector is like that
      of the positions; `predictor` is its prediction head.
    - `levels` is the number of levels of a feature pyramid, on the coarsest maps of the tower, which
      learns by the same loss; 0 for none. `channels` is its width.
    """

    augment: Mapping[str, Any] = field(default_factory=lambda: dict(FIRST))
    second: Mapping[str, Any] = field(default_factory=lambda: dict(SECOND))
    objective: Literal["consistency", "contrast"] = "consistency"
    ratio: Positive = 0.7
    tau: Positive = 0.3
    projector: NetworkSpec = _HEAD
    gamma: Positive = 2.0
    transform: Natural = 1
    momentum: Share = 0.99
    instance: NotNegative = 0.0
    predictor: NetworkSpec = _HEAD
    levels: Natural = 0
    channels: Width = 256


@dataclass(frozen=True, slots=True)
class Projected:
    """Projections of one view: `maps` (B, P, E) of the tower's last map and of the pyramid's levels,
    with their `grids`, and those of the last map by the projector of the `instance` branch."""

    maps: Sequence[Tensor]
    grids: Sequence[tuple[int, int]]
    instance: Tensor | None


class PixPro(ImageOnly):
    """Predicts the copy's projection of each position from the near positions of the other view."""

    Config = Config
    averaged: ClassVar = ("mean", "square")

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.second = configure(Augment, dict(config.second), "second")
        width = self.model.embed_dim
        self.propagation = (
            Propagation(width, config.gamma, config.transform)
            if config.objective == "consistency"
            else nn.Identity()
        )
        self.heads = nn.ModuleDict()
        if config.levels:
            self.heads["levels"] = head(config.projector, config.channels, width, "pyramid")
        if config.instance:
            inner = self.model.image.width
            self.heads["instance"] = head(config.projector, inner, width, "instance")
            self.predictor = head(config.predictor, width, width, "prediction")
        branch = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self.slow = Momentum(branch, config.momentum, buffers="own")

    def build(self, make: Make) -> DualEncoder:
        """Return the tower with a new projector, which embeds an image as the mean of its projected
        positions."""
        config = self.config
        tower = Pyramid.of(make.image(), config.levels, config.channels)
        _prepare(tower)
        return DualEncoder(
            tower,
            None,
            make.embed_dim,
            logit_scale=Temperature(1.0, form="fixed"),
            image_projection=config.projector,
            pool="after",
        )

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        level = " --level 0" if options.get("levels") else ""
        return (
            f"evaluate {{run}} --data SOURCE --suite dense{level}",
            "evaluate {run} --data {data} --suite correspondence",
            *super().next_steps(options),
        )

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (
            ImageView(
                preprocess=self.model.image.preprocess,
                augment=self.augment,
                second=self.second,
                count=2,
                crops=True,
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        # one pass for each view: batch norms see one view at a time, as published
        views = batch.image.pixels.unbind(1)
        online = [self.project(self.slow.online, view) for view in views]
        with torch.no_grad():
            target = [self.project(self.slow.module, view) for view in views]
        near = [self.positives(batch, grid) for grid in online[0].grids]
        losses = [
            self.map_loss(
                [view.maps[number] for view in online],
                [view.maps[number] for view in target],
                pairs,
            )
            for number, pairs in enumerate(near)
        ]
        found = {
            "pixels": losses[0],
            "positives": near[0].sum((1, 2)) / near[0].shape[1],
            **_moments(torch.cat([view.maps[0].detach() for view in online], 1)),
        }
        if self.config.levels:
            found["pyramid"] = torch.stack(losses[1:], 1).mean(1)
        if self.config.instance:
            found["instance"] = self.instance_loss(online, target)
        return found

    def project(self, branch: nn.Module, view: Tensor) -> Projected:
        """Project the positions of images (B, 3, H, W) by the `model` and the `heads` of a branch."""
        model: Any = branch["model"]  # type: ignore[index]
        heads: Any = branch["heads"]  # type: ignore[index]
        encoded = model.encode_image(view)
        levels = [encoded.of_level(number) for number in range(self.config.levels)]
        return Projected(
            [model.project_image(encoded.patches), *(heads["levels"](x.patches) for x in levels)],
            [x.grid for x in (encoded, *levels)],
            heads["instance"](encoded.patches) if self.config.instance else None,
        )

    def positives(self, batch: Batch, grid: tuple[int, int]) -> Tensor:
        """Which positions of the two views are positive pairs (B, P, P)."""
        one, other = batch.fields["main.crops"].unbind(1)
        return positives(one, other, grid, self.config.ratio)

    def map_loss(self, online: Sequence[Tensor], target: Sequence[Tensor], near: Tensor) -> Tensor:
        """The loss (B,) of the projected positions (B, P, E) of two views."""
        x1, x2 = online
        z1, z2 = target
        if self.config.objective == "contrast":
            tau = self.config.tau
            forth = pixel_contrast(x1, z2, near, tau)
            return (forth + pixel_contrast(x2, z1, near.mT, tau)) / 2
        forth = pixel_consistency(self.propagation(x1), z2, near)
        return forth + pixel_consistency(self.propagation(x2), z1, near.mT)

    def instance_loss(self, online: Sequence[Projected], target: Sequence[Projected]) -> Tensor:
        """The loss (B,) of the pooled predictions of two views and the copy's projections of the
        other one."""
        cosines = [
            cosine_similarity(
                at_least_float32(self.predictor(view.instance).mean(1)),
                at_least_float32(other.instance.mean(1)),  # type: ignore[union-attr]
                dim=1,
            )
            for view, other in zip(online, reversed(target), strict=True)
        ]
        return -2 * torch.stack(cosines).sum(0)

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        terms = {self.config.objective: features["pixels"].mean()}
        if self.config.levels:
            terms["pyramid"] = features["pyramid"].mean()
        if self.config.instance:
            terms["instance"] = self.config.instance * features["instance"].mean()
        count = features["positives"]
        variance = features["square"] - features["mean"].square()
        return Losses(
            terms,
            {
                "without_positives": (count == 0).double().mean(),
                "positives": count.mean(),
                "feature_std": variance.clamp(min=0).sqrt().mean(),
            },
        )

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        # published at the beginning of the next step, with the momentum of that one
        following = replace(at, step=at.step + 1)
        self.slow.update(cosine_momentum(self.config.momentum, following.progress))


def _moments(x: Tensor) -> dict[str, Tensor]:
    """The means over positions of unit vectors (B, P, E) and of their squares, (B, E) each."""
    unit = normalize(at_least_float32(x), dim=-1)
    return {"mean": unit.mean(1), "square": unit.square().mean(1)}


def _prepare(tower: ImageTower) -> None:
    """Freeze what only the pooled vector depends on, such as a norm behind the pooling.

    Raises InputError for an image tower without a feature map, or with one of a single row or
    column, or whose positions are not of its width.
    """
    encoded = encoded_blank(tower)
    if encoded.grid is None:
        raise InputError(
            f"image tower {tower.kind!r} has no feature map, and this method compares the positions of maps; choose "
            "vit, conv or a timm tower that keeps its map"
        )
    if min(encoded.grid) < 2:
        raise InputError(
            f"the feature map of this image tower is {encoded.grid[0]} x {encoded.grid[1]}, and its positions are "
            "compared; raise image_size, or choose a smaller patch or fewer stages"
        )
    if encoded.patches.shape[2] != tower.width:
        raise InputError(
            f"the positions of image tower {tower.kind!r} are {encoded.patches.shape[2]} wide, but its pooled vector "
            f"is {tower.width}; choose a tower without layers behind the pooling"
        )
    read = [encoded.patches, *encoded.levels] if isinstance(tower, Pyramid) else [encoded.patches]
    freeze(*unread(tower, read))


PixPro.presets = {
    "small": replace(
        SMALL,
        config={
            "augment": {**FIRST, "crop": (0.3, 1.0), "blur": 0.0},
            "second": {**SECOND, "crop": (0.3, 1.0), "blur": 0.0},
            "projector": "mlp:hidden=256:bias=true:last_bias=true",
            "predictor": "mlp:hidden=256:bias=true:last_bias=true",
        },
        image="conv:image_size=64:widths=(48,128):depths=(1,1)",  # a map of 8 x 8
    ),
    "paper": replace(
        PAPER,
        config={},
        embed_dim=256,
        recipe=Recipe(
            optimizer="lars",
            lr=4.0,
            betas=(0.9, 0.0),
            eps=1e-8,
            weight_decay=1e-5,
            warmup=0.0125,
            epochs=400,
            batch_size=1024,
            precision="bfloat16",
        ),
    ),
}
