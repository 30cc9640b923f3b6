"""Jobs in single-threaded processes, as many in parallel as there are cores.

Each job has a new process (`processes.context`), so that nothing of one job (memory, random state, a
default dtype) affects another. The output of a job goes to a file. When this process ends, in whatever way, its
jobs end with it.
"""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from diptych.errors import InputError
from diptych.processes import ONE_THREAD, context, one_thread


@dataclass(frozen=True, kw_only=True)
class Job:
    """Runs `work(*arguments, say)` in a separate process; `say(line)` is received here while it
    runs.

    `work` is found by its import path and returns a value that pickles. `after` is the key of a job
    that must be done first.
    """

    key: tuple[str | int, ...]
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    output: Path
    after: tuple[str | int, ...] | None = None

    def __str__(self) -> str:
        return " ".join(map(str, self.key))


Hear = Callable[[Literal["begun", "said", "done"], Job, Any], None]
"""Receives the events of a job: it has begun, it reports a line, it is done with a result."""


def processes(asked: int | None = None) -> int:
    """Return how many jobs run at once: the given number, else the number of available cores."""
    if asked is not None and asked < 1:
        raise InputError(f"--jobs is {asked}; it must be at least 1")
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Lock a folder for one process; another gets an InputError. The lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(otherwise) from None
    finally:
        os.close(handle)


def run(jobs: Sequence[Job], at_once: int, hear: Hear) -> None:
    """Run all jobs, `at_once` at a time and in their order; `hear` receives their lines and
    results, in this thread.

    If one fails, the others are ended. Raises InputError as a job raised it, or if the system
    killed a job; any other error of a job is a RuntimeError with its traceback.
    """
    waiting = list(jobs)
    running: dict[Connection, tuple[BaseProcess, Job]] = {}
    try:
        while waiting or running:
            while len(running) < at_once and (job := _ready(waiting, running)) is not None:
                waiting.remove(job)
                pipe, process = _start(job)
                running[pipe] = (process, job)
                hear("begun", job, None)
            for pipe in connection.wait([*running]):
                assert isinstance(pipe, Connection)
                process, job = running[pipe]
                kind, value = _receive(pipe, process, job)
                if kind == "done":
                    del running[pipe]
                    pipe.close()
                    process.join()
                hear(kind, job, value)
    finally:
        for process, _ in running.values():
            _end(process)


def _ready(
    waiting: Sequence[Job], running: dict[Connection, tuple[BaseProcess, Job]]
) -> Job | None:
    """Return the first job that waits for no other."""
    open_keys = {job.key for job in waiting} | {job.key for _, job in running.values()}
    return next((job for job in waiting if job.after not in open_keys), None)


def _start(job: Job) -> tuple[Connection, BaseProcess]:
    new = context()
    ours, theirs = new.Pipe(duplex=False)
    environment = {**os.environ, **ONE_THREAD}
    process = new.Process(target=_serve, args=(theirs, job, environment), name=str(job))
    with one_thread(), _no_main():
        process.start()
    theirs.close()  # so that the end of the process closes the pipe
    return ours, process


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Processes that start within this context do not execute the program's main file again, which
    no job needs: a calling script needs no guard, and each job starts sooner."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _receive(
    pipe: Connection, process: BaseProcess, job: Job
) -> tuple[Literal["said", "done"], Any]:
    try:
        kind, value = pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        ending = (
            f"was killed by signal {-code}, as where memory is short"
            if code < 0
            else f"ended with code {code}"
        )
        raise InputError(
            f"the process of {job} {ending}; what it printed is in {job.output}. What is finished is kept: "
            "start again, with --jobs 1 where memory is short"
        ) from None
    if kind == "refused":
        raise InputError(value)
    if kind == "broken":
        raise RuntimeError(f"{job} failed:\n{value}")
    return kind, value


def _end(process: BaseProcess) -> None:
    """End a job and all processes that it has started."""
    assert process.pid
    with contextlib.suppress(ProcessLookupError):  # it has no group yet, or has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _serve(pipe: Connection, job: Job, environment: Mapping[str, str]) -> None:
    """Run in the job's process: a separate process group, which a Ctrl-C in the terminal does not
    reach."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with job.output.open("w", encoding="utf-8") as file:
        sys.stdout.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        answer = ("done", job.work(*job.arguments, lambda line: pipe.send(("said", line))))
    except InputError as error:
        answer = ("refused", str(error))
    except BaseException:
        answer = ("broken", traceback.format_exc())
    pipe.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)
