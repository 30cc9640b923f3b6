"""Several ranks on one machine: processes connected by gloo that run any number of functions until
they are closed."""

import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from diptych.processes import context


class RankError(AssertionError):
    """Raised if a function failed on a rank; the message is that rank's traceback."""


class Ranks:
    """`count` processes, one rank each: `run(fn, *args)` runs `fn` on all and returns their
    results.

    They are started by the first `run`, serve all later ones, and are restarted after a `run` that
    failed, so that an error does not affect the next function. `fn`, its arguments and results must
    pickle. Use as a context manager, or call `close`.
    """

    def __init__(self, count: int):
        self.count = count
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []

    def run(self, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
        """Return the results of `fn(*args)` in rank order. Raises RankError if a rank failed, died
        or was too slow."""
        if not self._processes:
            self._open()
        try:
            for pipe in self._pipes:
                pipe.send((fn, args))
            return [self._result(rank, pipe, timeout) for rank, pipe in enumerate(self._pipes)]
        except RankError:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        self._pipes = []
        self._processes = []

    def _open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="diptych-ranks-")
        new = context()
        for rank in range(self.count):
            ours, theirs = new.Pipe()
            arguments = (theirs, rank, self.count, self._folder.name)
            process = new.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that the end of a process closes its pipe
            self._pipes.append(ours)
            self._processes.append(process)

    def _result(self, rank: int, pipe: Connection, timeout: float) -> Any:
        if not pipe.poll(timeout):
            raise RankError(f"rank {rank} gave no answer in {timeout:.0f} s")
        try:
            good, value = pipe.recv()
        except (EOFError, ConnectionError):
            raise RankError(
                f"rank {rank} died; a script that starts ranks does so under `if __name__ == '__main__':`"
            ) from None
        if not good:
            raise RankError(f"rank {rank} failed:\n{value}")
        return value

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(pipe: Connection, rank: int, count: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }  # read but not used: the ranks connect through a file
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count
    )
    with suppress(EOFError):
        while True:
            fn, args = pipe.recv()
            try:
                pipe.send((True, fn(*args)))
            except BaseException:
                pipe.send((False, traceback.format_exc()))
    torch.distributed.destroy_process_group()
