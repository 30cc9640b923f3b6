"""The contract of a method, and the data types that pass between it and the engine.

A method defines how samples become features (`encode`) and how the features of the whole global
batch become a loss (`loss`); between the two it may compute features of chosen pairs (`among`).
The engine alone gathers over ranks, splits batches for gradient caching, and repeats passes between
the two. So `encode` has no term that mixes samples, `loss` changes no state and does not depend on
ranks, and state changes in `after_step`.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.plan import Plan, Shuffled
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError, unknown
from diptych.renamed import refuse
from diptych.spec import (
    Above,
    Below,
    Count,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    check,
    configure,
)

if TYPE_CHECKING:
    from diptych.data.tokenizers import Tokenizer
    from diptych.methods.adapters import LowRank
    from diptych.methods.make import Make
    from diptych.models.delivered import Delivered

Features = dict[str, Tensor]
"""Named tensors whose first dimension is B. `encode` returns them and `loss` reads them."""

Batches = Batch | Mapping[str, Batch]
"""One batch, or one for each stream where a stage runs several side by side."""


@dataclass(frozen=True, slots=True)
class At:
    """The position in training: `step` of `steps` in this stage, `epoch`, the run's seed and the
    stage's name."""

    step: int
    steps: int
    epoch: int
    seed: int
    stage: str = "train"

    @property
    def progress(self) -> float:
        """The completed share of the stage, 0 at its first step."""
        return self.step / max(self.steps, 1)


@dataclass(frozen=True, slots=True)
class Losses:
    """The result of `loss`. The total is the sum of `terms`; `logged` goes to the log, `carry` to
    `after_step`."""

    terms: Mapping[str, Tensor]
    logged: Mapping[str, Tensor | float] = field(default_factory=dict)
    carry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        first, *rest = self.terms.values()
        return sum(rest, start=first)


def of_validation(select: str) -> str:
    """Return the whole name of a number of the validation, with its sign.

    >>> of_validation("-pair_loss")
    '-val/pair_loss'
    """
    sign = "-" if select.startswith("-") else ""
    return f"{sign}val/{select.removeprefix('-').removeprefix('val/')}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stage is optimised. It is plain data that the engine runs; `--lr` and similar options
    override it.

    `steps` takes precedence over `epochs`. `warmup` is a number of steps, or a share of all steps
    if it is below 1. Weight decay skips parameters of one dimension or less. `clip` bounds the
    gradient norm. `ema` keeps an exponential moving average of the weights, which is delivered in
    their place; it averages over about 1 / (1 - ema) steps, so use it for runs that are several
    times as long. `chunk` is the largest number of tokens that a tower encodes at once; None means
    no limit (see `training.gradcache`).

    `select` names a number of the validation, such as "t2i_r1", or "-NAME" one that should be small.
    Each stage then ends after `patience` epochs without a better one, and `keep` says with which
    weights: those of its best epoch, or the last. Stages that select by themselves keep their own.
    """

    optimizer: str = "adamw"
    lr: Positive = 1e-3
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.98)
    eps: NotNegative = 1e-6
    weight_decay: NotNegative = 0.1
    schedule: str = "cosine"
    warmup: NotNegative = 0.05
    min_lr: Share = 0.0  # of lr
    epochs: Positive = 10.0
    steps: Count | None = None
    batch_size: Count = 256
    clip: Positive | None = None
    ema: Annotated[float, Above(0), Below(1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    chunk: Count | None = None
    select: str | None = None
    patience: Count | None = None
    keep: Literal["best", "last"] = "best"

    def __post_init__(self):
        check(Recipe, vars(self), "the recipe")
        if self.select is None and (self.patience is not None or self.keep == "last"):
            given = "keep" if self.patience is None else "patience"
            raise InputError(
                f"{given} is about the epochs that a number of the validation rates; name it with select, such as "
                "t2i_r1"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A method at one size: its options, its recipe, and the specs of its towers and tokenizer.

    `small` takes minutes on two cores and skips no step of the method. `paper` is the published
    configuration. `tune`, of methods on pairs, continues a trained model.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    image: str = "conv"
    text: str = "text"
    tokenizer: str = "bpe"
    embed_dim: int = 256
    recipe: Recipe = Recipe()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of training with one optimiser and one schedule.

    Data:

    - `streams` names the sources that are read. With several, `encode` and `loss` receive a mapping
      by stream. They run side by side, or with `turns` one after the other, a step each.
    - `plan` is the plan of all streams, or a mapping by stream.
    - `share` is the size of each stream's batches as a share of the recipe's batch size; without it
      every stream reads whole batches.
    - `min_batch` is the smallest batch size, of which each stream has its share; `max_batch` is the
      largest, with the option that sets it.

    Optimisation:

    - `recipe` overrides fields of the run's recipe.
    - `lr_scale` multiplies learning rates by parameter prefix: the longest prefix wins, and 0
      freezes.
    - `clip` bounds the norm of the gradients of each parameter prefix, the longest first; the
      recipe's `clip` bounds that of the rest.

    Preparation and selection:

    - `prepare(run)` fills columns before the stage (`every="stage"`) or before each epoch. It runs
      before the loaders and the optimiser are built. A stage with `optimize=False` has no steps:
      its `prepare` searches or solves, and changes the method's buffers.
    - `select` names a number of the validation, "-NAME" one that should be small. The stage ends
      with the weights of the epoch at which it was best, and after `patience` epochs without a
      better one. `keep="last"` keeps the last weights instead.
    """

    name: str = "train"
    streams: Sequence[str] = ("train",)
    plan: Plan | Mapping[str, Plan] = Shuffled()
    share: Mapping[str, float] = field(default_factory=dict)
    turns: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    clip: Mapping[str, float] = field(default_factory=dict)
    prepare: Callable[[Any], None] | None = None
    every: Literal["stage", "epoch"] = "stage"
    select: str | None = None
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    min_batch: int = 2
    max_batch: tuple[int, str] | None = None
    optimize: bool = True

    def __post_init__(self):
        whose = f"stage {self.name!r}"
        check(Stage, {name: getattr(self, name) for name in ("every", "keep", "min_batch")}, whose)
        check(Recipe, self.recipe, f"the recipe of {whose}")
        if not self.optimize and not (self.prepare and self.every == "stage"):
            raise InputError(
                f"{whose} with optimize=False takes no steps; give it a prepare, with every='stage'"
            )
        if self.patience is not None and not self.select:
            raise InputError(
                f"{whose} has patience and no number to select by; name one with select, such as 'val/t2i_r1'"
            )
        plans = self.plan if isinstance(self.plan, Mapping) else self.streams
        for what, given in (("plan", plans), ("share", self.share or self.streams)):
            lacking = [stream for stream in self.streams if stream not in given]
            if lacking:
                raise InputError(
                    f"stage {self.name!r} gives the stream {lacking[0]!r} no {what}, but others one; "
                    f"give each of {', '.join(self.streams)} its own"
                )

    def plan_of(self, stream: str) -> Plan:
        """The plan of a stream."""
        return self.plan[stream] if isinstance(self.plan, Mapping) else self.plan

    def batch_size(self, stream: str, whole: int) -> int:
        """The batch size of a stream, of `whole` samples in the recipe's batch.

        >>> Stage(streams=("a", "b"), share={"a": 0.75, "b": 0.25}).batch_size("b", 64)
        16
        """
        return max(1, round(self.share.get(stream, 1) * whole))


