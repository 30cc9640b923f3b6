"""Base of methods that tune a given model on classes or on pairs, by one set of options.

On classes the loss is that of `few_shot.Classify`, on pairs CLIP's:

    L = mean_i CE(s <x_i, t_c>, c = y_i)                         labelled images
    L = 1/2 [ CE(s X Y^T, diagonal) + CE(s Y X^T, diagonal) ]    images with captions

A method defines a class for each, which both have an `encoder`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from diptych.data.sample import Source
from diptych.errors import InputError
from diptych.methods.base import Method
from diptych.methods.families.few_shot import Classify, ClassifyConfig
from diptych.methods.families.pairs import DuplicatesConfig, Pairs
from diptych.methods.make import Make
from diptych.methods.tuning import keep_statistics
from diptych.objectives import info_nce
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Temperature

_OF = {"classes": ("label", "template"), "pairs": ("role", "distinct", "together", "duplicates")}
"""The options that have a meaning on classes or on pairs alone."""


@dataclass(frozen=True, kw_only=True)
class TunedConfig(ClassifyConfig, DuplicatesConfig):
    """`on` is what the model is tuned on: labelled images, or images with captions. `label` and
    `template` are options of classes, `role`, `distinct`, `together` and `duplicates` of pairs;
    `augment`, `decay` and `keep_statistics` of both."""

    on: Literal["classes", "pairs"] = "classes"
    augment: Mapping[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        other = "pairs" if self.on == "classes" else "classes"
        for item in fields(self):
            if item.name in _OF[other] and getattr(self, item.name) != item.default:
                raise InputError(
                    f"{item.name} is an option on {other}, and this run tunes on {self.on}; leave it out, or "
                    f"set on={other} (--preset tune is on pairs)"
                )


class TunedOnClasses(Classify):
    """A model tuned on labelled images; `on_pairs` is the class for images with captions."""

    on_pairs: ClassVar[type["TunedOnPairs"]]

    @classmethod
    def of(cls, config: Any, make: Make) -> Method:
        if config.on == "classes":
            return cls(config, make)
        method = cls.on_pairs(config, make)
        method.presets = cls.presets  # type: ignore[misc]  # set on the instance
        return method

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        steps = Method if options.get("on") == "pairs" else super()
        return steps.next_steps(options)

    @property
    def encoder(self) -> DualEncoder:
        """The encoder that is tuned."""
        return self.model.encoder

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.keep_statistics:
            keep_statistics(self.encoder.image, self.encoder.text)
        return self

    def setup(self, sources: Mapping[str, Source]) -> None:
        schema = sources["train"].schema()
        label = f"labels.{self.config.label}"
        if label not in schema and any(name.startswith("texts.") for name in schema):
            raise InputError(
                f"{sources['train'].name} has texts and no {label}; tune on them with --preset tune, or "
                "name a label with --method.label"
            )
        super().setup(sources)


class TunedOnPairs(Pairs):
    """A model tuned on images with captions."""

    adapts = True

    def __init__(self, config: Any, make: Make):
        super().__init__(config, make)
        self.model = make.dual(logit_scale=Temperature(1 / 0.07, clamp=(1.0, 100.0)))

    @property
    def encoder(self) -> DualEncoder:
        """The encoder that is tuned."""
        return self.model

    def terms(self, image: Tensor, text: Tensor, **equal: Any) -> dict[str, Tensor]:
        return {"contrastive": info_nce(image, text, self.model.logit_scale(), **equal)}
