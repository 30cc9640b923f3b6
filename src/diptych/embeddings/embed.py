"""Embed the images of a source and their first captions, or its texts alone, to a folder in
clip-retrieval's layout.

The same command continues where it was killed (`diptych.embeddings.writer`), with batches split at the
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
from diptych.embeddings import writer
from diptych.embeddings.layout import Manifest, parquet
from diptych.embeddings.writer import Row, Stale, Writer
from diptych.errors import InputError
from diptych.files import followed
from diptych.methods.abilities import require
from diptych.models.model import TextModel
from diptych.models.pretrained import absolute


def embed_source(
    model: TextModel,
    source: str | Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    exact: bool = False,
    max_bad: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the unit-norm embeddings of every readable sample of `source` to the new folder `out`.

    Rows are in the order of the source, which is a `Source` or its spec. A row is an image, or a text
    where the model or the source has no images. A row's text is its first caption, or its first text
    of any role. An image without any text has a text vector of zeros, so that row i of every file is
    the same sample. `exact` is that of `Model.embed_images`; `progress(done, total)` is called after
    each batch. What a killed process left unfinished is continued.

    Raises InputError, and leaves nothing behind, if `out` exists, more than `max_bad` of the
    samples are damaged, there is nothing to embed, or embeddings are not finite. Raises InputError, and
    keeps what is unfinished, for a full disk, another process that writes `out`, or an unfinished
    folder of another model, source or batch size.
    """
    out = Path(out).expanduser()
    parquet()  # raises now, not after an hour, if it is missing
    spec, source = (
        (source, open_source(source)) if isinstance(source, str) else (source.name, source)
    )
    kinds = _kinds(model, source)
    what = "images" if "img_emb" in kinds else "texts"
    settings = _settings(model, spec, source, kinds, batch_size, exact)
    with writer.unfinished(out) as hidden, ExitStack() as stack:
        state = writer.saved(hidden, out, settings)
        damage = _Damage(source.name, len(source), max_bad, state.damaged, state.position)
        folder = hidden / followed(out).absolute().name
        rows: Writer | None = None
        if state.position:
            rows = stack.enter_context(Writer(folder, state, len(source), kinds))
            rows.go_on(lambda count: _again(source, state, count, hidden))
            if progress:
                progress(state.position, len(source))
        preprocess = model.preprocess if "img_emb" in kinds else None
        for read in _read(preprocess, source, batch_size, exact, state.position):
            damage.add(read)
            if read.rows:
                arrays = _embedded(model, read, kinds, batch_size)
                if rows is None:
                    state.dimension = arrays[0].shape[1]
                    rows = stack.enter_context(Writer(folder, state, len(source), kinds))
                rows.add(read.rows, arrays)
            state.position = damage.seen
            if rows is not None:
                rows.save()
            if progress:
                progress(damage.seen, len(source))
        if rows is None:
            raise InputError(
                f"none of the {len(source)} {what} of {source.name} can be read ({damage})"
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
            texts=state.texts if "text_emb" in kinds else None,
            source=spec,
            damaged=state.damaged,
            exact=exact,
            share=shares[0] if len(shares) == 2 else None,
            space=getattr(model, "chosen_space", None),
            rows=what,
        )
        manifest.write(folder)
    return manifest


def _kinds(model: TextModel, source: Source) -> tuple[str, ...]:
    """Return the kinds of vectors to write: of images, of texts, or of both.

    Raises InputError if the source has nothing that the model embeds.
    """
    if len(source) == 0:
        raise InputError(f"{source.name} is empty; name a source with samples")
    fields = source.schema()
    images = any(name.startswith("images.") for name in fields)
    if images and hasattr(model, "preprocess") and hasattr(model, "embed_texts"):
        require(model, "embed_images", "diptych embed", model.name)
    images = images and hasattr(model, "embed_images")
    texts = (
        hasattr(model, "embed_texts")
        and getattr(model, "reads_texts", model.tokenizer is not None)
        and any(name.startswith("texts.") for name in fields)
    )
    if not hasattr(model, "embed_images") and not hasattr(model, "embed_texts"):
        raise InputError(f"{model.name} embeds neither images nor texts; name a model that does")
    if not images and not texts:
        what = "images" if hasattr(model, "embed_images") else "texts"
        raise InputError(
            f"{source.name} has no {what} to embed with {model.name}; its fields are {', '.join(fields)}"
        )
    return ("img_emb",) * images + ("text_emb",) * texts


def _settings(
    model: TextModel,
    spec: str,
    source: Source,
    kinds: Sequence[str],
    batch_size: int,
    exact: bool,
) -> dict[str, Any]:
    """Return everything that determines the bytes of the folder, as far as it is known without
    reading the images."""
    return {
        "model": model.identity,
        "precision": str(getattr(model, "precision", "float32")),
        "source": spec,
        "samples": len(source),
        "keys": keys_digest(source),
        "kinds": list(kinds),
        "batch size": batch_size,
        "exact": exact,
        "rows a part": writer.PART_ROWS,
    }


def _row(sample: Sample, position: int) -> Row:
    image = sample.images.get("main")
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
class _Batch:
    """The result of one batch of positions: the readable rows with their pixels (B, 3, H, W) if
    images are embedded, and (key, reason) pairs of the others."""

    rows: list[Row]
    pixels: Tensor
    bad: list[tuple[str, str]]


def _read(
    preprocess: Preprocess | None, source: Source, batch_size: int, exact: bool, start: int
) -> Iterator[_Batch]:
    """Yield batches of rows. Without a preprocessing they are texts, and no image is read."""

    def read(position: int) -> tuple[Row, Tensor]:
        sample = source[position]
        row = _row(sample, position)
        if preprocess is None:
            if row.caption is None:
                raise BadSample("no-caption")
            return row, torch.empty(0)
        image = sample.images.get("main")
        if image is None:
            raise BadSample("no-image")
        return row, preprocess.read(image, exact=exact)

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
        yield _Batch([row for row, _ in good], pixels, bad)
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

    def add(self, read: _Batch) -> None:
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


def _embedded(model: Any, read: _Batch, kinds: Sequence[str], batch_size: int) -> list[np.ndarray]:
    """Return the vectors (B, E) of each kind; a row without a caption has a text vector of zeros."""
    found = []
    if "img_emb" in kinds:
        found.append(_finite(model.embed_images(read.pixels, batch_size=batch_size), model.name))
    if "text_emb" in kinds:
        there = [row.caption is not None for row in read.rows]
        captions = [row.caption for row in read.rows if row.caption is not None]
        texts = _finite(model.embed_texts(captions), model.name) if captions else found[0][:0]
        vectors = np.zeros((len(there), texts.shape[1]), np.float32)
        vectors[there] = texts
        found.append(vectors)
    return found