class Method(nn.Module):
    """Base class of the published methods. A subclass defines `Config`, `views`, `encode`, `loss`,
    and usually nothing else."""

    Config: ClassVar[type]
    model: Any  # the module that most methods deliver
    presets: ClassVar[Mapping[str, Preset]]
    chunkable: ClassVar[bool] = True
    """Whether a batch may be encoded in pieces (gradient caching). False if `encode` mixes samples;
    give the reason in a comment."""
    whole: ClassVar[bool] = False
    """Whether `loss` gets the pixels of the whole batch, to build something for all images at once.
    Such a method cannot be chunked either, and suits small batches."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Features that `loss` gets as their mean over all samples (…), in place of one row a sample:
    what is large, and enters the loss as a mean alone."""
    exchanged: ClassVar[tuple[str, ...]] = ()
    """Features that `among` alone gets, of all ranks' samples: the tokens of images and texts, of which
    it chooses pairs."""
    find_unused_parameters: ClassVar[bool] = False
    """Whether a step may leave trainable parameters without a gradient; ranks then search for them,
    as DDP's option of this name does."""

    estimated: ClassVar[str | None] = None
    """The name of the stage whose step `diptych estimate` counts; None: the first one with steps."""

    test_options: ClassVar[Mapping[str, Any]] = {}
    """Options for the contract suite's toy data, in place of the presets', where those do not fit:
    files, prompts."""

    text_space: ClassVar[bool] = False
    """Whether the space is that of the text tower, and as wide: texts have no projection."""

    adapts: ClassVar[bool] = False
    """Whether training starts from a trained model, given by `--init`. `continues` is the same by
    options."""

    def __init__(self, config: Any, make: "Make"):
        super().__init__()
        self.config = config
        self.make = make

    @classmethod
    def of(cls, config: Any, make: "Make") -> "Method":
        """Return the method with these options. A method that trains in several ways returns an
        instance of the class for the one that the options name."""
        return cls(config, make)

    @classmethod
    def published(cls, path: Path) -> "tuple[Delivered, Tokenizer, Mapping[str, Any]]":
        """Return the module, with its tokenizer and options, of weights that were published for the
        method; `METHOD:PATH` is then the name of a model.

        By default `released.read(path)` of the method's package, where it has that module. Raises
        InputError where there are none.
        """
        name = f"{cls.__module__}.released"
        try:
            released = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise InputError(
                f"{cls.__name__} reads no published weights; name a RUN folder"
            ) from None
        return released.read(path)

    @classmethod
    def adapter(cls, config: Any) -> "LowRank | None":
        """Return what these options train in place of the towers' weights (`methods.adapters`)."""
        return None

    @property
    def name(self) -> str:
        """The name of this method in messages."""
        return type(self).__name__

    @classmethod
    def preset(cls, name: str) -> Preset:
        """Return the preset of this name. Raises InputError if there is none."""
        presets = getattr(cls, "presets", {})
        if not presets:
            raise InputError(
                f'{cls.__name__} has no presets; give the class presets = {{"small": Preset(…), "paper": Preset(…)}}'
            )
        if name not in presets:
            raise unknown(f"preset of {cls.__name__}", name, presets)
        return presets[name]

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> Any:
        """Return the typed options. An error for an unknown option names the nearest one, and for a
        renamed option its new name."""
        name = cls.__module__.rpartition(".")[2]  # a method is called as its module
        refuse(
            f"option of {name}",
            [key for key in options if key not in cls.Config.__dataclass_fields__],
        )
        return configure(cls.Config, dict(options), f"method {cls.__name__}")

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        """Whether these options make sense only with a trained model to start from."""
        return cls.adapts

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Return `diptych` commands that use a run trained with these options; `{run}` and `{data}`
        are filled in."""
        return "evaluate {run} --data {data}", "embed {run} SOURCE --out EMB"

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options as the run stores them: the contents of files that they name are read
        into them, so that a run needs no other files."""
        return options

    def stages(self) -> Sequence[Stage]:
        """Return the phases of training, in order; by default one."""
        return (Stage(),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        """Return how a sample of a stream becomes fields of the batch."""
        raise NotImplementedError

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Read what the method needs from the sources, such as class names. Called once, before
        training."""

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """Return the samples that a stage trains on, given a stream's source with the columns of
        earlier stages.

        By default this is the source itself. A method may return other samples of it, such as one
        for each text of an image.
        """
        return source

    def needs(self, stage: Stage, stream: str = "train") -> tuple[str, ...]:
        """Return the fields that a stream of the stage must have; by default those that its views
        and its plan read."""
        readers = (*self.views(stage, stream), stage.plan_of(stream))
        return tuple(
            dict.fromkeys(name for reader in readers for name in getattr(reader, "reads", ()))
        )

    def encode(self, batch: Any, at: At) -> Features:
        """Return named tensors (B, …), one row for each of this rank's B samples.

        A row depends on its own sample alone, unless the class says `chunkable = False`: a batch may be
        encoded in pieces. The rows of all ranks are gathered before `loss`.
        """
        raise NotImplementedError

    def parts(self) -> Mapping[str, Callable[[Any, At], Features]]:
        """Return the functions that gradient caching runs one after another, so that only one
        tower's graph is in memory at a time.

        Each is a function like `encode`, keyed by what it reads: "images", "texts" or "all". Their
        features together are those of `encode`.
        """
        return {"all": self.encode}

    def among(self, features: Features, rows: slice, batch: Batch, at: At) -> Features:
        """Return features of this rank's samples, `rows` of the global batch, that read other samples
        too, such as those of an image with another one's text. Called only if there are `exchanged`
        features.

        The features given are those of the global batch; only the exchanged ones have a gradient. Each
        rank computes its own rows, and `loss` gets those of all. Random numbers depend on the rank;
        draw what all ranks must agree on by a generator of `at`.
        """
        raise NotImplementedError

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        """Return the named terms of the loss of the global batch, from the features of all ranks.

        It changes no state (`after_step` does), and is the same on every rank. Their sum is minimized.
        `batch` holds the fields of all samples, and pixels only if the class says `whole = True`.
        """
        raise NotImplementedError

    def features_from(self, features: Features, owner: str) -> Features:
        """Return the features of method `owner` as this method's `loss` reads them, for `--with`.

        An implementation raises InputError if they do not fit. A method without one cannot be added
        to another.
        """
        raise NotImplementedError

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Change state after an optimiser step: queues, momentum copies, centres."""

    def deliver(self) -> nn.Module:
        """Return the module that model.safetensors holds; by default the attribute `model`."""
        return self.model  # type: ignore[return-value]
