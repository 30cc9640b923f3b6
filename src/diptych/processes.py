"""Where new processes come from: a server that has loaded torch and has one thread for each
library."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
}
"""The environment in which a library, imported first, computes in one thread."""

LOADED = ("torch._dynamo", "accelerate")
"""What the server imports: libraries that training needs and that take seconds, and nothing of this
package, so that a process runs the code as it is when it starts."""


def context() -> ForkServerContext | SpawnContext:
    """Return the context that makes processes.

    On Linux a process is forked from a server, which starts with the first of them and ends with
    this program. So it has the environment that this program had then, and nothing of its memory.
    Elsewhere, where a fork after such imports is not safe, it is a new interpreter.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(LOADED))
    with one_thread():
        forkserver.ensure_running()
    return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Interpreters that start within this context have one thread for each library, whichever they
    import first."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
