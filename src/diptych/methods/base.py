"""The contract of a method, and the data types that travel between it and the engine.

A method says how samples become features (`encode`) and how features of the whole global batch
become a loss (`loss`). Between the two the engine alone gathers over ranks, cuts for gradient
caching and repeats: so `encode` has no term that mixes samples, `loss` changes no state and knows
no ranks, and state changes in `after_step`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    from diptych.methods.make import Make

Features = dict[str, Tensor]
"""Named tensors, first dimension B. What `encode` returns and `loss` reads."""

Batches = Batch | Mapping[str, Batch]
"""One batch, or where a stage runs several streams side by side, one for each."""


@dataclass(frozen=True, slots=True)
class At:
    """Where training stands: `step` of `steps` in this stage, `epoch`, the run's seed and the
    stage's name."""

    step: int
    steps: int
    epoch: int
    seed: int
    stage: str = "train"

    @property
    def progress(self) -> float:
        """The share of the stage that is done, 0 at its first step."""
        return self.step / max(self.steps, 1)


@dataclass(frozen=True, slots=True)
class Losses:
    """What `loss` returns: the total is the sum of `terms`; `logged` is reported; `carry` goes to
    `after_step`."""

    terms: Mapping[str, Tensor]
    logged: Mapping[str, Tensor | float] = field(default_factory=dict)
    carry: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        first, *rest = self.terms.values()
        return sum(rest, start=first)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a stage is optimised. Plain data: the engine runs it, `--lr` and the like override it.

    `steps` wins over `epochs`. `warmup` is a number of steps, or a share of all steps where below
    1. Weight decay skips parameters of one dimension or less. `clip` bounds the gradient norm.
    `ema` keeps an averaged copy, which is what gets delivered: it looks back over about 1 / (1 -
    ema) steps, and belongs to runs several times as long. `chunk` is the most tokens that a tower
    encodes at once, None all (see `training.gradcache`).
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

    def __post_init__(self):
        check(Recipe, vars(self), "the recipe")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A method at one size: its options, its towers and tokenizer as specs, its recipe.

    `small` takes minutes on two cores and leaves no step out; `paper` is as published; `tune`, of
    methods on pairs, continues a trained model.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    image: str = "conv"
    text: str = "text"
    tokenizer: str = "bpe"
    embed_dim: int = 256
    recipe: Recipe = Recipe()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training with one optimiser and one schedule.

    `streams` names the sources that run side by side. `lr_scale` multiplies learning rates by
    parameter prefix: the longest prefix wins, 0 freezes. `prepare(run)` fills columns before the
    stage (`every="stage"`) or each epoch. A stage that does not `optimize` has no steps: its
    `prepare` searches or solves, and changes the method's buffers.
    """

    name: str = "train"
    streams: Sequence[str] = ("train",)
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what differs from the run's recipe
    plan: Plan = Shuffled()
    prepare: Callable[[Any], None] | None = None
    every: Literal["stage", "epoch"] = "stage"
    min_batch: int = 2
    optimize: bool = True

    def __post_init__(self):
        assert self.optimize or (self.prepare and self.every == "stage"), (
            "a stage takes steps, or prepares once"
        )


class Method(nn.Module):
    """Base of the published methods. A subclass gives `Config`, `views`, `encode`, `loss`, and
    mostly nothing else."""

    Config: ClassVar[type]
    model: Any  # what most of them deliver
    presets: ClassVar[Mapping[str, Preset]]
    chunkable: ClassVar[bool] = True
    """Whether a batch may be encoded in pieces (gradient caching). False where samples must meet;
    say why beside it."""
    find_unused_parameters: ClassVar[bool] = False
    """Whether a step may leave trainable parameters without a gradient, which ranks then look for
    (as in DDP)."""

    test_options: ClassVar[Mapping[str, Any]] = {}
    """Options in place of the presets', where the contract suite's toys do not fit those: files,
    prompts."""

    adapts: ClassVar[bool] = False
    """Whether it starts from a model that has learnt already, given by `--init`; `continues` says
    so by options."""

    def __init__(self, config: Any, make: "Make"):
        super().__init__()
        self.config = config
        self.make = make

    @property
    def name(self) -> str:
        """How messages call it."""
        return type(self).__name__

    @classmethod
    def preset(cls, name: str) -> Preset:
        """The preset of that name; InputError where there is none."""
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
        """The typed options; an unknown one names the nearest, and one that was renamed its new
        name."""
        name = cls.__module__.rpartition(".")[2]  # a method is called as its module
        refuse(
            f"option of {name}",
            [key for key in options if key not in cls.Config.__dataclass_fields__],
        )
        return configure(cls.Config, dict(options), f"method {cls.__name__}")

    @classmethod
    def continues(cls, options: Mapping[str, Any]) -> bool:
        """Whether these options make sense only of a model that has learnt already."""
        return cls.adapts

    @classmethod
    def next_steps(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Commands of `diptych` that use a run trained with these options; `{run}` and `{data}` are
        filled in."""
        return "evaluate {run} --data {data}", "embed {run} SOURCE --out EMB"

    @classmethod
    def resolve_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options as a run keeps them: what they name in a file is read into them, so that a
        run is whole."""
        return options

    def stages(self) -> Sequence[Stage]:
        return (Stage(),)

    def views(self, stage: Stage, stream: str = "train") -> Sequence[View]:
        """How a sample of a stream becomes fields of the batch."""
        raise NotImplementedError

    def setup(self, sources: Mapping[str, Any]) -> None:
        """Look at the sources once, before anything is trained on them: class names and the
        like."""

    def samples(self, stage: Stage, stream: str, source: Source) -> Source:
        """What a stage learns from, of a stream's source with the columns of earlier stages: by
        default all of it as it is. A method may make other samples of it, such as one for each of
        several texts."""
        return source

    def needs(self, stage: Stage) -> tuple[str, ...]:
        """Fields of the source that the stage reads; by default what its views read."""
        return tuple(
            dict.fromkeys(
                name
                for stream in stage.streams
                for view in self.views(stage, stream)
                for name in view.reads
            )
        )

    def encode(self, batch: Any, at: At) -> Features:
        raise NotImplementedError

    def parts(self) -> Mapping[str, Callable[[Any, At], Features]]:
        """What gradient caching runs one after the other, so that one tower's graph at a time is in
        memory.

        Functions like `encode` whose features together are those of `encode`, by what they read:
        "images", "texts" or "all".
        """
        return {"all": self.encode}

    def loss(self, features: Features, batch: Any, at: At) -> Losses:
        raise NotImplementedError

    def features_from(self, features: Features, owner: str) -> Features:
        """The features of method `owner` as this one's `loss` reads them, where it is added to that
        one (`--with`).

        Raises InputError where they do not fit. A method that does not say how is added to none.
        """
        raise NotImplementedError

    def after_step(self, carry: Mapping[str, Any], at: At) -> None:
        """Change state once an optimiser step has been taken: queues, momentum copies, centres."""

    def deliver(self) -> nn.Module:
        """What model.safetensors holds: by default the attribute `model`."""
        return self.model  # type: ignore[return-value]
