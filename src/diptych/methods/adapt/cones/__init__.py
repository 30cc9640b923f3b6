"""ConES: Concept Embedding Search for Parameter Efficient Tuning Large Vision Language Models
(2023).

There is no text encoder. The rows that the vision side would have received from it, behind its
final norm and projection and before any similarity or fusion, are themselves optimised by the loss
of the task, with all weights frozen:

    E* = argmin_E  Σ_i L( F(x_i, E), a_i )

    classify    one row a class: logits_c = s <x, E_c / ||E_c||>, cross-entropy; s is the model's and stays
    detect      the tokens of each name: S = O E^T against regions, focal loss, with those of boxes and centrality
    segment     the same, and masks of the objects in boxes: M = P (A Ē), cross-entropy; Ē is the mean of a name's rows
    generate    the tokens of each name in its prompt, the other rows stay: E || e - eps(x_t, t, E) ||²

Rows are initialised as the text tower's output for the names, at random with the same spread, or as
the mean of the images' vectors (one row only). A second stage may fine-tune the vision side at a
small rate, with E fixed or trained further. For all tasks but the first a stage `base` comes
first: it trains a small head or denoiser on other classes or captions with the text tower's rows.
To reuse one, start from its run by --init. Inference: E replaces the text; neither tokenizer nor
text tower is needed, and by default none is kept.

Reconstructed from the paper's abstract. From the paper comes only that E is optimised without the
text encoder, for these tasks, in two possible stages; form, heads and recipes are ours
(docs/methods/cones.md lists the choices).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import torch

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.views import LabelView, View
from diptych.errors import InputError, unknown
from diptych.methods.adapt.cones.bank import ConceptClassifier, Rows, TextSide
from diptych.methods.adapt.cones.detect import Detect
from diptych.methods.adapt.cones.generate import Generate
from diptych.methods.adapt.cones.segment import Segment
from diptych.methods.base import At, Features, Losses, Stage
from diptych.methods.families.few_shot import PAPER, SMALL, Classify, PromptedConfig, class_names
from diptych.models.class_names import check_names
from diptych.spec import Count
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.parts import Frozen, freeze

card = {
    "title": "ConES: Concept Embedding Search for Parameter Efficient Tuning Large Vision Language Models",
    "year": 2023,
    "kind": "method",
    "entry": "ConES",
    "provenance": "abstract",
    "abilities": {"detect": "--preset detect", "draw": "--preset generate"},
}

_OF = {  # options that only some tasks have
    "vectors": ("detect", "segment"),
    "max_boxes": ("segment",),
    "head": ("detect", "segment", "generate"),
    "base": ("detect", "segment", "generate"),
    "whole": ("generate",),
    "role": ("generate",),
    "label": ("classify", "generate"),
    "prompts": ("classify",),
    "cached": ("classify",),
}
START = Literal["names", "random", "images"]


@dataclass(frozen=True, kw_only=True)
class Config(PromptedConfig):
    """Options of the tasks, the rows and the stages.

    - `task` is classify, detect, segment or generate; `start` is how rows are initialised: names, random or
      images. With `prompts`, rows that begin as names have the direction of the class's prompts.
    - `vectors` is the number of rows of a concept in detection and segmentation (None: one for each
      token of its name); `whole` makes all rows of the prompt trainable in generation.
    - `max_boxes` is the largest number of objects of an image in segmentation.
    - `keep_norm` keeps the initial length of the rows; `keep_text` keeps the text tower, so that
      other names can be used.
    - `second` overrides the recipe in the second stage (empty: no such stage); with `hold` the
      concepts are fixed in it.
    - `head` holds the options of the head or denoiser, `base` overrides the recipe of the stage
      that trains it, and `role` is the role of its captions.
    - `cached` embeds images once for the search.
    """

    task: str = "classify"
    start: START = "names"
    vectors: Count | None = None
    max_boxes: Count = 100
    whole: bool = False
    keep_norm: bool = False
    keep_text: bool = False
    second: Mapping[str, Any] = field(default_factory=dict)
    hold: bool = True
    head: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    role: str = "caption"
    cached: bool = False

    def __post_init__(self) -> None:
        if self.task not in (known := ("classify", *TASKS)):
            raise unknown("task of cones", self.task, known)
        if self.start == "images" and self.task != "classify":
            raise InputError(
                "rows of several tokens cannot begin as the mean of images; set start=names"
            )
        if self.prompts is not None and self.start != "names":
            raise InputError(
                "prompts are what rows begin as, in place of names; set start=names or leave prompts out"
            )
        for item in fields(self):
            default = item.default_factory() if callable(item.default_factory) else item.default
            if (
                self.task not in _OF.get(item.name, (self.task,))
                and getattr(self, item.name) != default
            ):
                raise InputError(f"{item.name} is no option of the task {self.task}; leave it out")


class Task(Protocol):
    """The interface of the tasks detect, segment and generate."""

    model: Any
    trained: bool
    """Whether the head comes from the model that training starts from, so that there is no stage
    `base`."""
    heads: ClassVar[Sequence[str]]
    """The prefixes of the parameters that the stage `base` trains."""
    vision: ClassVar[Sequence[str]]
    """What the second stage trains as well."""
    recipe: ClassVar[Mapping[str, Any]]
    """Overrides of the recipe in the stage `base`."""

    def setup(self, base: Source | None, side: TextSide | None) -> None:
        """Read what is needed from the source of the stage `base`."""
        ...

    def names(self, source: Source) -> tuple[str, ...]:
        """Return the concepts of a source; () if it lacks the field."""
        ...

    def views(self, base: bool) -> Sequence[View]: ...

    def encode(self, batch: Batch, base: bool) -> Features: ...

    def loss(self, features: Features, batch: Batch, base: bool) -> Losses: ...


TASKS: Mapping[str, type[Any]] = {"detect": Detect, "segment": Segment, "generate": Generate}


class ConES(Classify):
    """Trained rows in place of the text tower's output. `Classify` implements classification; the
    others are tasks."""

    Config = Config
    named: ClassVar[bool] = False
    model: Any  # depends on the task
    side: Frozen | None

    def build(self, encoder: DualEncoder) -> Any:
        config = self.config
        make = self.make
        known = encoder.text is not None and make.words is not None
        self.side = (
            Frozen(TextSide(encoder, make.tokenizer, config.template), "the text side")
            if known
            else None
        )
        self.task: Task | None = None
        self.alone = False  # whether only the head is trained, without a search
        freeze(encoder.text, encoder.text_projection, encoder.logit_scale, encoder.logit_bias)
        if config.task == "classify":
            self.vision: Sequence[str] = ("model.encoder.image", "model.encoder.image_projection")
            model: Any = ConceptClassifier(encoder, make.words, config.template)
        else:
            self.task = task = TASKS[config.task](config, make, encoder, self.augment)
            self.vision = task.vision
            model = task.model
        if not config.second or config.task != "classify":
            freeze(encoder.image_projection)
        if not config.second or "model.encoder.image" not in self.vision:
            freeze(encoder.image)
        return model

    def setup(self, sources: Mapping[str, Source]) -> None:
        """Initialise the concepts of the training data and drop the text tower."""
        side = None if self.side is None else self.side.module
        assert side is None or isinstance(side, TextSide)
        if self.task is not None:
            self.task.setup(None if self.task.trained else sources.get("base"), side)
            self.alone = not self.task.trained and "train" not in sources
        if "train" in sources:
            source = sources["train"]
            label = self.config.label
            if (
                names := class_names(source, label)
                if self.task is None
                else self.task.names(source)
            ):
                self.model.learn(self._begin(check_names(names), side))
        if not self.config.keep_text and not self.alone:
            self.model.leave_text()
            self.make = copy.copy(self.make)
            self.make.words = None  # the run stores no tokenizer

    def _begin(self, names: tuple[str, ...], side: TextSide | None) -> dict[str, Rows]:
        """Return the initial concepts; means of images are computed later, in a separate stage."""
        config = self.config
        if config.start == "images":
            nothing = torch.zeros(1, self.model.encoder.embed_dim)
            return {name: Rows(nothing, [True]) for name in names}
        if side is None:
            raise InputError(
                "concepts begin as their names, and this model has no text tower; start from one of "
                "images and texts, or set start=images to classify"
            )
        found = side.concepts(names, self.model.form, config.vectors)
        if prompts := self.prompts_for(names):
            directions = prompts.features(self.model.encoder, self.make.tokenizer, names)
            for name, direction in zip(names, directions, strict=True):
                length = found[name].values.norm()
                found[name] = Rows(length * direction[None], found[name].learnt)
        if config.start == "random":
            std = torch.cat([each.values for each in found.values()]).std()
            found = {
                name: replace(each, values=self._drawn(each, std)) for name, each in found.items()
            }
        if config.whole:
            found = {
                name: Rows(each.values, [True] * len(each.learnt)) for name, each in found.items()
            }
        return found

    @staticmethod
    def _drawn(rows: Rows, std: torch.Tensor) -> torch.Tensor:
        """Return random rows of a given spread; rows that are not trainable keep their values."""
        learnt = torch.tensor(rows.learnt, device=rows.values.device)
        return torch.where(learnt[:, None], torch.randn_like(rows.values) * std, rows.values)

    def stages(self) -> Sequence[Stage]:
        config = self.config
        found = list[Stage]()
        if self.task is not None and not self.task.trained:
            recipe = {**self.task.recipe, **config.base}
            found.append(
                Stage(
                    name="base",
                    streams=("base",),
                    lr_scale={"": 0.0, **dict.fromkeys(self.task.heads, 1.0)},
                    recipe=recipe,
                )
            )
        if self.alone:
            return found
        if config.start == "images":
            found.append(Stage(name="means", prepare=self._means, optimize=False))
        embed = self.embed if self.cached else None
        found.append(
            Stage(name="search", lr_scale={"": 0.0, "model.bank": 1.0}, prepare=embed, min_batch=1)
        )
        if config.second:
            rates = {
                "": 0.0,
                "model.bank": 0.0 if config.hold else 1.0,
                **dict.fromkeys(self.vision, 1.0),
            }
            found.append(Stage(name="second", lr_scale=rates, recipe=config.second, min_batch=1))
        return found

    def _means(self, run: Any) -> None:
        """Initialise each concept as the mean unit vector of its images."""
        found = run.map(
            lambda batch: {
                "image": self.model.image_features(batch.image.flat),
                "class": batch.fields["class"],
            },
            (self.image_view, LabelView(label=self.config.label, name="class")),
            run.sources["train"],
        )
        labels = torch.from_numpy(found["class"])
        features = torch.from_numpy(found["image"])
        known = labels >= 0
        self.model.bank.begin(self.model.image_means(features[known], labels[known]))

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        return (
            super().views(stage, stream)
            if self.task is None
            else self.task.views(stage.name == "base")
        )

    def encode(self, batch: Any, at: At) -> Features:
        return (
            super().encode(batch, at)
            if self.task is None
            else self.task.encode(batch, at.stage == "base")
        )

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        if self.task is None:
            return super().loss(features, batch, at)
        return self.task.loss(features, batch, at.stage == "base")

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        if self.config.keep_norm and not (at.stage == "second" and self.config.hold):
            self.model.bank.keep_norms()

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        return {
            "classify": ("classify {run} IMAGES", "evaluate {run} --data {data} --suite zeroshot"),
            "detect": ("detect {run} IMAGES", "evaluate {run} --data {data} --suite detection"),
            "segment": (
                "detect {run} IMAGES --masks DIR",
                "evaluate {run} --data {data} --suite detection",
            ),
            "generate": (
                "draw {run} NAME --out IMAGES",
                "evaluate {run} --data {data} --suite clip_i",
            ),
        }[options.get("task", "classify")]


# The abstract gives no recipe of the search: rate, steps and batch are ours, as are the presets
# `detect`, `segment` and `generate`.
_SEARCH = {
    "optimizer": "adamw",
    "betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "lr": 0.05,
    "warmup": 0.0,
}
ConES.presets = {
    "small": replace(SMALL, recipe=replace(SMALL.recipe, **_SEARCH, steps=300)),
    "detect": replace(
        SMALL, config={"task": "detect"}, recipe=replace(SMALL.recipe, **_SEARCH, steps=300)
    ),
    "segment": replace(
        SMALL, config={"task": "segment"}, recipe=replace(SMALL.recipe, **_SEARCH, steps=300)
    ),
    "generate": replace(
        SMALL, config={"task": "generate"}, recipe=replace(SMALL.recipe, **_SEARCH, steps=300)
    ),
    "paper": replace(PAPER, recipe=replace(PAPER.recipe, **_SEARCH, batch_size=32, steps=500)),
}
