"""Pickles, read without running anything that is in them.

A pickle is a program that may import and call anything. Here it can only build lists, dicts, sets,
texts and numbers: the few names that NumPy's arrays need resolve to placeholders, and any other
name is rejected.
"""

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from diptych.errors import InputError, brief


def load(file: BinaryIO, path: str) -> Any:
    """Read the pickle at the position of `file`. Raises InputError as `reading` does, and for what
    would run code."""
    with reading(path):
        return _Plain(file, path).load()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raise InputError for what goes wrong in a damaged file, which raises many kinds of
    exceptions, and for one that does not fit into memory."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path}: it does not fit into memory, or is damaged; save it as .jsonl"
        ) from error
    except Exception as error:
        raise InputError(
            f"{path}: cut short, or no pickle ({brief(error)}); fetch it again"
        ) from error


class _Plain(pickle._Unpickler):
    """An unpickler that builds only plain data; NumPy's names resolve to placeholders, new for each
    file.

    It is Python's slow unpickler, since the fast one allocates any amount of memory that a damaged
    file requests.
    """

    # Without the opcodes of registered and external objects, and of byte arrays, whose memory is
    # not checked.
    dispatch = {  # noqa: RUF012
        code: step
        for code, step in pickle._Unpickler.dispatch.items()
        if bytes([code])
        not in {pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID, b"\x96"}
    }

    def __init__(self, file: BinaryIO, path: str):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.wrapped = type("Wrapped", (Wrapped,), {})

    def find_class(self, module: str, name: str) -> Any:
        found: dict[str, Any] = {
            name: self.wrapped for name in ("_reconstruct", "ndarray", "dtype")
        }
        found["scalar"] = lambda kind, data: _scalar(kind, data)
        if (module, name) == ("builtins", "set"):
            return set
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in found:
            return found[name]
        wanted = f"{module}.{name}"[:80]
        raise InputError(
            f"{self.path}: wants to import {wanted!r} and was not read; a pickle can run code, and only lists, dicts, "
            "texts and numbers are taken: save it as .jsonl"
        )


class Wrapped:
    """The placeholder of a NumPy array or type: holds the arguments and state in the pickle."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


def _scalar(kind: Wrapped, data: bytes) -> Any:
    """The value of a NumPy scalar, a number or a text."""
    order = kind.state[1]
    name = kind.args[0]
    if order not in ("<", ">", "|") or not re.fullmatch(r"[iufb][1248]|U\d+", name):
        raise ValueError(f"a NumPy value of type {name}")
    return np.frombuffer(data, order + name)[0].item()
