"""What `diptych embed` does with one span of a source: read batches, embed them, write rows.

A span is the whole source or one of its parts (`diptych.embeddings.parts`). Batches are cut at the
same places for every span, so that the vectors of a sample do not depend on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.clips import stacked
from diptych.data.images import file_of
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Sample, Source, keys_digest, path_text
from diptych.data.sources import open_source
from diptych.embeddings import parts, writer
from diptych.embeddings.columns import Column, Kind, find_columns
from diptych.embeddings.layout import Manifest
from diptych.embeddings.writer import Row, Stale, Writer
from diptych.errors import InputError
from diptych.evaluation.embed import clip_or_image
from diptych.files import followed
from diptych.methods.abilities import require
from diptych.models.model import Progress, TextModel
from diptych.models.multivector import MultiVectorModel
from diptych.models.pretrained import absolute


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is embedded: by which model, from which source, and what is kept of a sample.

    `settings` is everything that determines the bytes of the folder, as far as it is known without
    reading the images.
    """

    model: Any
    spec: str
    source: Source
    kinds: tuple[str, ...]
    columns: tuple[Column, ...]
    batch_size: int
    exact: bool
    max_bad: float
    settings: dict[str, Any]

    @property
    def kept(self) -> dict[str, Kind]:
        """The kinds of the kept columns by their names."""
        return {column.name: column.kind for column in self.columns}

    @property
    def rows(self) -> Literal["images", "texts"]:
        """What a row is."""
        return "images" if "img_emb" in self.kinds else "texts"


def make_job(
    model: TextModel,
    source: str | Source,
    *,
    batch_size: int,
    exact: bool,
    max_bad: float,
    columns: Sequence[str],
) -> Job:
    """Return the job for a source or its spec. Raises InputError if the source has nothing that the
    model embeds, or lacks a column."""
    spec = source if isinstance(source, str) else source.name
    opened = open_source(source) if isinstance(source, str) else source
    kinds = _kinds(model, opened)
    kept = find_columns(opened, columns)
    settings = {
        "model": model.identity,
        "precision": str(getattr(model, "computed_by", "float32")),
        "source": spec,
        "samples": len(opened),
        "keys": keys_digest(opened),
        "kinds": list(kinds),
        "batch size": batch_size,
        "exact": exact,
        "rows a part": writer.PART_ROWS,
    }
    if kept:
        settings["columns"] = {column.name: column.kind for column in kept}
    return Job(
        model=model,
        spec=spec,
        source=opened,
        kinds=kinds,
        columns=kept,
        batch_size=batch_size,
        exact=exact,
        max_bad=max_bad,
        settings=settings,
    )


