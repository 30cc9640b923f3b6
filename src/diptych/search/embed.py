"""Embed the images of a source, and their first captions, to a folder in clip-retrieval's layout.

The same command continues where it was killed (`diptych.search.writer`), with batches split at the
same places, so that the folder has the same bytes as after an uninterrupted run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.images import FileImage, Preprocess
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Sample, Source, keys_digest, path_text
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.files import followed
from diptych.models.model import Model
from diptych.models.pretrained import absolute
from diptych.search import writer
from diptych.search.layout import Manifest, parquet
from diptych.search.writer import Row, Stale, Writer


def embed_source(
    model: Model,
    source: str | Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    exact: bool = False,
    max_bad: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the unit-norm embeddings of every readable sample of `source` to the new folder `out`.

    Rows are in the order of the source, which is a `Source` or its spec. A row's text is its first
    caption, or its first text of any role. Without any text its text vector is zeros, so that row i
    of every file is the same sample. `exact` is that of `Model.embed_images`; `progress(done,
    total)` is called after each batch. What a killed process left unfinished is continued.

    Raises InputError, and leaves nothing behind, if `out` exists, more than `max_bad` of the
    samples are damaged, there is no image, or embeddings are not finite. Raises InputError, and
    keeps what is unfinished, for a full disk, another process that writes `out`, or an unfinished
    folder of another model, source or batch size.
    """
    out = Path(out).expanduser()
    parquet()  # raises now, not after an hour, if it is missing
    spec, source = (
        (source, open_source(source)) if isinstance(source, str) else (source.name, source)
    )
    if not any(name.startswith("images.") for name in source.schema()):
        raise InputError(
            f"{source.name} has no images to embed; its fields are {', '.join(source.schema())}"
        )
    if len(source) == 0:
        raise InputError(f"{source.name} is empty; name a source with images")
    with_texts = model.tokenizer is not None and any(
        name.startswith("texts.") for name in source.schema()
    )
    settings = _settings(model, spec, source, with_texts, batch_size, exact)
    with writer.unfinished(out) as hidden, ExitStack() as stack:
        state = writer.saved(hidden, out, settings)
        damage = _Damage(source.name, len(source), max_bad, state.damaged, state.position)
        folder = hidden / followed(out).absolute().name
        rows: Writer | None = None
        if state.position:
            rows = stack.enter_context(Writer(folder, state, len(source), with_texts))
            rows.go_on(lambda count: _again(source, state, count, hidden))
            if progress:
                progress(state.position, len(source))
        for read in _decoded(model.preprocess, source, batch_size, exact, state.position):
            damage.add(read)
            if read.rows:
                images = _finite(model.embed_images(read.pixels, batch_size=batch_size), model.name)
                arrays = (
                    [images, _texts(model, read.rows, images.shape[1])] if with_texts else [images]
                )
                if rows is None:
                    state.dimension = images.shape[1]
                    rows = stack.enter_context(Writer(folder, state, len(source), with_texts))
                rows.add(read.rows, arrays)
            state.position = damage.seen
            if rows is not None:
                rows.save()
            if progress:
                progress(damage.seen, len(source))
        if rows is None:
            raise InputError(
                f"none of the {len(source)} images of {source.name} can be read ({damage})"
            )
        rows.close()
        shares = getattr(model, "shares", (1.0,))
        weights = getattr(model, "weights", None)
        manifest = Manifest(
            model=absolute(model.name),
            weights=str(weights) if weights is not None else None,
            identity=model.identity,
            dimension=state.dimension,
            count=state.count,
            texts=state.texts if with_texts else None,
            source=spec,
            damaged=state.damaged,
            exact=exact,
            share=shares[0] if len(shares) == 2 else None,
        )
        manifest.write(folder)
    return manifest


def _settings(
    model: Model, spec: str, source: Source, texts: bool, batch_size: int, exact: bool
) -> dict[str, Any]:
    """Return everything that determines the bytes of the folder, as far as it is known without
    reading the images."""
    return {
        "model": model.identity,
        "precision": str(getattr(model, "precision", "float32")),
        "source": spec,
        "samples": len(source),
        "keys": keys_digest(source),
        "texts": texts,
        "batch size": batch_size,
        "exact": exact,
        "rows a part": writer.PART_ROWS,
    }


