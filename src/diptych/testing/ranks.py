"""Several ranks on one machine: processes joined by gloo that run functions, as many as you like, until closed."""

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing as mp


class RankError(AssertionError):
    """A function failed on a rank; the message is that rank's traceback."""


class Ranks:
    """`count` processes, one rank each, started once: `run(fn, *args)` runs `fn` on all and gives their results.

    `fn`, its arguments and results must pickle. Use as a context manager, or call `close`.
    """

    def __init__(self, count: int):
        self.count = count
        self._folder = tempfile.TemporaryDirectory(prefix="diptych-ranks-")
        context = mp.get_context("spawn")
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank, count, self._folder.name), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()  # so that the end of a process is seen as the end of its pipe

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
        """The results of `fn(*args)` in rank order; RankError where a rank failed, died or was too slow."""
        for pipe in self._pipes:
            pipe.send((fn, args))
        results = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(timeout):
                self.close()
                raise RankError(f"rank {rank} gave no answer in {timeout:.0f} s")
            try:
                good, value = pipe.recv()
            except EOFError:
                self.close()
                raise RankError(f"rank {rank} died") from None
            if not good:
                self.close()
                raise RankError(f"rank {rank} failed:\n{value}")
            results.append(value)
        return results

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection, rank: int, count: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # read, never used: a file brings ranks together
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    with suppress(EOFError):
        while True:
            fn, args = pipe.recv()
            try:
                pipe.send((True, fn(*args)))
            except BaseException:
                pipe.send((False, traceback.format_exc()))
    torch.distributed.destroy_process_group()