def write(
    job: Job,
    out: Path,
    span: range,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> Manifest:
    """Embed the samples of `span` into the folder `out`, which is that of a part if `settings` say
    so."""
    source = job.source
    in_parts = "part" in settings
    with writer.unfinished(out) as hidden, ExitStack() as stack:
        state = writer.saved(hidden, out, settings)
        damage = _Damage(source.name, len(source), job.max_bad, state.damaged, state.position)
        folder = hidden / followed(out).absolute().name
        rows: Writer | None = None

        def begin() -> Writer:
            return stack.enter_context(Writer(folder, state, len(span), job.kinds, job.kept))

        if state.count:
            rows = begin()
            rows.go_on(lambda count: _again(job, state, span.start + state.position, count, hidden))
        if progress:
            progress(state.position, len(span))
        for read in _read(job, range(span.start + state.position, span.stop)):
            damage.add(read)
            if read.rows:
                arrays = _embedded(job.model, read, job.kinds, job.batch_size)
                if rows is None:
                    state.dimension = arrays[0].shape[1]
                    rows = begin()
                rows.add(read.rows, arrays)
            state.position = damage.seen
            if rows is not None:
                rows.save()
            if progress:
                progress(damage.seen, len(span))
        if rows is not None:
            rows.close()
        elif not in_parts:
            raise InputError(
                f"none of the {len(source)} {job.rows} of {source.name} can be read ({damage})"
            )
        manifest = _manifest(job, state)
        folder.mkdir(exist_ok=True)  # of a part without a readable sample
        if state.count:
            manifest.write(folder)
        if in_parts:
            parts.write_record(folder, state)
    return manifest


def _manifest(job: Job, state: writer.Progress) -> Manifest:
    model = job.model
    shares = getattr(model, "shares", (1.0,))
    weights = getattr(model, "weights", None)
    return Manifest(
        model=absolute(model.name),
        weights=str(weights) if weights is not None else None,
        identity=model.identity,
        dimension=state.dimension,
        count=state.count,
        texts=state.texts if "text_emb" in job.kinds else None,
        source=job.spec,
        damaged=state.damaged,
        exact=job.exact,
        share=shares[0] if len(shares) == 2 else None,
        space=getattr(model, "chosen_space", None),
        rows=job.rows,
        columns=job.kept,
        vectors=_several(model) or 1,
    )


def _kinds(model: TextModel, source: Source) -> tuple[str, ...]:
    """Return the kinds of vectors to write: of images, of texts, or of both; of images alone where the
    model keeps several vectors of one.

    Raises InputError if the source has nothing that the model embeds.
    """
    if len(source) == 0:
        raise InputError(f"{source.name} is empty; name a source with samples")
    fields = source.schema()
    images = any(name.startswith("images.") for name in fields)
    if images and _several(model):
        return ("img_emb",)
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


def _several(model: Any) -> int | None:
    """The number of vectors of an image of a model that keeps several, else None."""
    return model.vectors if isinstance(model, MultiVectorModel) else None


def _row(job: Job, sample: Sample, position: int) -> Row:
    image = sample.images.get("main")
    # Only separate files have a path that other programs can open; members of tars are found by
    # key.
    file = "" if image is None else file_of(image)
    path = path_text(str(Path(file).absolute())) if file else ""
    captions = [text for text in sample.captions() or sample.captions("*") if text.strip()]
    values = tuple(column.value(sample) for column in job.columns)
    return Row(sample.key, position, path, captions[0] if captions else None, values)


def _again(job: Job, state: writer.Progress, position: int, count: int, hidden: Path) -> list[Row]:
    """Read the last `count` rows before a position from the source again, without their images."""
    source = job.source
    keys = source.keys()
    damaged = {key for keys in state.damaged.values() for key in keys}
    rows: list[Row] = []
    try:
        while len(rows) < count:
            position -= 1
            if keys[position] not in damaged:
                rows.append(_row(job, source[position], position))
    except (BadSample, KeyError) as error:
        raise Stale(
            f"{source.name} has changed since {hidden} was begun ({keys[position]}: {error}); "
            "remove that folder and run again"
        ) from error
    return rows[::-1]


@dataclass(frozen=True, slots=True)
class _Batch:
    """The result of one batch of positions: the readable rows with their pixels (B, 3, H, W), or
    those of clips (B, V, 3, H, W), if images are embedded, and (key, reason) pairs of the others."""

    rows: list[Row]
    pixels: Tensor
    bad: list[tuple[str, str]]


def _read(job: Job, span: range) -> Iterator[_Batch]:
    """Yield batches of the rows of a span. If rows are texts, no image is read."""
    source = job.source
    preprocess = job.model.preprocess if job.rows == "images" else None

    def read(position: int) -> tuple[Row, Tensor]:
        sample = source[position]
        row = _row(job, sample, position)
        if preprocess is None:
            if row.caption is None:
                raise BadSample("no-caption")
            return row, torch.empty(0)
        [image] = clip_or_image(sample)
        return row, preprocess.read(image, exact=job.exact)

    keys = source.keys()
    position = span.start
    for batch in ahead(read, span, job.batch_size):
        good = [made for made in batch if not isinstance(made, BadSample)]
        bad = [
            (keys[position + at], made.reason)
            for at, made in enumerate(batch)
            if isinstance(made, BadSample)
        ]
        pixels = stacked([pixels for _, pixels in good]) if good else torch.empty(0)
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
        embed = model.index if _several(model) else model.embed_images
        vectors = embed(read.pixels, batch_size=batch_size)
        found.append(_finite(torch.as_tensor(vectors).flatten(1), model.name))
    if "text_emb" in kinds:
        there = [row.caption is not None for row in read.rows]
        captions = [row.caption for row in read.rows if row.caption is not None]
        texts = _finite(model.embed_texts(captions), model.name) if captions else found[0][:0]
        vectors = np.zeros((len(there), texts.shape[1]), np.float32)
        vectors[there] = texts
        found.append(vectors)
    return found
