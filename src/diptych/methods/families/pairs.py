"""Base of methods on (image, text) pairs: each sample has one image embedding and one text
embedding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.data.batch import Batch, Tokens
from diptych.data.plan import Distinct, Shuffled, Together
from diptych.data.views import ImageView, TextView, View, augmentation
from diptych.errors import InputError
from diptych.methods.base import At, Features, Losses, Method, Preset, Recipe, Stage
from diptych.methods.make import Make
from diptych.methods.tuning import Decay, has_blocks, keep_statistics, layer_rates
from diptych.objectives.core import different_group, group_targets
from diptych.spec import Count
from diptych.towers.dual import DualEncoder


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Options of methods on pairs.

    - `role` is the role of the texts (see `data.views.TextView`). With several roles, as in
      "caption;long", each image has as many texts, and the loss is the mean over them.
    - `decay` lowers the learning rates of the lower blocks of a given model (`methods.tuning`); 1
      keeps one rate. Towers without transformer blocks have one rate.
    - `keep_statistics` keeps the running means and variances of the towers' batch norms as they
      were loaded.
    - `distinct` names a label whose values occur at most once in a batch, so that images of the
      same thing are not false negatives of each other.
    - `together` is the number of consecutive samples that share a batch, so that siblings (of
      `scenes:siblings=4`) are hard negatives of each other.
    """

    role: str = "caption"
    augment: Mapping[str, Any] | None = field(
        default_factory=dict
    )  # of data.views.Augment; None: none
    decay: Decay = 1.0
    keep_statistics: bool = False
    distinct: str | None = None
    together: Count = 1

    several: ClassVar[bool] = True
    """Whether `role` may name several texts, each with a loss term."""

    def __post_init__(self) -> None:
        if not self.several and ";" in self.role:
            raise InputError(
                f"role {self.role!r} names several texts; this method takes one role or mixture of roles"
            )
        if self.distinct and self.together > 1:
            raise InputError(
                f"distinct={self.distinct} keeps samples apart and together={self.together} joins them; leave one out"
            )

    def stage(self, model: DualEncoder, prefix: str = "model") -> Stage:
        """Return the stage of a method that trains the encoder `model`, whose parameters have the
        prefix: which samples share a batch, and the learning rate of each part."""
        plan = Distinct(self.distinct) if self.distinct else Together(self.together)
        towers = {f"{prefix}.image": model.image, f"{prefix}.text": model.text}
        scale: dict[str, float] = {}
        for prefix, tower in towers.items():
            if has_blocks(tower):
                scale |= layer_rates(prefix, tower, self.decay)
        return Stage(
            plan=plan if self.distinct or self.together > 1 else Shuffled(), lr_scale=scale
        )


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig(PairConfig):
    """`duplicates` sets how equal texts in a batch count for each other's images: "apart", as
    negatives, as if they differed; "positives", as positives; "masked", as neither. Texts are equal
    if the tower reads the same tokens.

    `clips` trains on the clip of each sample, its image of role `frames`, in place of its image `main`.
    """

    duplicates: Literal["apart", "positives", "masked"] = "apart"
    clips: bool = False

    def equal(self, tokens: Tokens, *, share: bool = True) -> dict[str, Any]:
        """Return the objective's keyword arguments for equal texts (B, 1, L) that are not "apart".

        With `share` the positives of a row share a weight of 1.

        >>> ids = torch.tensor([[[5, 6]], [[7, 0]], [[5, 6]]])
        >>> found = DuplicatesConfig(duplicates="positives").equal(Tokens(ids, torch.tensor([[2], [1], [2]])))
        >>> found["targets"].to_dense()[0]
        tensor([0.5000, 0.0000, 0.5000])
        """
        ids, lengths = tokens.flat
        read = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        groups = torch.unique(ids.masked_fill(~read, -1), dim=0, return_inverse=True)[1]
        if self.duplicates == "masked":
            return {"allowed": different_group(groups)}
        return {"targets": group_targets(groups, share=share)}


