"""Embed the pictures of a source, and their first captions, to a folder in clip-retrieval's layout.

Memory is bounded by one batch and one part's captions, whatever the size of the source: rows go straight into .npy
files whose header is completed at the end. They are plain writes and not a writable memory map, which would die of a
signal where the disk is full. The folder is built beside OUT and renamed into place when it is whole.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diptych.data.ahead import ahead
from diptych.data.pictures import FilePicture, Preprocess
from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.files import is_full, sync
from diptych.search.layout import Manifest, parquet, part
from diptych.towers.model import Model

PART_ROWS = 100_000
"""Rows in one part: 200 MB of vectors of 512 numbers, small enough to copy and to load whole elsewhere."""


def embed_source(
    model: Model,
    source: str | Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    max_bad: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the unit-norm embeddings of every readable sample of `source` to the new folder `out`.

    Rows stand in the order of the source, a `Source` or its spec. A row's text is its first caption, or where it has
    none its first text of any role; without any, its text vector is zeros, so that row i of every file is one sample.
    `progress(done, total)` is called after each batch.
    Raises InputError: `out` exists, a share of more than `max_bad` of the samples is damaged, no picture at all,
    embeddings that are not finite, a full disk. Then nothing is left behind.
    """
    out = Path(out).expanduser()
    parquet()  # better to miss it now than after an hour
    spec, source = (source, open_source(source)) if isinstance(source, str) else (source.name, source)
    if not any(name.startswith("images.") for name in source.schema()):
        raise InputError(f"{source.name} has no pictures to embed; its fields are {', '.join(source.schema())}")
    if len(source) == 0:
        raise InputError(f"{source.name} is empty; name a source with pictures")
    with_texts = model.tokenizer is not None and any(name.startswith("texts.") for name in source.schema())
    damage = _Damage(source.name, len(source), max_bad)
    with _new_folder(out) as folder, ExitStack() as stack:
        writer: _Writer | None = None
        for read in _decoded(model.preprocess, source, batch_size):
            damage.add(read)
            if read.rows:
                images = _finite(model.embed_images(read.pixels, batch_size=batch_size), model.name)
                texts = _texts(model, read.rows, images.shape[1]) if with_texts else None
                if writer is None:
                    writer = stack.enter_context(_Writer(folder, images.shape[1], len(source), with_texts))
                writer.add(read.rows, images, texts)
            if progress:
                progress(damage.seen, len(source))
        if writer is None:
            raise InputError(f"none of the {len(source)} pictures of {source.name} can be read ({damage})")
        writer.close()
        manifest = Manifest(
            model=str(Path(model.name).resolve()) if Path(model.name).is_dir() else model.name,
            identity=model.identity,
            dimension=writer.dimension,
            count=writer.count,
            texts=writer.texts if with_texts else None,
            source=spec,
            damaged=dict(damage.keys),
        )
        manifest.write(folder)
    return manifest


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` on success and vanishes on any failure."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists; name another --out, or remove it first")
    whole = out.absolute()  # `.` has no name of its own
    folder = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); name another --out") from error
    try:
        yield folder
        for path in folder.rglob("*"):
            sync(path)
        folder.replace(whole)
        sync(whole.parent)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_full(error):
            raise InputError(f"no space left to write {out}; nothing was kept, make room and run again") from error
        raise


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    position: int
    image_path: str
    caption: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    """What one batch of positions gave: the readable rows with their pixels (B, 3, H, W), and (key, reason) pairs."""

    rows: list[_Row]
    pixels: Tensor
    bad: list[tuple[str, str]]


def _decoded(preprocess: Preprocess, source: Source, batch_size: int) -> Iterator[_Read]:
    def read(position: int) -> tuple[_Row, Tensor]:
        sample = source[position]
        picture = sample.images.get("main")
        if picture is None:
            raise BadSample("no-picture")
        pixels = preprocess(picture.decode())
        # Only a file of its own has a path that other programs can open; members of tars are found by key.
        path = str(Path(picture.path).absolute()) if isinstance(picture, FilePicture) else ""
        captions = [text for text in sample.captions() or sample.captions("*") if text.strip()]
        return _Row(sample.key, position, path, captions[0] if captions else None), pixels

    keys, position = source.keys(), 0
    for batch in ahead(read, range(len(source)), batch_size):
        good = [made for made in batch if not isinstance(made, BadSample)]
        bad = [(keys[position + at], made.reason) for at, made in enumerate(batch) if isinstance(made, BadSample)]
        pixels = torch.stack([pixels for _, pixels in good]) if good else torch.empty(0)
        yield _Read([row for row, _ in good], pixels, bad)
        position += len(batch)


class _Damage:
    """Damaged samples so far, by reason; `add` stops the run where they are too many."""

    def __init__(self, name: str, total: int, max_bad: float):
        self.name, self.total, self.max_bad = name, total, max_bad
        self.seen, self.keys = 0, defaultdict[str, list[str]](list)

    def add(self, read: _Read) -> None:
        self.seen += len(read.rows) + len(read.bad)
        for key, reason in read.bad:
            self.keys[reason].append(key)
        count = sum(map(len, self.keys.values()))
        if count > self.max_bad * self.total:
            raise InputError(
                f"{self.name}: {count} of the first {self.seen} samples are damaged ({self}; last: {read.bad[-1][0]}), "
                f"more than --max-bad {self.max_bad:g} of all; mend the data (`diptych check` lists them) or raise it"
            )

    def __str__(self) -> str:
        return ", ".join(f"{len(keys)} {reason}" for reason, keys in self.keys.items())


def _finite(vectors: Tensor | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(torch.as_tensor(vectors).detach().cpu().float())
    if not np.isfinite(array).all():
        raise InputError(f"the embeddings of {name} are not finite; its training diverged, or its weights are damaged")
    return array


def _texts(model: Model, rows: Sequence[_Row], dimension: int) -> np.ndarray:
    vectors = np.zeros((len(rows), dimension), np.float32)
    have = [i for i, row in enumerate(rows) if row.caption is not None]
    if have:
        vectors[have] = _finite(model.embed_texts([rows[i].caption or "" for i in have]), model.name)
    return vectors


class _Writer:
    """Appends rows to the three kinds of files, in parts of PART_ROWS."""

    def __init__(self, folder: Path, dimension: int, total: int, with_texts: bool):
        self.folder, self.dimension = folder, dimension
        self.parts = -(-total // PART_ROWS)
        self.kinds = ("img_emb", "text_emb") if with_texts else ("img_emb",)
        self.count = self.texts = self.number = 0
        self.rows: list[_Row] = []
        self.files: list[_Npy] = []
        for kind in (*self.kinds, "metadata"):
            (folder / kind).mkdir()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:  # only after a failure: `close` leaves none open
            file.file.close()

    def add(self, rows: list[_Row], images: np.ndarray, texts: np.ndarray | None) -> None:
        arrays = [array for array in (images, texts) if array is not None]
        while rows:
            if not self.files:
                self.files = [
                    _Npy(part(self.folder, kind, self.number, self.parts), self.dimension) for kind in self.kinds
                ]
            take = PART_ROWS - len(self.rows)
            for file, array in zip(self.files, arrays, strict=True):
                file.append(array[:take])
            self.rows += rows[:take]
            rows, arrays = rows[take:], [array[take:] for array in arrays]
            if len(self.rows) == PART_ROWS:
                self.close()

    def close(self) -> None:
        """Finish the part that is open, if any."""
        if not self.rows:
            return
        for file in self.files:
            file.close()
        _write_metadata(part(self.folder, "metadata", self.number, self.parts), self.rows)
        self.count += len(self.rows)
        self.texts += sum(row.caption is not None for row in self.rows)
        self.rows, self.files, self.number = [], [], self.number + 1


class _Npy:
    """An .npy file of float32 (rows, dimension) that grows; its header is written again when the rows are counted."""

    def __init__(self, path: Path, dimension: int):
        self.file, self.dimension, self.rows = path.open("wb"), dimension, 0
        self._header()
        self.start = self.file.tell()

    def _header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dimension)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, array: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(array, "<f4").data)
        self.rows += len(array)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        assert self.file.tell() == self.start, "NumPy pads the header so that the row count may grow"
        self.file.close()


def _write_metadata(path: Path, rows: Sequence[_Row]) -> None:
    import pyarrow

    columns = {
        "key": pyarrow.array([row.key for row in rows], pyarrow.string()),
        "position": pyarrow.array([row.position for row in rows], pyarrow.int64()),
        "image_path": pyarrow.array([row.image_path for row in rows], pyarrow.string()),
        "caption": pyarrow.array([row.caption for row in rows], pyarrow.string()),
    }
    parquet().write_table(pyarrow.table(columns), path)
