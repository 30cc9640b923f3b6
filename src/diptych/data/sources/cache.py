"""The user's cache: what is derived from large files and would take long to derive again.

It lies in `$XDG_CACHE_HOME/diptych`, or `~/.cache/diptych`, and may be deleted at any time.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")
_VERSION = 1  # of what is written; raise it when a layout changes


def place(kind: str, paths: Sequence[str], suffix: str) -> Path:
    """Where the thing derived from these files lies: its name changes when a path, size or time of
    change does."""
    digest = hashlib.sha256(f"{_VERSION} {kind}".encode())
    for path in paths:
        status = os.stat(path)  # noqa: PTH116  (a million shards: no Path objects)
        digest.update(
            f"\0{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode()
        )
    return _file(kind, digest.hexdigest(), suffix)


def named(kind: str, key: Sequence[str], suffix: str) -> Path:
    """Where the thing lies that these words decide."""
    return _file(
        kind, hashlib.sha256("\0".join([str(_VERSION), kind, *key]).encode()).hexdigest(), suffix
    )


def _file(kind: str, digest: str, suffix: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "diptych" / f"{kind}-{digest[:24]}{suffix}"


def read(target: Path, load: Callable[[Path], T]) -> T | None:
    """What `load` reads from a cache file; None where there is none, or where it is damaged, and
    then it is deleted."""
    if not target.is_file():
        return None
    try:
        return load(target)
    except (
        Exception
    ):  # whatever a file raises that a full disk or a power cut has damaged; it can be made again
        with contextlib.suppress(OSError):
            target.unlink()
        return None


def write(target: Path, fill: Callable[[BinaryIO], None]) -> bool:
    """Write a cache file whole or not at all; False where the disk does not let us. What `fill`
    raises passes."""
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            temporary = Path(file.name)
            fill(file)  # type: ignore[arg-type]
            file.flush()
            os.fsync(
                file.fileno()
            )  # else a power cut may leave the new name with half of the bytes
        temporary.replace(target)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            return False
        raise
    return True
