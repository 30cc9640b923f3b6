"""Every rank holds all parameters: DDP around a step, and what the engine asks of the ranks
(`Replicated`)."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.towers.nn.parts import Momentum
from diptych.training.step import Step


def wrap_ddp(accelerator: Any, step: Step) -> nn.Module:
    """The step as DDP runs it: gradients averaged over ranks, batch norm over all ranks' samples.

    Buffers follow from the global batch, so they are equal on all ranks and none are sent.
    """
    if collectives.world_size() == 1:
        return step
    collectives.convert_batch_norm(step.method)
    from accelerate import DistributedDataParallelKwargs

    accelerator.ddp_handler = DistributedDataParallelKwargs(
        find_unused_parameters=step.method.find_unused_parameters, broadcast_buffers=False
    )
    with (
        warnings.catch_warnings()
    ):  # torch renames broadcast_buffers, accelerate has only the old name
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare_model(step)


class Replicated:
    """Every rank holds all parameters. What the engine asks of the ranks; all of them call each
    method together."""

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def begin(self, step: Step, average: Momentum | None) -> None:
        """Once, when the weights are loaded and before the first optimiser is built."""

    def wrap(self, step: Step, chunk: int | None) -> nn.Module:
        """What forward and backward run on; gradient caching averages gradients itself."""
        return wrap_ddp(self.accelerator, step) if chunk is None else step

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> Tensor:
        """The norm of all gradients, the same on all ranks; above `most` they are scaled down to
        it."""
        return nn.utils.clip_grad_norm_(parameters, most)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """While it lasts, each rank may call any part of the method as it likes, without gradient;
        what is written into parameters meanwhile may be lost."""
        yield

    @contextmanager
    def plain(self, module: nn.Module) -> Iterator[nn.Module | None]:
        """While it lasts, rank 0 has the delivered `module` as one process has it; the others have
        None."""
        yield module if collectives.rank() == 0 else None

    def full_tensors(self, tree: Any) -> Any:
        """A tree of dicts and lists with its tensors as one process would hold them, on rank 0."""
        return tree

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load an optimiser's state as `full_tensors` gave it. Raises ValueError for that of other
        parameters."""
        optimizer.load_state_dict(state)
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} of the optimiser is {tuple(value.shape)}, not {tuple(parameter.shape)}"
                    )
