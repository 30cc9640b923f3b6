"""Distribution of training over ranks: accelerate's device and process group, and the parameters
that each rank holds.

A rank holds all parameters (`Replicated`, DDP around a step), or its share (`shard.Sharded`, FSDP).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diptych import collectives
from diptych.errors import InputError, brief
from diptych.training.replicated import Replicated

_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def make_accelerator() -> Any:
    """Return accelerate's device, launch and DDP; it prepares no loader, accumulates nothing and
    saves no state.

    Raises InputError if the environment names ranks that cannot connect.
    """
    from accelerate import Accelerator

    with _meeting():
        return Accelerator(cpu=not torch.cuda.is_available())


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        given = ", ".join(f"{name}={os.environ[name]}" for name in _RANKS if name in os.environ)
        if not given:
            raise
        raise InputError(
            f"the ranks that the environment speaks of ({given}) cannot meet: {brief(error)}; start them "
            "with torchrun, or unset these variables"
        ) from error


@contextmanager
def joined() -> Iterator[None]:
    """Context in which the ranks that the environment names are connected, for work that is not
    training; a process of its own, and ranks that are connected already, stay as they are.

    Raises InputError if they cannot connect.
    """
    distributed = torch.distributed
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if alone or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    with _meeting():
        distributed.init_process_group("gloo")
    yield
    distributed.destroy_process_group()  # not after an error, which the other ranks do not share


def leave() -> None:
    """Disconnect the ranks of a launched run once all of them are done.

    A rank whose peer has exited while both are connected may be aborted by the system.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def strategy(accelerator: Any, shard: bool) -> Replicated:
    """Return how a run uses its ranks; with a single rank the share is everything."""
    if not shard or collectives.world_size() == 1:
        return Replicated(accelerator)
    from diptych.training.shard import Sharded

    return Sharded(accelerator)
