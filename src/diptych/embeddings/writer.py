"""Writing of a folder of embeddings that can be killed and continued, to the same bytes.

While it is written, the folder is in a hidden one beside OUT, with `progress.json`:

    .OUT.unfinished/OUT/img_emb/…       what becomes OUT in one rename, when it is whole
    .OUT.unfinished/progress.json       what made it, how far it came, and a checksum of each file's finished bytes
    .OUT.unfinished/lock                held by the process that writes, against those of all machines

Every few seconds the files are flushed to disk, and then progress.json is replaced. What was
written after the last such moment is truncated when writing continues. Memory is bounded by one
batch and one part's captions.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.embeddings.columns import Kind, Value, arrow
from diptych.embeddings.layout import parquet, part
from diptych.errors import InputError
from diptych.files import followed, is_full, locked, read_json, sync, write_atomic
from diptych.spec import Natural, check_record

PART_ROWS = 100_000
"""The number of rows in one part: 200 MB of vectors of 512 dimensions, small enough to copy and to
load whole elsewhere."""

SAVE_SECONDS = 10.0
"""How much work a kill may lose, in seconds."""

PROGRESS = "progress.json"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Row:
    """The metadata of one row; `columns` are the values of the kept columns, in their order."""

    key: str
    position: int
    image_path: str
    caption: str | None
    columns: tuple[Value, ...] = ()


@dataclass
class Progress:
    """The progress of the writing: all samples before `position` are done.

    `files` maps files to the size (of an .npy without its header) and the CRC-32 of their finished
    part.
    """

    settings: Mapping[str, Any]
    position: Natural = 0
    count: Natural = 0
    texts: Natural = 0
    dimension: Natural = 0
    damaged: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, tuple[int, int]] = field(default_factory=dict)


def unfinished_folder(out: Path) -> Path:
    """Return the hidden folder in which `out` is made."""
    whole = followed(out).absolute()
    return whole.with_name(f".{whole.name}.unfinished")


def refuse_existing(out: Path) -> None:
    """Raise InputError if `out` exists and is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists; name another --out, or remove it first")


@contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """Yield the hidden folder beside `out`, locked; on success its content with the name of `out`
    becomes `out`.

    A user error removes it; after anything else it stays, if progress was saved in it. Raises
    InputError if `out` exists or cannot be created, if another process writes it, or if the disk is
    full.
    """
    whole = followed(out).absolute()  # `.` has no name of its own
    refuse_existing(out)
    hidden = unfinished_folder(out)
    with ExitStack() as stack:
        try:
            hidden.mkdir(parents=True, exist_ok=True)
            busy = f"another process is writing {out}; wait for it, or name another --out"
            stack.enter_context(locked(hidden / LOCK, busy, shared=True))
        except OSError as error:
            raise InputError(
                f"{out} cannot be made or locked ({error.strerror}); name another --out"
            ) from error
        stack.enter_context(_kept_or_removed(hidden, out))
        yield hidden
        folder = hidden / whole.name
        for path in folder.rglob("*"):
            sync(path)
        folder.replace(whole)
        sync(whole.parent)
        shutil.rmtree(hidden)


