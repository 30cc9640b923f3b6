"""The options of the engine, which are not part of the recipe: `Options`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from diptych.spec import Above, AtLeast, Count, NotNegative, Share, check


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the engine that are not part of the recipe.

    - `nonfinite`: "stop" the run or "skip" the step.
    - `spike`: skip a step whose loss is above this many times the running median
      (`training.guard`).
    - `forget`: how far the guarded score may fall below that of the start.
    - `shard`: each rank holds its share of parameters, gradients and optimiser state
      (`training.shard`).
    """

    seed: int = 0
    workers: Annotated[int, AtLeast(0)] = 0
    max_bad: Share = 0.01
    save_every: Count = 500
    nonfinite: Literal["stop", "skip"] = "stop"
    spike: Annotated[float, Above(1)] | None = None
    forget: NotNegative = 0.02
    shard: bool = False
    quiet: bool = False
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = None

    def __post_init__(self) -> None:
        check(Options, vars(self), "the run")
