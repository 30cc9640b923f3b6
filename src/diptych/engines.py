"""Map a function over the workers of a Ray cluster; nothing else touches Ray.

`--engine ray` starts a cluster on this machine, which ends with the work; `ray:auto` and
`ray:HOST:PORT` join the one that this machine belongs to. Ray Data gives the items to a pool of
actors, one for each processor or GPU, restarts those that die, and repeats what they were doing.

When a cluster goes away, Ray ends the process that uses it, and it writes much to that process's
stderr. So a child process uses it and writes to a log file, and this one receives the results:

    this process  --  work, items  ->  child, Ray's driver  --  items  ->  actors, on any machine
                  <-    results    --                       <- results --

Work, items and results are pickled, between processes of one version of this package.
"""

import os
import pickle
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import diptych
from diptych.errors import InputError, brief

if TYPE_CHECKING:
    import psutil

Item = TypeVar("Item")
Made = TypeVar("Made")

RETRIES = 20
"""How often an item is given to a worker again after one failed to answer. The loss of a machine
takes several, since Ray asks it again before it gives it up."""

_ANSWER = 10.0  # seconds in which a cluster must accept a connection
_END = 10.0  # seconds in which the child must end when it is told to
_ADDRESS = re.compile(r"auto|(\[[^]\s]+\]|[^][:/\s]+):(\d{1,5})")