@contextmanager
def _kept_or_removed(hidden: Path, out: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        full = is_full(error) or (error.__cause__ is not None and is_full(error.__cause__))
        kept = (hidden / PROGRESS).exists() and (
            full or not isinstance(error, InputError) or isinstance(error, Stale)
        )
        if not kept:
            shutil.rmtree(hidden, ignore_errors=True)
        if full:
            what = "what was saved is kept" if kept else "nothing was kept"
            raise InputError(
                f"no space left to write {out}; {what}, make room and run again"
            ) from error
        raise


class Stale(InputError):
    """Raised for an unfinished folder that cannot be continued; its owner must remove it."""


def saved(hidden: Path, out: Path, settings: Mapping[str, Any]) -> Progress:
    """Return the progress of an earlier run with equal `settings` in the folder `hidden`, checked
    byte by byte; else the start.

    Raises Stale if it was begun with other settings or is damaged.
    """
    path = hidden / PROGRESS
    folder = hidden / followed(out).absolute().name
    if not path.exists() or not folder.is_dir():
        # killed before anything was saved, or between the last two steps
        for left in hidden.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
        return Progress(settings)
    remedy = f"remove {hidden}, or name another --out"
    try:
        progress = Progress(**check_record(Progress, read_json(path, remedy), path, remedy))
        begun = progress.settings
        reported = differences(begun, settings)
        if reported:
            raise Stale(
                f"{hidden} holds an unfinished run with other settings ({reported}); run that one again to go on "
                f"with it, or {remedy}"
            )
        for name in damaged_files(folder, progress):
            raise Stale(f"{hidden}: {name} is damaged; {remedy}")
    except Stale:
        raise
    except InputError as error:
        raise Stale(str(error)) from error
    except OSError as error:
        raise Stale(f"{hidden} is damaged ({error}); {remedy}") from error
    return progress


def differences(begun: Mapping[str, Any], settings: Mapping[str, Any], where: str = "now") -> str:
    """Return what differs between the settings of an earlier run and those of now, or ""."""
    changed = [key for key in sorted({*settings, *begun}) if settings.get(key) != begun.get(key)]
    return ", ".join(f"{key} {begun.get(key)!r}, {where} {settings.get(key)!r}" for key in changed)


def damaged_files(folder: Path, progress: Progress) -> Iterator[str]:
    """Yield the names of the files whose finished bytes are not those that were written.

    Raises OSError for a file that is not there.
    """
    for name, (size, checksum) in progress.files.items():
        if _checksum(folder / name, size) != checksum:
            yield name


def _checksum(path: Path, size: int) -> int:
    """Return the CRC-32 of `size` bytes, after the header if there is one; -1 if there are
    fewer."""
    total = 0
    with path.open("rb") as file:
        file.seek(_HEADER if path.suffix == ".npy" else 0)
        while size:
            chunk = file.read(min(size, 1 << 22))
            if not chunk:
                return -1
            total = zlib.crc32(chunk, total)
            size = size - len(chunk)
    return total


class Writer:
    """Appends rows to the three kinds of files, in parts of PART_ROWS, and saves its progress.

    `again(count)` returns the last `count` rows that were written before `progress.position`.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        total: int,
        kinds: Sequence[str],
        columns: Mapping[str, Kind],
    ):
        self.folder = folder
        self.progress = progress
        self.parts = -(-total // PART_ROWS)
        self.kinds = kinds
        self.columns = columns
        self.rows: list[Row] = []
        self.files: list[_Npy] = []
        self.saved_at = time.monotonic()
        for kind in (*self.kinds, "metadata"):
            (folder / kind).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:  # only after a failure: `close` leaves none open
            with suppress(OSError):
                file.file.close()

    @property
    def number(self) -> int:
        """The number of the part that is open or comes next."""
        return (self.progress.count - len(self.rows)) // PART_ROWS

    def go_on(self, again: Callable[[int], list[Row]]) -> None:
        """Open the part that was not full when the progress was saved."""
        self.rows = again(self.progress.count % PART_ROWS)
        if self.rows:
            self._open()

    def _open(self) -> None:
        for kind in self.kinds:
            path = part(self.folder, kind, self.number, self.parts)
            size, checksum = self.progress.files.get(self._name(path), (0, 0))
            self.files.append(_Npy(path, self.progress.dimension, size, checksum))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def add(self, rows: Sequence[Row], arrays: Sequence[np.ndarray]) -> None:
        """Append rows with their vectors, one array for each kind of vectors."""
        while rows:
            if not self.files:
                self._open()
            take = PART_ROWS - len(self.rows)
            for file, array in zip(self.files, arrays, strict=True):
                file.append(array[:take])
            self.rows += rows[:take]
            self.progress.count += len(rows[:take])
            self.progress.texts += sum(row.caption is not None for row in rows[:take])
            rows = rows[take:]
            arrays = [array[take:] for array in arrays]
            if len(self.rows) == PART_ROWS:
                self.close()

    def close(self) -> None:
        """Finish the part that is open, if any."""
        if not self.rows:
            return
        path = part(self.folder, "metadata", self.number, self.parts)
        write_metadata(path, self.rows, self.columns)
        size = path.stat().st_size
        self.progress.files[self._name(path)] = size, _checksum(path, size)
        for file in self.files:
            file.close()
            self.progress.files[self._name(file.path)] = file.size, file.checksum
        self.rows = []
        self.files = []

    def save(self) -> None:
        """Save the progress if the last save is long enough ago."""
        if time.monotonic() - self.saved_at < SAVE_SECONDS:
            return
        for file in self.files:
            file.file.flush()
            self.progress.files[self._name(file.path)] = file.size, file.checksum
        for path in (
            *map(self.folder.joinpath, (*self.progress.files, *self.kinds, "metadata")),
            self.folder,
        ):
            sync(path)
        text = json.dumps(asdict(self.progress))
        write_atomic(
            self.folder.parent / PROGRESS, lambda path: path.write_text(text, encoding="utf-8")
        )
        self.saved_at = time.monotonic()


class _Npy:
    """A growing .npy file of float32 (rows, dimension); its header is rewritten when the number of
    rows is known.

    It uses plain writes and not a writable memory map, which would end the process by a signal on a
    full disk. `size` and `checksum` are those of the bytes after the header; what an earlier run
    wrote beyond them is truncated.
    """

    def __init__(self, path: Path, dimension: int, size: int, checksum: int):
        self.path = path
        self.dimension = dimension
        self.size = size
        self.checksum = checksum
        self.file = path.open("r+b" if size else "wb")
        self._header()
        self.file.truncate(_HEADER + size)
        self.file.seek(0, os.SEEK_END)

    def _header(self) -> None:
        shape = (self.size // (4 * self.dimension), self.dimension)
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        assert self.file.tell() == _HEADER, "NumPy pads the header so that the row count may grow"

    def append(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array, "<f4").data
        self.file.write(data)
        self.size = self.size + data.nbytes
        self.checksum = zlib.crc32(data, self.checksum)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()


_HEADER = 128  # bytes before the vectors


def write_metadata(path: Path, rows: Sequence[Row], kept: Mapping[str, Kind]) -> None:
    """Write the rows as Parquet, with the kept columns behind the others."""
    import pyarrow

    columns = {
        "key": pyarrow.array([row.key for row in rows], pyarrow.string()),
        "position": pyarrow.array([row.position for row in rows], pyarrow.int64()),
        "image_path": pyarrow.array([row.image_path for row in rows], pyarrow.string()),
        "caption": pyarrow.array([row.caption for row in rows], pyarrow.string()),
    }
    for at, (name, kind) in enumerate(kept.items()):
        columns[name] = arrow(kind, [row.columns[at] for row in rows])
    parquet().write_table(pyarrow.table(columns), path)
