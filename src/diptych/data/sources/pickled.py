"""Pickled lists of images and captions, the format of SLIP's and CLIP-rocket's authors: .npy, .pkl,
.pickle.

cc3m.npy      {"image_id": 1510438788, "captions": ["a field of tulips"]}           the id is the image's path
cc12m.npy     {"image_name": "0.jpg", "image_id": 0, "captions": ["a chair"]}
yfcc15m.pkl   (12345678, "title", "description")       the image is 678.jpg in images/12/345.zip

They are tables, with a table's options. Title and description of YFCC are both captions, without
empty ones; for separate roles write `yfcc15m.pkl:text=title=title;web=description`.

Nothing of a pickle is run (`_plain_pickle`). The file is read whole once and stored in the user's
cache as JSON lines, from which single rows are read.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diptych.data.compact import is_folder
from diptych.data.sample import BadSample, whole
from diptych.data.sources import cache
from diptych.data.sources._plain_pickle import Wrapped, load, reading
from diptych.data.sources.records import CAPTIONS
from diptych.data.sources.rows import JsonRows
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "pickled"
_END = b"null\n"  # the last line of a complete copy
_LONGEST = 1 << 18  # characters and values of an entry
_EXPANSION = (
    64  # the most times that a copy may be longer than the pickle, which may store equal texts once
)
_WHAT = "{'image_name': …, 'captions': […]} or (index, title, description)"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith((".npy", ".pkl", ".pickle")) and not is_folder(spec)


def open(spec: Spec) -> Table:
    """Open `cc12m.npy[:root=FOLDER]`, with all options of a table; images' paths are relative to
    `root`."""
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
    """The entries of a pickled list as rows.

    Raises InputError for a file of another form, or one that would run code.
    """

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
        ):  # an entry that the pickle repeats millions of times takes a few bytes each
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
    """Return True if a copy is complete; else raise ValueError."""
    with copy.open("rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        if file.read() != _END:
            raise ValueError(f"{copy} is cut")
    return True


def _line(entry: Any) -> bytes:
    """An entry as a line of JSON: an object, or a string with the error."""
    try:
        _bound(entry)
        return whole(json.dumps(_record(entry), ensure_ascii=False)).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps(brief(error)).encode() + b"\n"


def _bound(entry: Any) -> None:
    """Raise ValueError if an entry is longer than `_LONGEST`.

    Lists that repeat a list ten times at each of ten levels take 300 bytes in a pickle and 10
    billion written out.
    """
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
    """The row of an entry. Raises TypeError or ValueError if it has neither form."""
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
    elif "image_id" in entry:  # the path in CC3M; redundant in CC12M, which has an image_name
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
    """Read the list in a .npy of objects or in a pickle."""
    with Path(path).open("rb") as file, reading(path):
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            _skip_head(file, path)
        else:
            file.seek(0)
        found = load(file, path)
        if isinstance(found, Wrapped):  # (version, shape, type, order, entries)
            found = found.state[4]
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
