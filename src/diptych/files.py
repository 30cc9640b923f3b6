"""Files: written so that nothing is ever half-written, read without trust, folders locked for one
writer, and a user's own Python file run as a module.

A file is written into a neighbour, flushed to disk, then renamed over.
"""

import errno
import fcntl
import importlib.util
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError

from diptych.errors import InputError, brief

MOST_JSON = 1 << 28
"""Bytes of a JSON file that are read at the most."""


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
            raise InputError(
                f"no space left to write {path}; nothing was changed, make room and go on"
            ) from error
        raise


def sync(path: Path) -> None:
    """Ask the system to put a file or folder on disk now, so that a rename after it cannot come
    first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException) -> bool:
    """Whether an error says that no more can be written: the disk is full, or the file as large as
    the user's limit.

    safetensors wraps the system's error in its own.
    """
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if isinstance(error, OSError):
        return error.errno in full
    return isinstance(error, SafetensorError) and any(
        os.strerror(number) in str(error) for number in full
    )


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds. FileNotFoundError (or NotADirectoryError) where it is not there;
    InputError, which ends in the remedy, where it is no regular file, too large, or no JSON."""
    return parsed(path, remedy, json.loads, MOST_JSON)


def parsed(path: Path, remedy: str, parse: Callable[[str], Any], most: int) -> Any:
    """What `parse` makes of a text file of at most so many bytes, with the errors of
    `read_json`."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a file; {remedy}")
    if found.st_size > most:
        raise InputError(
            f"{path} is damaged ({found.st_size:,} bytes, and at most {most:,} are read); {remedy}"
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{path} is damaged (it is nested too deeply); {remedy}") from None
    except (
        ValueError,
        MemoryError,
    ) as error:  # not of its format, no UTF-8, a number of thousands of digits
        raise InputError(f"{path} is damaged ({brief(error) or 'too large'}); {remedy}") from None


def followed(path: str | Path) -> Path:
    """A path with `~` expanded; where it is a link, dangling or not, what it points to, so that
    renames reach that."""
    path = Path(path).expanduser()
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path} is a link that leads nowhere ({brief(error)}); name another folder"
        ) from None


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder alone, as long as this lasts; the system frees it, however the process ends.

    Raises InputError, with the message `busy`, where another process holds it; OSError where the
    file system has no locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    _LOCKS.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        if os.fstat(handle).st_nlink == 0:  # the other process has just finished and removed it
            raise InputError(busy)
        yield
    finally:
        _LOCKS.discard(handle)
        os.close(handle)


_LOCKS: set[int] = set()


def _let_go() -> None:
    """In a forked process, such as a loader's worker: it may outlive the one that holds the
    locks."""
    for handle in _LOCKS:
        with suppress(OSError):
            os.close(handle)
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


def python_file(name: str, what: str) -> Path:
    """The whole path of a user's Python file; InputError, naming `what` it should hold, where there
    is none."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{name}: there is no such file; check the path of the {what}")
    return path


def run_module(path: Path, name: str) -> ModuleType:
    """The module of a Python file, freshly executed, under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look their module up
    spec.loader.exec_module(module)
    return module
