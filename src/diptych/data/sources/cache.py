"""The user's cache of data derived from large files, which takes long to derive again.

It is in `$XDG_CACHE_HOME/diptych` or `~/.cache/diptych`, and may be deleted at any time.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from diptych.data import remote

T = TypeVar("T")
_THREADS = 16  # that wait for a server
_VERSION = 1  # of the cached files; increase it when a layout changes


def place(kind: str, paths: Sequence[str], suffix: str) -> Path:
    """The cache file for data derived from `paths`; its name depends on their paths or URLs, sizes
    and modification times."""
    digest = hashlib.sha256(f"{_VERSION} {kind}".encode())
    with ThreadPoolExecutor(_THREADS) as pool:
        stamps = pool.map(remote.stamp, filter(remote.is_url, paths))
    for path in paths:
        if remote.is_url(path):
            digest.update(f"\0{path}\0{next(stamps)}".encode())
            continue
        status = os.stat(path)  # noqa: PTH116  (a million shards: no Path objects)
        digest.update(
            f"\0{os.path.realpath(path)}\0{status.st_size}\0{status.st_mtime_ns}".encode()
        )
    return _file(kind, digest.hexdigest(), suffix)


def named(kind: str, key: Sequence[str], suffix: str) -> Path:
    """The cache file for data that the words `key` determine."""
    return _file(
        kind, hashlib.sha256("\0".join([str(_VERSION), kind, *key]).encode()).hexdigest(), suffix
    )


def _file(kind: str, digest: str, suffix: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "diptych" / f"{kind}-{digest[:24]}{suffix}"


def read(target: Path, load: Callable[[Path], T]) -> T | None:
    """Read a cache file with `load`; None if there is none, or if it is damaged, in which case it
    is deleted."""
    if not target.is_file():
        return None
    try:
        return load(target)
    except (
        Exception
    ):  # any error of a file damaged by a full disk or a power cut; it can be derived again
        with contextlib.suppress(OSError):
            target.unlink()
        return None


def write(target: Path, fill: Callable[[BinaryIO], object]) -> bool:
    """Write a cache file atomically; False if the disk does not permit it. Other errors of `fill`
    propagate."""
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
