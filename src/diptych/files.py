"""Files: atomic writes, validated reads, locks on folders, and a user's Python file run as a
module.

A file is written under a temporary name in the same folder, flushed to disk, then renamed.
"""

import errno
import fcntl
import hashlib
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
"""The largest JSON file, in bytes, that is read."""

ran: dict[Path, str] = {}
"""The users' files that this process has executed (`run_module`), each with 16 digits for its content;
"" for one that was executed in two states."""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()  # read once: reading sets it, which would race between threads


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)`, then replace `path` by the result in one step.

    A failure leaves the old file and no temporary file. Raises InputError if the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # some writers create files that only their owner can read
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
    """Flush a file or folder to disk, so that a later rename cannot be written first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk is full or that the user's quota or file size limit is
    reached.

    safetensors wraps the system's error in its own.
    """
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if isinstance(error, OSError):
        return error.errno in full
    return isinstance(error, SafetensorError) and any(
        os.strerror(number) in str(error) for number in full
    )


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises FileNotFoundError (or NotADirectoryError) if it does not exist; InputError, which ends
    with the remedy, if it is not a regular file, too large or not JSON.
    """
    return parsed(path, remedy, json.loads, MOST_JSON)


def parsed(path: Path, remedy: str, parse: Callable[[str], Any], most: int) -> Any:
    """The result of `parse` for a text file of at most `most` bytes; errors as in `read_json`."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a file; {remedy}")
    if found.st_size > most:
        raise InputError(
            f"{path} is damaged ({found.st_size:,} bytes, and at most {most:,} are read); {remedy}"
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{path} is damaged (it is nested too deeply); {remedy}") from None
    except (
        ValueError,
        MemoryError,
    ) as error:  # wrong format, not UTF-8, a number of thousands of digits
        raise InputError(f"{path} is damaged ({brief(error) or 'too large'}); {remedy}") from None


def file_above(path: Path) -> Path | None:
    """The part of a path that is a file where only a folder can be, None if there is none."""
    return next((part for part in path.parents if part.exists() and not part.is_dir()), None)


def check_file(path: Path) -> None:
    """Raise InputError if no file can be written at a path: it is a folder, or below a file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a file is written; name a file")
    if (above := file_above(path)) is not None:
        raise InputError(f"{path} is below {above}, which is a file; name another path")


def text_of(path: Path) -> str:
    """The text of a user's file, without a byte-order mark. Raises InputError, which names the line,
    if it is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None


def whole_lines(path: Path) -> list[str]:
    """The lines of a file to which a run appends; none of one that does not exist. A last line that
    was torn, as the run was stopped, is removed from the file."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        write_atomic(path, lambda at: at.write_text("".join(lines), "utf-8"))
    return lines


def followed(path: str | Path) -> Path:
    """A path with `~` expanded and a link resolved, dangling or not, so that renames affect its
    target."""
    path = Path(path).expanduser()
    if not path.is_symlink():
        return path
    nowhere = InputError(f"{path} is a link that leads back to itself; name another folder")
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise nowhere from None
    if target.is_symlink():  # from Python 3.13 on a loop is no error
        raise nowhere
    return target


class Busy(InputError):
    """Raised if another process holds a lock."""


@contextmanager
def locked(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Context that holds an exclusive lock on a folder; the system releases it however the process
    ends.

    On a network's file system, such as NFS, a lock on a folder excludes the processes of this
    machine alone. With `shared`, `path` is a file, which is created, and the lock excludes those of
    all machines.

    Raises Busy with the message `busy` if another process holds the lock; OSError if the file
    system does not support locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT if shared else os.O_RDONLY, 0o666)
    _LOCKS.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(busy) from None
        if os.fstat(handle).st_nlink == 0:  # another process has just removed it
            raise Busy(busy)
        yield
    finally:
        _LOCKS.discard(handle)
        os.close(handle)


_LOCKS: set[int] = set()


def _let_go() -> None:
    """Release inherited locks in a forked process, such as a loader's worker, which may outlive its
    parent."""
    for handle in _LOCKS:
        with suppress(OSError):
            os.close(handle)
    _LOCKS.clear()


os.register_at_fork(after_in_child=_let_go)


def python_file(name: str, what: str) -> Path:
    """The absolute path of a user's Python file; raises InputError, which names `what`, if there is
    none."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{name}: there is no such file; check the path of the {what}")
    return path


def run_module(path: Path, name: str) -> ModuleType:
    """Execute a Python file and return it as the module `name`."""
    place = path.resolve()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    ran[place] = digest if ran.get(place, digest) == digest else ""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look their module up
    spec.loader.exec_module(module)
    return module
