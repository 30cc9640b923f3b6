"""SepCLR: Separating common from salient patterns with Contrastive Representation Learning (Louiset
et al., ICLR 2024).

Images are of two kinds: background, such as healthy, and target, which also has salient patterns.
One encoder learns what both kinds have in common, the other what only targets have. c are unit
vectors of the common head, s vectors of the salient head, s~ the same with 0 in place of the
background; the means are over two views (`objectives`):

    L = align(c, c') + 2 unif(c)                        common: all images
      + beta_s · [ align(s, s') + 2 unif(s~) ]          salient: align of targets; apart from each other and from 0
      + beta_r · align(0, s)                            background: its salient vectors are 0
      + lambda · J(c, s~)                               joint: -J is the joint entropy of both spaces

As the uniformities already raise the entropies of each space, raising the joint entropy lowers the
mutual information I(c; s). With known attributes of targets, each is one dimension of the salient
head (`objectives.attributes_term`), and the salient encoder sees undistorted images. Inference: the
representations before the heads, as the spaces `common` and `salient`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.batch import Batch
from diptych.data.loader import require
from diptych.data.plan import Stratified
from diptych.data.sample import Source, label_values, labels_of
from diptych.data.views import ImageView, LabelView, View
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Preset, Recipe, Stage
from diptych.methods.families.image_only import PAPER, SMALL, ImageOnly, ImageOnlyConfig
from diptych.methods.make import Make
from diptych.methods.pretrain.sepclr.objectives import (
    attributes_term,
    background_term,
    common_term,
    joint_term,
    salient_term,
)
from diptych.methods.pretrain.sepclr.spaces import SPACES, TwoSpaces
from diptych.spec import Count, NetworkSpec, NotNegative, Positive

card = {
    "title": "Separating common from salient patterns with Contrastive Representation Learning",
    "year": 2024,
    "kind": "method",
    "entry": "SepCLR",
    "provenance": "code",
}

MISSING = -1
LEAST = 2
"""Images of each kind in a batch, so that each has pairs."""
_WIDTH = 32
_LABEL = "kind"


@dataclass(frozen=True, kw_only=True)
class Config(ImageOnlyConfig):
    """Options.

    - `label` names an integer label, and `background` its values that are background: a number or
      the name of a class, several joined by `+`. By default they are the images that have no value
      (-1). All others are targets; if background has values, images without one are left out.
    - `tau` is the width of the kernels.
    - `beta_salient`, `beta_background` and `joint` (lambda) weigh the terms.
    - `common_dim` and `salient_dim` are the widths of the heads' outputs; that of the
      representations is the run's `embed_dim`. `salient_dim` is 32, or the number of attributes.
    - `discrete` and `continuous` name the known attributes of targets: integer labels, and labels of
      numbers in which a difference of 0.16 is one standard deviation of the kernel.
      `beta_background` is then part of `beta_salient`, and has no effect.
    """

    projector: NetworkSpec = "mlp:hidden=128:bias=true:last_bias=true"
    label: str = "class"
    background: str | int = MISSING
    tau: Positive = 0.5
    beta_salient: NotNegative = 1000.0
    beta_background: NotNegative = 1000.0
    joint: NotNegative = 10.0
    common_dim: Count = _WIDTH
    salient_dim: Count | None = None
    discrete: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.attributes
        if len(set(names)) < len(names):
            raise InputError(
                f"an attribute is given twice among {', '.join(names)}; name each once, as discrete or continuous"
            )
        if names and self.salient_dim not in (None, len(names)):
            raise InputError(
                f"each of the {len(names)} attributes is one dimension of the salient space, and salient_dim is "
                f"{self.salient_dim}; leave it out"
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes, in the order of the dimensions."""
        return (*self.discrete, *self.continuous)


