"""Writing files so that nothing is ever half-written: into a neighbour, flushed to disk, then renamed over."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diptych.errors import InputError


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once: reading means setting, which would race between threads


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)` and put the result in the place of `path` in one step.

    A failure leaves the old file and no temporary; a full disk is an InputError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # some writers make files that only their owner reads
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if is_full(error):
            raise InputError(f"no space left to write {path}; nothing was changed, make room and go on") from error
        raise


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk now, so that a rename after it cannot come first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full (safetensors wraps the system's error in its own)."""
    return (isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}) or (
        isinstance(error, SafetensorError) and "No space left" in str(error)
    )