class Pairs(Method):
    """A dual encoder trained on pairs. A subclass builds `self.model` and defines `terms`, the loss
    of images and texts."""

    Config = PairConfig
    share: ClassVar[bool] = True
    """Whether the positives of an image share one weight, as they do where they compete in a
    softmax."""
    reads_clips: ClassVar[bool] = True
    """Whether images may be clips. A class that reads images in a way of its own says so itself."""
    model: DualEncoder

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if {"views", "encode", "_encode_images"} & set(vars(cls)) and "reads_clips" not in vars(
            cls
        ):
            cls.reads_clips = False

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.augment = augmentation(config.augment)
        self.clips = getattr(config, "clips", False)
        if self.clips and not self.reads_clips:
            raise InputError(
                f"{self.name} reads single images; leave out --method.clips, or train clip, siglip or coca"
            )
        # by the suffix of their names: "", "2", "3", …
        self.roles = {
            str(at) if at > 1 else "": role for at, role in enumerate(config.role.split(";"), 1)
        }

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if getattr(self.config, "keep_statistics", False):  # some methods have options without it
            keep_statistics(self.model.image, self.model.text)
        return self

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> Mapping[str, Tensor]:
        """Return the loss terms, by name, of unit vectors (B, E) and (B, E).

        `equal` holds the objective's keyword arguments for equal texts (`DuplicatesConfig.equal`).
        """
        raise NotImplementedError

    def equal(self, batch: Batch, end: str) -> dict[str, Any]:
        """Return the objective's keyword arguments for equal texts of one role."""
        if getattr(self.config, "duplicates", "apart") == "apart":
            return {}
        return self.config.equal(batch.texts[f"main{end}"], share=self.share)

    def logged(self, features: Features) -> Mapping[str, Tensor | float]:
        """Return the values to log beside the loss."""
        return {"scale": self.model.logit_scale()}

    def loss(self, features: Features, batch: Batch, at: At) -> Losses:
        found = [
            self.terms(features["image"], features[f"text{end}"], **self.equal(batch, end))
            for end in self.roles
        ]
        return Losses(
            {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]},
            self.logged(features),
        )

    def features_from(self, features: Features, owner: str) -> Features:
        """Return the image vector and one vector for each text, as methods on pairs produce
        them."""
        return adopted(self.name, features, owner, "image", *(f"text{end}" for end in self.roles))

    def stages(self) -> Sequence[Stage]:
        return (self.config.stage(self.model),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (
            ImageView(
                preprocess=self.model.image.preprocess,
                role="frames" if self.clips else "main",
                augment=self.augment,
            ),
            *(
                TextView(tokenizer=self.make.tokenizer, name=f"main{end}", role=role)
                for end, role in self.roles.items()
            ),
        )

    def encode(self, batch: Batch, at: At) -> Features:
        return {**self._encode_images(batch, at), **self._encode_texts(batch, at)}

    def parts(self) -> Mapping[str, Callable[[Batch, At], Features]]:
        return {"images": self._encode_images, "texts": self._encode_texts}

    def _encode_images(self, batch: Batch, at: At) -> Features:
        images = batch.image.pixels if self.clips else batch.image.flat
        return {"image": self.model.embed_images(images)}

    def _encode_texts(self, batch: Batch, at: At) -> Features:
        return {
            f"text{end}": self.model.embed_texts(*batch.texts[f"main{end}"].flat)
            for end in self.roles
        }


def adopted(reader: str, features: Features, owner: str, *names: str) -> Features:
    """Return the features with these names, vectors (B, E), of method `owner`.

    Raises InputError if it has no such features.
    """
    for name in names:
        if name not in features or features[name].dim() != 2:
            have = ", ".join(f"{name} {tuple(value.shape)}" for name, value in features.items())
            raise InputError(
                f"{reader} reads {' and '.join(names)}, a vector a sample, which {owner} does not give "
                f"(it gives {have}); leave out --with, or train it with another method"
            )
    return {name: features[name] for name in names}


# Learns pairs from scratch in minutes on two cores. Augmentation ramps up from none: at full
# strength from the start it keeps so small a model near chance for hundreds of steps.
SMALL = Preset(
    config={"augment": {"crop": (0.5, 1.0), "turn": 12.0, "colour": 0.2, "ramp": (0.06, 0.6)}},
    image="conv:image_size=48:widths=(48,96,192):depths=(1,1,1):pooling=max",
    text="text:width=128:depth=1:heads=4:causal=false:pooling=mean:dropout=0.1",
    tokenizer="bpe:vocab_size=2048:context=32",
    embed_dim=192,
    recipe=Recipe(
        optimizer="muon", lr=4e-3, warmup=0.1, clip=1.0, ema=0.99, batch_size=128, epochs=30
    ),
)


def tune(small: Preset, **config: Any) -> Preset:
    """Return the preset that continues a trained model on pairs, with the method's options from
    `small`.

    The learning rate is the one at which Wortsman et al. (2022) tune CLIP with AdamW. Small models
    tolerate higher rates; docs/training.md reports how much was kept and learnt at others. The
    towers and the tokenizer are the given model's. There are no averaged weights, since runs are
    short.
    """
    recipe = Recipe(lr=3e-5, weight_decay=0.1, warmup=0.1, clip=1.0, batch_size=64, epochs=5)
    own = {name: value for name, value in small.config.items() if name != "augment"}
    return replace(
        small,
        config={
            **own,
            "augment": {"crop": (0.8, 1.0)},
            "decay": 0.75,
            "keep_statistics": True,
            **config,
        },
        recipe=recipe,
    )