def _row(sample: Sample, position: int) -> Row:
    image = sample.images["main"]
    # Only separate files have a path that other programs can open; members of tars are found by
    # key.
    path = path_text(str(Path(image.path).absolute())) if isinstance(image, FileImage) else ""
    captions = [text for text in sample.captions() or sample.captions("*") if text.strip()]
    return Row(sample.key, position, path, captions[0] if captions else None)


def _again(source: Source, state: writer.Progress, count: int, hidden: Path) -> list[Row]:
    """Read the last `count` rows before the saved position from the source again, without their
    images."""
    keys, damaged = source.keys(), {key for keys in state.damaged.values() for key in keys}
    rows: list[Row] = []
    position = state.position
    try:
        while len(rows) < count:
            position -= 1
            if keys[position] not in damaged:
                rows.append(_row(source[position], position))
    except (BadSample, KeyError) as error:
        raise Stale(
            f"{source.name} has changed since {hidden} was begun ({keys[position]}: {error}); "
            "remove that folder and run again"
        ) from error
    return rows[::-1]


@dataclass(frozen=True, slots=True)
class _Read:
    """The result of one batch of positions: the readable rows with their pixels (B, 3, H, W), and
    (key, reason) pairs of the others."""

    rows: list[Row]
    pixels: Tensor
    bad: list[tuple[str, str]]


def _decoded(
    preprocess: Preprocess, source: Source, batch_size: int, exact: bool, start: int
) -> Iterator[_Read]:
    def read(position: int) -> tuple[Row, Tensor]:
        sample = source[position]
        image = sample.images.get("main")
        if image is None:
            raise BadSample("no-image")
        return _row(sample, position), preprocess.read(image, exact=exact)

    keys = source.keys()
    position = start
    for batch in ahead(read, range(start, len(source)), batch_size):
        good = [made for made in batch if not isinstance(made, BadSample)]
        bad = [
            (keys[position + at], made.reason)
            for at, made in enumerate(batch)
            if isinstance(made, BadSample)
        ]
        pixels = torch.stack([pixels for _, pixels in good]) if good else torch.empty(0)
        yield _Read([row for row, _ in good], pixels, bad)
        position += len(batch)


class _Damage:
    """Damaged samples so far, by reason; `add` stops the run if there are too many."""

    def __init__(
        self, name: str, total: int, max_bad: float, keys: dict[str, list[str]], seen: int
    ):
        self.name = name
        self.total = total
        self.max_bad = max_bad
        self.seen = seen
        self.keys = keys

    def add(self, read: _Read) -> None:
        self.seen += len(read.rows) + len(read.bad)
        for key, reason in read.bad:
            self.keys.setdefault(reason, []).append(key)
        count = sum(map(len, self.keys.values()))
        if count > self.max_bad * self.total:
            last = read.bad[-1][0] if read.bad else "in an earlier run"  # which allowed more
            raise InputError(
                f"{self.name}: {count} of the first {self.seen} samples are damaged ({self}; last: {last}), "
                f"more than --max-bad {self.max_bad:g} of all; mend the data (`diptych check` lists them) or raise it"
            )

    def __str__(self) -> str:
        return ", ".join(f"{len(keys)} {reason}" for reason, keys in self.keys.items())


def _finite(vectors: Tensor | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(torch.as_tensor(vectors).detach().cpu().float())
    if not np.isfinite(array).all():
        raise InputError(
            f"the embeddings of {name} are not finite; its training diverged, or its weights are damaged"
        )
    return array


def _texts(model: Model, rows: Sequence[Row], dimension: int) -> np.ndarray:
    vectors = np.zeros((len(rows), dimension), np.float32)
    have = [i for i, row in enumerate(rows) if row.caption is not None]
    if have:
        vectors[have] = _finite(
            model.embed_texts([rows[i].caption or "" for i in have]), model.name
        )
    return vectors