class SepCLR(ImageOnly):
    """Two image encoders, trained on batches of background and target images."""

    Config = Config
    model: TwoSpaces  # type: ignore[assignment]  # in place of one dual encoder
    # half of a toy, whose batches have four samples at least; with less weight of the joint term it is
    # memorised in fewer steps
    test_options: ClassVar = {"background": "red+yellow+cyan+purple", "joint": 1.0}

    def __init__(self, config: Config, make: Make):
        super().__init__(config, make)
        self.background = (MISSING,)

    def build(self, make: Make) -> TwoSpaces:
        config = self.config
        model = TwoSpaces(
            make.image(),
            make.image(),
            make.embed_dim,
            projector=config.projector,
            widths=(config.common_dim, config.salient_dim or len(config.attributes) or _WIDTH),
        )
        make.go_on(model)
        return model

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        label = options.get("label", Config.label)
        return (
            f"evaluate {{run}} --data {{data}} --suite separation --salient {label} --common LABEL",
            "embed {run} SOURCE --space salient --out EMB",
        )

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Find the numbers of the background's values. Raises InputError if the label or an attribute
        does not suit."""
        source = sources["train"]
        require(source, [f"labels.{self.config.label}"], self.name)
        self.background = _background(source, self.config)
        for names, kind, other in (
            (self.config.discrete, "int", "continuous"),
            (self.config.continuous, "float", "discrete"),
        ):
            for name in names:
                field = source.schema().get(f"labels.{name}")
                if field is not None and field.kind != kind:
                    raise InputError(
                        f"labels.{name} of {source.name} holds {field.kind} numbers; name it among the {other} "
                        "attributes"
                    )

    def stages(self) -> Sequence[Stage]:
        config = self.config
        plan = Stratified(f"labels.{config.label}", values=config.background, min_samples=LEAST)
        return (Stage(plan=plan, min_batch=2 * LEAST),)

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Leave out samples that are of neither kind: those without a value, where the background has
        values."""
        if MISSING in _background(source, self.config):
            return source
        known = labels_of(source, self.config.label) != MISSING
        return source if known.all() else Wrapped(source, np.flatnonzero(known))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        config = self.config
        label = LabelView(label=config.label, name=_LABEL)
        if not config.attributes:
            return *super().views(stage, stream), label
        preprocess = self.model.image.preprocess
        return (
            ImageView(preprocess=preprocess, augment=None),
            ImageView(preprocess=preprocess, augment=self.augment, name="distorted"),
            label,
            *(LabelView(label=name, name=f"attribute.{name}") for name in config.discrete),
            *(
                LabelView(label=name, name=f"attribute.{name}", real=True)
                for name in config.continuous
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        # one pass for each view: batch norms see one view at a time, as published
        names = ("main", "distorted") if self.config.attributes else ("main",)
        views = [view for name in names for view in batch.images[name].pixels.unbind(1)]
        seen = {"common": views, "salient": views[:1] if self.config.attributes else views}
        return {
            space: torch.stack([self.model.project(view, space) for view in seen[space]], 1)
            for space in SPACES
        }

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        config = self.config
        common = normalize(features["common"], dim=-1).unbind(1)
        salient = features["salient"].unbind(1)
        target = self.is_target(batch.fields[_LABEL])  # type: ignore[arg-type]
        weight = 1.0 if config.attributes else 2.0
        terms = {"common": common_term(common, config.tau, weight)}
        if config.attributes:
            values: Any = {name: batch.fields[f"attribute.{name}"] for name in config.attributes}
            supervised = attributes_term(salient[0], target, values, config.tau)
            terms["salient"] = config.beta_salient * supervised
        else:
            terms["salient"] = config.beta_salient * salient_term(salient, target, config.tau)
            at_zero = background_term(salient, target, config.tau)
            terms["background"] = config.beta_background * at_zero
        terms["joint"] = config.joint * self.joint(common[: len(salient)], salient, target)
        return Losses(terms)

    def joint(self, common: Sequence[Tensor], salient: Sequence[Tensor], target: Tensor) -> Tensor:
        """J of the views that both spaces see."""
        return joint_term(common, salient, target, self.config.tau)

    def is_target(self, labels: Tensor) -> Tensor:
        """Which samples are targets (N,), by their labels."""
        return torch.isin(labels, torch.tensor(self.background, device=labels.device), invert=True)


def _background(source: Source, config: Config) -> tuple[int, ...]:
    return label_values(source, config.label, config.background)


# As published for CIFAR-10 with digits of MNIST laid over it.
_CROPPED = {
    "crop": (0.2, 1.0),
    "flip": True,
    "colour": (0.4, 0.4, 0.4, 0.1),
    "recoloured": 0.8,
    "grey": 0.2,
}
_RECIPE = Recipe(
    optimizer="adam",
    lr=3e-4,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    batch_size=512,
    epochs=250,
)
_PAPER = replace(
    PAPER,
    config={"augment": _CROPPED},
    image="timm:resnet18:image_size=32:small_stem=true",
    embed_dim=_WIDTH,
    recipe=_RECIPE,
)


def _medical(background: str, pinning: float) -> Preset:
    """The recipe for images of diseases, whose salient term weighs as much as the common one."""
    weights = {"beta_salient": 1.0, "beta_background": pinning}
    return replace(
        _PAPER,
        config={**_PAPER.config, "background": background, **weights},
        image="timm:resnet18:image_size=224",
        recipe=replace(_RECIPE, batch_size=256, epochs=200),
    )


SepCLR.presets = {
    "small": replace(
        SMALL,
        config={"augment": {**_CROPPED, "crop": (0.5, 1.0)}},
        image="conv:image_size=48:widths=(32,64,128):depths=(1,1,1):pooling=max",
        embed_dim=_WIDTH,
        recipe=replace(_RECIPE, lr=3e-3, batch_size=128, epochs=30),
    ),
    "paper": _PAPER,
    # glasses and hats; background are faces with neither
    "celeba": replace(
        _PAPER,
        config={**_PAPER.config, "background": "neither", "common_dim": 16, "salient_dim": 16},
        image="timm:resnet18:image_size=128",
        recipe=replace(_RECIPE, batch_size=256),
    ),
    "chexpert": _medical("No Finding", 10.0),
    "odir": _medical("normal", 100.0),
    # sprites on a grid of digits; background are grids without one, which have no shape
    "dsprites": replace(
        _PAPER,
        config={
            **_PAPER.config,
            "label": "shape",
            "beta_salient": 100.0,
            "discrete": ("shape",),
            "continuous": ("scale", "orientation", "x", "y"),
        },
        image="timm:resnet18:image_size=64:small_stem=true",
        recipe=replace(_RECIPE, batch_size=1024),
    ),
}
