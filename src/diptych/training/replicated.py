"""Every rank holds all parameters: DDP around a step, and the engine's operations on the ranks
(`Replicated`)."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diptych import collectives
from diptych.towers.nn.parts import Momentum
from diptych.training import optim
from diptych.training.step import Step


def wrap_ddp(accelerator: Any, step: Step) -> nn.Module:
    """Wrap the step in DDP: gradients are averaged over ranks, batch norm is over all ranks'
    samples.

    Buffers follow from the global batch, so they are equal on all ranks and are not broadcast.
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
    """The engine's operations on ranks that hold all parameters. All ranks must call each method
    together."""

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def begin(self, step: Step, average: Momentum | None) -> None:
        """Called once, when the weights are loaded and before the first optimiser is built."""

    def wrap(self, step: Step, chunk: int | None) -> nn.Module:
        """Return the module that runs forward and backward; gradient caching averages gradients
        itself."""
        return wrap_ddp(self.accelerator, step) if chunk is None else step

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Return the norm of all gradients, the same on all ranks; if it is above `max_norm`, scale
        them down to it."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within this context each rank may call any part of the method, without gradient; what is
        written into parameters may be lost."""
        yield

    @contextmanager
    def plain(self, module: nn.Module) -> Iterator[nn.Module | None]:
        """Within this context rank 0 has the delivered `module` as in a single process; the others
        have None."""
        yield module if collectives.rank() == 0 else None

    def full_tensors(self, tree: Any) -> Any:
        """Return a tree of dicts and lists with its tensors as in a single process, on rank 0."""
        return tree

    def load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load an optimiser's state from `full_tensors`. Raises ValueError for that of other
        parameters."""
        optimizer.load_state_dict(state)
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"{name} of the optimiser is {tuple(value.shape)}, not {tuple(parameter.shape)}"
                    )
        optim.lay_out(optimizer)
