"""Files that a user names by URL, such as `s3://bucket/00000.tar`, read by ranges with fsspec.

A URL may be chained: `simplecache::s3://…` keeps a copy of each file on this machine. Credentials and
endpoints are those of fsspec's configuration.
"""

import glob
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, BinaryIO

from diptych.errors import InputError, brief

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WAITS = (0.5, 2.0, 8.0)  # seconds between tries


def is_url(name: str) -> bool:
    """
    >>> is_url("s3://b/0.tar"), is_url("simplecache::s3://b/0.tar"), is_url("C:/0.tar")
    (True, True, False)
    """
    return _URL.match(name) is not None


def expand(pattern: str) -> list[str]:
    """The URLs of a glob, sorted; a URL without one is not looked up.

    Raises InputError as `opened`, and if the glob matches none.
    """
    chain, _, target = pattern.rpartition("::")
    _, path = _file_system(target)
    if not glob.has_magic(path):
        return [pattern]
    with _readable(pattern):
        files, path = _file_system(target)
        found = [files.unstrip_protocol(name) for name in sorted(files.glob(path))]
    if not found:
        raise InputError(f"{pattern}: the pattern matches no file; check the path")
    return [f"{chain}::{name}" if chain else name for name in found]


def stamp(url: str) -> str:
    """What changes when the file changes: its size, and its time or checksum where the server tells
    them."""
    with _readable(url):
        files, path = _file_system(url)
        info = files.info(path)
    names = ("size", "created", "mtime", "LastModified", "updated", "ETag", "etag", "generation")
    return " ".join(f"{name}={info[name]}" for name in names if name in info)


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """Open a file, which can seek, for reading.

    Raises InputError if there is none, if the protocol is unknown or its package missing, and if
    the server does not answer or refuses.
    """
    with _readable(url):
        files, path = _file_system(url)
        file = files.open(path, "rb")
    with file, _readable(url):
        yield file


def read(url: str, offset: int, size: int) -> bytes:
    """Read up to `size` bytes at an offset, with some more tries if that fails.

    Raises FileNotFoundError, and InputError as `opened`: a sample is not damaged because a server
    does not answer.
    """
    for wait in (*_WAITS, None):
        try:
            return _range(url, offset, size)
        except InputError:
            raise
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, FileNotFoundError) and _is_absent(error):
                raise
            if wait is None:
                raise _unreadable(url, error) from error
            time.sleep(wait)
    raise AssertionError


def _range(url: str, offset: int, size: int) -> bytes:
    files, path = _file_system(url)
    if "::" in url:  # cat_file may pass over a cache
        with files.open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    data = files.cat_file(path, start=offset, end=offset + size)
    if len(data) > size:
        raise InputError(
            f"{url}: the server does not read parts of files; download it, or read it as simplecache::{url}"
        )
    return data


def _file_system(url: str) -> tuple[Any, str]:
    if find_spec("fsspec") is None:
        raise InputError(f"{url} needs fsspec; install it with: pip install 'diptych[data]'")
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:  # "Install s3fs to access S3", "Protocol not known"
        raise InputError(f"{url} cannot be read: {brief(error)}; or download it first") from None


@contextmanager
def _readable(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if not _is_absent(error):
            raise _unreadable(url, error) from error
        raise InputError(f"{url}: no such file; check the path or the range in braces") from None
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(url, error) from error


def _is_absent(error: FileNotFoundError) -> bool:
    """Whether there is no such file: HTTP says so of a server that does not answer, too."""
    why = error.__cause__
    return not isinstance(why, OSError) or isinstance(why, FileNotFoundError)


def _unreadable(url: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    why = f"{type(error).__name__}: {brief(error)}"
    return InputError(
        f"{url} cannot be read ({why}); check the name, the network and the credentials, and run again"
    )
