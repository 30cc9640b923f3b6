"""Pickled lists of images and captions, as the authors of SLIP and CLIP-rocket keep theirs: .npy,
.pkl, .pickle.

cc3m.npy      {"image_id": 1510438788, "captions": ["a field of tulips"]}           the id is the image's path
cc12m.npy     {"image_name": "0.jpg", "image_id": 0, "captions": ["a chair"]}
yfcc15m.pkl   (12345678, "title", "description")       the image is 678.jpg in images/12/345.zip

They are tables, with a table's options. Title and description of YFCC are captions both, empty ones
left out; with roles of their own: `yfcc15m.pkl:text=title=title;web=description`.

A pickle is a program that may import and call anything. Here it can build lists, dicts, texts and
numbers; the few names that NumPy's own wrapping asks for are answered by stand-ins, and any other
is refused. The file is read whole once; what it says is kept in the user's cache as JSON lines, of
which single rows are read.
"""

import json
import os
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diptych.data.compact import is_folder
from diptych.data.sample import BadSample, whole
from diptych.data.sources import cache
from diptych.data.sources.records import CAPTIONS
from diptych.data.sources.rows import JsonRows
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "pickled"
_END = b"null\n"  # the last line of a copy that is whole
_LONGEST = 1 << 18  # letters and values of an entry
_EXPANSION = (
    64  # a copy may be so many times as long as the pickle, in which equal texts may be stored once
)
_WHAT = "{'image_name': …, 'captions': […]} or (index, title, description)"


def claims(spec: Spec) -> bool:
    """Whether this file reads `spec`: by its suffix."""
    return spec.name.lower().endswith((".npy", ".pkl", ".pickle")) and not is_folder(spec)


def open(spec: Spec) -> Table:
    """`cc12m.npy[:root=FOLDER]`, with all options of a table; `root` is where the images' paths
    start."""
    options = configure(TableOptions, spec.options, f"source {spec.name!r}")
    if not Path(spec.name).is_file():
        raise InputError(f"{spec.name}: no such file; check the path")
    rows = PickledRows(spec.name)
    if options.text is None and list(rows.columns) == [
        "image_name",
        "title",
        "description",
    ]:  # YFCC's
        options = replace(options, text="title+description")
    return Table(spec.name, rows, options)


class PickledRows(JsonRows):
    """The entries of a pickled list as rows. Raises InputError for what is no such list, or would
    run code."""

    def __init__(self, path: str):
        copy = cache.place("entries", [path], ".jsonl")
        if not cache.read(copy, _is_whole) and not cache.write(
            copy, partial(_write, path, _read(path))
        ):
            raise InputError(
                f"{copy}: cannot write the unpacked copy of {path}; set XDG_CACHE_HOME elsewhere"
            )
        super().__init__(path, str(copy))
        self._offsets = self._offsets[:-1]  # without the last line, _END

    def _row(self, data: bytes, index: int) -> dict[str, Any]:
        row = json.loads(data)
        if isinstance(row, str):
            raise BadSample("columns", f"entry {index + 1}: {row}")
        return row


def _write(path: str, entries: Sequence[Any], file: BinaryIO) -> None:
    good = False
    written = len(_END)
    most = _EXPANSION * (_LONGEST + Path(path).stat().st_size)
    for line in map(_line, entries):
        good |= line.startswith(b"{")
        written += file.write(line)
        if (
            written > most
        ):  # entries that occur millions of times in the pickle take a few bytes each
            raise InputError(
                f"{path}: its entries take more than {most:,} bytes when they are written out; save it as .jsonl"
            )
    if not good:
        first = json.loads(_line(entries[0]))
        raise InputError(
            f"{path}: none of its {len(entries)} entries is {_WHAT} (the first: {first})"
        )
    file.write(_END)