@dataclass(frozen=True)
class Ray:
    """A Ray cluster by its address; without one, the processors of this machine."""

    address: str | None = None

    @classmethod
    def parse(cls, engine: str) -> "Ray":
        """Return the cluster that `--engine` names. Raises InputError for a word that names none,
        and if Ray is not installed.

        >>> Ray.parse("ray:10.0.0.1:6379")
        Ray(address='10.0.0.1:6379')
        """
        name, _, address = engine.partition(":")
        if name == "ray" and address.startswith("//"):  # Ray Client, which lacks Ray Data
            raise InputError(
                f"engine {brief(repr(engine), 80)}: Ray Data does not run from outside of a cluster; run on a "
                "machine of the cluster (ray start --address=HOST:PORT --num-cpus=0), with --engine ray:auto"
            )
        if name != "ray" or (engine != "ray" and not _ADDRESS.fullmatch(address)):
            raise InputError(
                f"engine {brief(repr(engine), 80)} is none; write ray (this machine), ray:auto (the cluster that "
                "this machine belongs to) or ray:HOST:PORT"
            )
        missing = [
            name for name in ("ray", "pandas", "pyarrow", "psutil") if find_spec(name) is None
        ]
        if missing:
            raise InputError(
                f"--engine ray needs {' and '.join(missing)}; install it with: pip install 'diptych[cluster]'"
            )
        return cls(address or None)

    def __str__(self) -> str:
        return f"the Ray cluster at {self.address}" if self.address else "Ray on this machine"

    def spread(
        self, work: Callable[[Item], Made], items: Sequence[Item], *, gpus: bool | None = False
    ) -> Iterator[tuple[int, Made]]:
        """Yield (index, `work(items[index])`) for all items, in the order in which they end.

        Each worker keeps one copy of `work`, and has a processor, or a GPU if `gpus`; with None a
        GPU where the cluster has some. An InputError of `work` is raised here. Raises InputError if
        the cluster cannot be reached or goes away, and if an item has ended its worker too often.
        """
        if not items:
            return
        buffers: list[pickle.PickleBuffer] = []  # arrays, which the workers of a machine share
        head = pickle.dumps(work, protocol=5, buffer_callback=buffers.append)
        rows = [pickle.dumps(item) for item in items]
        with self._child() as (child, log):
            try:
                child.send_bytes(pickle.dumps((self.address, gpus, rows, len(buffers) + 1)))
                for part in (head, *(buffer.raw() for buffer in buffers)):
                    child.send_bytes(part)
                while True:
                    said, *values = pickle.loads(child.recv_bytes())
                    if said == "end":
                        return
                    if said == "made":
                        yield values[0], pickle.loads(values[1])
                    elif said == "raise":
                        raise values[0]
                    else:
                        raise _Failed(f"{self} {values[0]} (what Ray wrote is in {log})")
            except (EOFError, ConnectionError):
                raise _Failed(
                    f"{self} went away before all was done; start it again, then run the same command again (what "
                    f"Ray wrote is in {log})"
                ) from None

    @contextmanager
    def _child(self) -> Iterator[tuple[Connection, Path]]:
        """Yield the connection to a new child, which ends with the context, and its log, which
        stays only if Ray failed."""
        ours, theirs = Pipe()
        handle, name = tempfile.mkstemp(prefix="diptych-ray-", suffix=".log")
        start = f"import sys; sys.path[:] = {sys.path!r}; from diptych import engines; "
        with os.fdopen(handle, "wb") as file, theirs:
            child = subprocess.Popen(
                [sys.executable, "-c", f"{start}engines._drive({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is for this process, which ends the child
            )
        failed = False
        try:
            yield ours, Path(name)
        except _Failed:
            failed = True
            raise
        finally:
            ours.close()
            try:
                child.wait(_END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            _kill_session(child.pid)
            if not failed:
                Path(name).unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        """The environment of the child: a cluster of this machine has a password of its own, and
        reports its use to nobody."""
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        return {**({} if self.address else own), **os.environ}


def _kill_session(leader: int) -> None:
    """End what is left of a cluster of this machine once its driver has ended, and wait for it: a
    worker may still write, and one that is starting tries for a minute or more to reach the cluster."""
    import psutil

    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has just ended
            if os.getsid(process.pid) == leader:
                process.kill()
                left.append(process)
    end = time.monotonic() + _END
    while any(_runs(process) for process in left) and time.monotonic() < end:
        time.sleep(0.02)


def _runs(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE  # nobody need wait for what Ray started
    except psutil.NoSuchProcess:
        return False


class _Failed(InputError):
    """Raised if Ray failed, and neither the work nor the command line."""


def in_order(made: Iterable[tuple[int, Made]]) -> Iterator[Made]:
    """Yield the results of `Ray.spread` in the order of the items.

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")]))
    ['a', 'b', 'c']
    """
    early: dict[int, Made] = {}
    due = 0
    for at, each in made:
        early[at] = each
        while due in early:
            yield early.pop(due)
            due += 1


def _drive(handle: int) -> None:
    """Run in the child: receive work and items, and send what the workers of the cluster make."""
    parent = Connection(handle)
    address, gpus, rows, count = pickle.loads(parent.recv_bytes())
    work = [parent.recv_bytes() for _ in range(count)]
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()

    def say(*message: Any) -> None:
        parent.send_bytes(pickle.dumps(message))

    try:
        _connect(address)
    except (Exception, SystemExit) as error:  # Ray exits if a cluster does not answer
        traceback.print_exc()
        say(
            "failed",
            f"cannot be used ({brief(error)}); check that it runs (ray status), and that its versions of Ray "
            "and of Python, and its token if it has one (RAY_AUTH_MODE=token), are those of this machine",
        )
        return
    from ray.exceptions import RayActorError

    try:
        for at, made, error in _mapped(work, rows, gpus):
            say("made", at, made) if error is None else say("raise", pickle.loads(error))
        say("end")
    except RayActorError:
        traceback.print_exc()
        say(
            "failed",
            "lost the workers of an item again and again; the system kills those that need too much memory, so give "
            "it more, or fewer workers, then run the same command again",
        )
    except Exception as error:
        traceback.print_exc()
        say("failed", f"failed ({_reason(error)}); mend that, then run the same command again")


def _end_with(parent: Connection) -> None:
    """End this process when its parent has closed the connection, or has ended."""
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _connect(address: str | None) -> None:
    """Start a cluster, or join one."""
    found = _ADDRESS.fullmatch(address) if address else None
    if found is not None and found[1]:  # Ray itself tries for minutes
        with socket.create_connection((found[1].strip("[]"), int(found[2])), _ANSWER):
            pass
    import ray

    if address is None:  # "local": without it, Ray joins a cluster that it finds
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
    else:
        ray.init(address=address)


def _mapped(
    work: Sequence[bytes], rows: Sequence[bytes], gpus: bool | None
) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Yield (index, pickled result, pickled exception) for each row, as they end."""
    import numpy as np
    import ray
    import ray.data

    resources = ray.cluster_resources()
    wanted = (
        ("GPU" if resources.get("GPU") else "CPU") if gpus is None else "GPU" if gpus else "CPU"
    )
    slots = int(resources.get(wanted, 0))
    if not slots:
        raise RuntimeError(f"it has no {wanted}")
    scaling = ray.data.DataContext.get_current().autoscaling_config
    scaling.actor_pool_util_upscaling_threshold = 1.0  # all are busy; a worker has one item
    size = min(slots, len(rows))
    pool = ray.data.ActorPoolStrategy(
        min_size=size,
        max_size=len(rows),  # a cluster may grow
        max_tasks_in_flight_per_actor=1,  # what waits behind a long item could be done elsewhere
    )
    shared = ray.put([np.frombuffer(part, np.uint8) for part in work])
    worker: Any = _Worker  # Ray's types know functions alone
    table = [{"at": at, "item": item} for at, item in enumerate(rows)]
    made = ray.data.from_items(table, override_num_blocks=len(rows)).map(
        worker,
        fn_constructor_args=([shared], str(Path.cwd()), sys.path, diptych.__version__),
        compute=pool,
        num_cpus=1,
        num_gpus=1 if wanted == "GPU" else 0,
        max_restarts=-1,
        max_task_retries=RETRIES,
    )
    for row in made.iter_rows():
        yield row["at"], row["made"], row["error"]


class _Worker:
    """An actor of Ray Data: it unpickles the work once, and applies it to items."""

    def __init__(self, shared: Sequence[Any], folder: str, path: Sequence[str], version: str):
        self.shared = shared
        self.folder = folder
        self.path = path
        self.version = version
        self.work: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.work is None:
                self.work = self._begin()
            made = self.work(pickle.loads(row["item"]))
            return {"at": row["at"], "made": pickle.dumps(made), "error": None}
        except InputError as error:
            reported: Exception = error
        except Exception:
            reported = RuntimeError(f"on {socket.gethostname()}: {traceback.format_exc()}")
        return {"at": row["at"], "made": b"", "error": pickle.dumps(reported)}

    def _begin(self) -> Callable[[Any], Any]:
        import ray

        if diptych.__version__ != self.version:
            raise InputError(
                f"{socket.gethostname()} has diptych {diptych.__version__}, and this machine {self.version}; install "
                "the same version on all nodes"
            )
        sys.path += [each for each in self.path if each not in sys.path]
        if not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides only those of workers that have one
        with suppress(OSError):  # relative paths are the command's, where its folder is shared
            os.chdir(self.folder)
        head, *buffers = ray.get(self.shared[0])
        return pickle.loads(head, buffers=buffers)


def _reason(error: Exception) -> str:
    """The last line of an error of Ray, whose messages are long."""
    lines = str(error).strip().splitlines()
    return brief(lines[-1] if lines else type(error).__name__)
