"""Where training meets accelerate: the device, the process group, and DDP around a step."""

import warnings
from typing import Any

import torch
from torch import nn

from diptych import collectives
from diptych.training.step import Step


def make_accelerator() -> Any:
    """accelerate's device, launch and DDP; it prepares no loader, accumulates nothing and saves no state."""
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.cuda.is_available())


def across_ranks(accelerator: Any, step: Step) -> nn.Module:
    """The step as DDP runs it: gradients averaged over ranks, batch norm over all ranks' samples.

    Buffers follow from the global batch, so they are equal on all ranks and none are sent.
    """
    if collectives.world_size() == 1:
        return step
    collectives.convert_batch_norm(step.method)
    from accelerate import DistributedDataParallelKwargs

    accelerator.ddp_handler = DistributedDataParallelKwargs(
        find_unused_parameters=not step.method.reaches_all, broadcast_buffers=False
    )
    with warnings.catch_warnings():  # torch renames broadcast_buffers, accelerate has only the old name
        warnings.simplefilter("ignore", FutureWarning)
        return accelerator.prepare_model(step)