def _is_whole(copy: Path) -> bool:
    """Whether a copy ends as `_write` ends it. Raises ValueError where it does not."""
    with copy.open("rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        if file.read() != _END:
            raise ValueError(f"{copy} is cut")
    return True


def _line(entry: Any) -> bytes:
    """An entry as a line of JSON: an object, or a string that says what is wrong with it."""
    try:
        _bound(entry)
        return whole(json.dumps(_record(entry), ensure_ascii=False)).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps(brief(error)).encode() + b"\n"


def _bound(entry: Any) -> None:
    """Raise ValueError where an entry would be longer than `_LONGEST`: lists that share a list ten
    times at each of ten levels take 300 bytes in a pickle and 10 billion written out."""
    size = 0
    waiting = [entry]
    while waiting:
        value = waiting.pop()
        size += 1 + (len(value) if isinstance(value, str | bytes) else 0)
        if isinstance(value, list | tuple | dict):
            size += len(value)
            if size <= _LONGEST:
                waiting += [*value.keys(), *value.values()] if isinstance(value, dict) else value
        if size > _LONGEST:
            raise ValueError(f"an entry of more than {_LONGEST:,} letters")


def _record(entry: Any) -> dict[str, Any]:
    """Raises TypeError or ValueError where the entry is of neither form."""
    if isinstance(entry, tuple | list):
        if len(entry) != 3:
            raise ValueError(f"{len(entry)} cells, not (index, title, description)")
        index, title, description = entry
        if not isinstance(index, int) or not 0 <= index < 10**8:
            raise ValueError(f"the index {str(index)[:40]} is no number of at most 8 digits")
        digits = f"{index:08d}"
        entry = {
            "image_name": f"images/{digits[:2]}/{digits[2:5]}.zip/{digits[5:]}.jpg",
            "title": title,
            "description": description,
        }
    elif not isinstance(entry, dict):
        raise TypeError(f"a {type(entry).__name__}, not {_WHAT}")
    elif "image_id" in entry:  # CC3M's paths; of CC12M, which has an image_name, it says nothing
        entry = {
            "image_name": str(entry["image_id"]),
            **{name: entry[name] for name in entry if name != "image_id"},
        }
    for name in (*CAPTIONS, "title", "description"):
        texts = entry.get(name)
        for text in texts if isinstance(texts, list | tuple) else [texts or ""]:
            if not isinstance(text, str):
                raise TypeError(f"a text of {name} is {str(text)[:40]}, not a string")
    return entry


def _read(path: str) -> list[Any] | tuple[Any, ...]:
    """The list in a .npy of objects or in a pickle."""
    with Path(path).open("rb") as file:
        try:
            if file.read(6) == b"\x93NUMPY":
                file.seek(0)
                _skip_head(file, path)
            else:
                file.seek(0)
            found = _Plain(file, path).load()
            if isinstance(found, _Wrapped):  # (version, shape, type, order, entries)
                found = found.state[4]
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(
                f"{path}: it does not fit into memory, or is damaged; save it as .jsonl"
            ) from error
        except Exception as error:  # pickles fail in as many ways as they can be damaged
            raise InputError(
                f"{path}: cut short, or no pickle ({brief(error)}); fetch it again"
            ) from error
    if not isinstance(found, list | tuple) or not found:
        raise InputError(
            f"{path}: holds {'nothing' if found == [] else f'a {type(found).__name__}'}; it needs a list of {_WHAT}"
        )
    return found


def _skip_head(file: BinaryIO, path: str) -> None:
    version = np.lib.format.read_magic(file)
    head = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = head(file)
    if kind.kind != "O" or len(shape) != 1:
        raise InputError(
            f"{path}: an array of {kind} and shape {shape}; it needs a list of {_WHAT}"
        )


class _Plain(pickle._Unpickler):
    """Builds plain data and nothing else; NumPy's names give stand-ins, which are new for each
    file.

    It is Python's slow unpickler: the fast one takes the memory that a damaged file asks for,
    however much it is.
    """

    # Without the steps for registered objects, for objects elsewhere, and for byte arrays, which
    # take memory unseen.
    dispatch = {  # noqa: RUF012
        code: step
        for code, step in pickle._Unpickler.dispatch.items()
        if bytes([code])
        not in {pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID, b"\x96"}
    }

    def __init__(self, file: BinaryIO, path: str):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.wrapped = type("Wrapped", (_Wrapped,), {})

    def find_class(self, module: str, name: str) -> Any:
        found: dict[str, Any] = {
            name: self.wrapped for name in ("_reconstruct", "ndarray", "dtype")
        }
        found["scalar"] = lambda kind, data: _scalar(kind, data)
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in found:
            return found[name]
        wanted = f"{module}.{name}"[:80]
        raise InputError(
            f"{self.path}: wants to import {wanted!r} and was not read; a pickle can run code, and only lists, dicts, "
            "texts and numbers are taken: save it as .jsonl"
        )


class _Wrapped:
    """Where an array or a type of NumPy's is built: what it is built of, as it stands in the
    pickle."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


def _scalar(kind: _Wrapped, data: bytes) -> Any:
    """A number or text that NumPy gave a type to."""
    order = kind.state[1]
    name = kind.args[0]
    if order not in ("<", ">", "|") or not re.fullmatch(r"[iufb][1248]|U\d+", name):
        raise ValueError(f"a NumPy value of type {name}")
    return np.frombuffer(data, order + name)[0].item()
