"""What `diptych embed` does with one span of a source: read batches, embed them, write rows.

A span is the whole source or one of its parts (`diptych.embeddings.parts`). Batches are cut at the
same places for every span, so that the vectors of a sample do not depend on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.clips import stacked
from diptych.data.images import file_of
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Sample, Source, keys_digest, path_text
from diptych.data.sources import open_source
from diptych.embeddings import parts, writer
from diptych.embeddings.columns import SIDES, Column, Kind, find_columns
from diptych.embeddings.layout import Manifest, Rows
from diptych.embeddings.regions import (
    BAD_BOX,
    Region,
    RegionReader,
    Regions,
    most_rows,
    region_reader,
)
from diptych.embeddings.writer import Row, Stale, Writer
from diptych.errors import InputError
from diptych.evaluation.embed import clip_or_image, main_image
from diptych.files import followed
from diptych.methods.abilities import require
from diptych.models.model import Progress, TextModel
from diptych.models.multivector import MultiVectorModel
from diptych.models.pretrained import absolute
from diptych.spec import Share, check_value


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
    regions: RegionReader | None = None

    @property
    def kept(self) -> dict[str, Kind]:
        """The kinds of the kept columns by their names."""
        sides = {} if self.regions is None else SIDES
        return {**sides, **{column.name: column.kind for column in self.columns}}

    @property
    def rows(self) -> Rows:
        """What a row is."""
        if self.regions is not None:
            return "regions"
        return "images" if "img_emb" in self.kinds else "texts"


def make_job(
    model: TextModel,
    source: str | Source,
    *,
    batch_size: int,
    exact: bool,
    max_bad: float,
    columns: Sequence[str],
    regions: Regions | None = None,
) -> Job:
    """Return the job for a source or its spec. Raises InputError if the source has nothing that the
    model embeds, or lacks a column, for a `max_bad` that is no share, and as `region_reader`."""
    check_value("max_bad", max_bad, Share)
    spec = source if isinstance(source, str) else source.name
    opened = open_source(source) if isinstance(source, str) else source
    reader = None if regions is None else region_reader(regions, _filled(opened), model)
    kinds = _kinds(model, opened, reader)
    kept = find_columns(opened, columns, () if reader is None else SIDES)
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
    if lost := getattr(opened, "damage", {}):
        settings["lost"] = len(lost)  # when the source was opened: lines that cannot be read, …
    if kept:
        settings["columns"] = {column.name: column.kind for column in kept}
    if reader is not None:
        settings["regions"] = dict(reader.settings)
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
        regions=reader,
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
        if span.start == state.position == 0:
            _add_lost(state.damaged, source)
        samples = len(source) + settings.get("lost", 0)
        damage = _Damage(source.name, samples, job.max_bad, state.damaged, state.position)
        damage.check()
        folder = hidden / followed(out).absolute().name
        rows: Writer | None = None

        def begin() -> Writer:
            return stack.enter_context(
                Writer(folder, state, most_rows(settings, len(span)), job.kinds, job.kept)
            )

        if state.count:
            rows = begin()
            rows.go_on(lambda count: _again(job, state, span.start + state.position, count, hidden))
        if progress:
            progress(state.position, len(span))
        for read in _read(job, range(span.start + state.position, span.stop)):
            damage.add(read)
            if read.rows:
                arrays = _embedded(job, read)
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
            raise _nothing(job, damage)
        manifest = _manifest(job, state)
        folder.mkdir(exist_ok=True)  # of a part without a readable sample
        if state.count:
            manifest.write(folder)
        if in_parts:
            parts.write_record(folder, state)
    return manifest


def _add_lost(damaged: dict[str, list[str]], source: Source) -> None:
    """Add the samples that were lost when a source was opened to the damaged ones, by reason."""
    damaged.clear()  # of a start that was stopped before its first batch
    for place, reason in getattr(source, "damage", {}).items():
        damaged.setdefault(reason, []).append(place)


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


def _filled(source: Source) -> Source:
    if len(source) == 0:
        raise InputError(f"{source.name} is empty; name a source with samples")
    return source


def _nothing(job: Job, damage: "_Damage") -> InputError:
    """The error for a source of which no row could be made."""
    name = job.source.name
    if damage.keys:
        what = "texts" if job.rows == "texts" else "images"
        return InputError(f"none of the {len(job.source)} {what} of {name} can be read ({damage})")
    return InputError(
        f"none of the {len(job.source)} images of {name} has a box; name data that have some, or give --boxes FILE"
    )


def _kinds(
    model: TextModel, source: Source, regions: RegionReader | None = None
) -> tuple[str, ...]:
    """Return the kinds of vectors to write: of images, of texts, or of both; of images alone where the
    model keeps several vectors of one. Those of regions are written as those of images.

    Raises InputError if the source has nothing that the model embeds.
    """
    fields = _filled(source).schema()
    reads_texts = hasattr(model, "embed_texts") and getattr(
        model, "reads_texts", model.tokenizer is not None
    )
    if regions is not None:
        return ("img_emb",) + ("text_emb",) * (reads_texts and regions.named)
    images = any(name.startswith("images.") for name in fields)
    if images and _several(model):
        return ("img_emb",)
    if images and hasattr(model, "preprocess") and hasattr(model, "embed_texts"):
        require(model, "embed_images", "diptych embed", model.name)
    images = images and hasattr(model, "embed_images")
    texts = reads_texts and any(name.startswith("texts.") for name in fields)
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


def _rows(job: Job, sample: Sample, position: int) -> tuple[list[Row], list[Region]]:
    """Return the rows of a sample: one, or one of each of its regions, which are returned as well."""
    row = _row(job, sample, position)
    if job.regions is None:
        return [row], []
    found = job.regions.of(sample)
    rows = [replace(row, caption=each.caption, columns=(*each.box, *row.columns)) for each in found]
    return rows, found


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
                rows += _rows(job, source[position], position)[0][::-1]
    except (BadSample, KeyError) as error:
        raise Stale(
            f"{source.name} has changed since {hidden} was begun ({keys[position]}: {error}); "
            "remove that folder and run again"
        ) from error
    return rows[:count][::-1]


@dataclass(frozen=True, slots=True)
class _Batch:
    """The result of one batch of `seen` positions: the readable rows with their pixels (B, 3, H, W), or
    those of clips (B, V, 3, H, W), if images are embedded, and (key, error) pairs of the others. Rows of
    regions are those of the `regions` of each of B images; images without any are not among them."""

    rows: list[Row]
    pixels: Tensor
    bad: list[tuple[str, BadSample]]
    seen: int
    regions: list[list[Region]] = field(default_factory=list)


def _read(job: Job, span: range) -> Iterator[_Batch]:
    """Yield batches of the rows of a span. If rows are texts, no image is read."""
    source = job.source
    preprocess = job.model.preprocess if job.rows == "images" else None
    if job.regions is not None:
        preprocess = job.regions.preprocess(job.model)

    def read(position: int) -> tuple[list[Row], Tensor, list[Region]]:
        sample = source[position]
        rows, regions = _rows(job, sample, position)
        if preprocess is None:
            if rows[0].caption is None:
                raise BadSample("no-caption")
            return rows, torch.empty(0), []
        if not rows:
            return [], torch.empty(0), []
        [image] = clip_or_image(sample) if job.regions is None else main_image(sample)
        return rows, preprocess.read(image, exact=job.exact), regions

    keys = source.keys()
    position = span.start
    for batch in ahead(read, span, job.batch_size):
        good = [made for made in batch if not isinstance(made, BadSample) and made[0]]
        bad = [
            (keys[position + at], made)
            for at, made in enumerate(batch)
            if isinstance(made, BadSample)
        ]
        yield _Batch(
            rows=[row for rows, _, _ in good for row in rows],
            pixels=stacked([pixels for _, pixels, _ in good]) if good else torch.empty(0),
            bad=bad,
            seen=len(batch),
            regions=[regions for _, _, regions in good],
        )
        position += len(batch)


class _Damage:
    """Damaged samples so far, by reason, of `total` ones; `check` and `add` stop the run if there are too many."""

    def __init__(
        self, name: str, total: int, max_bad: float, keys: dict[str, list[str]], seen: int
    ):
        self.name = name
        self.total = total
        self.max_bad = max_bad
        self.seen = seen
        self.keys = keys

    def add(self, read: _Batch) -> None:
        self.seen += read.seen
        for key, error in read.bad:
            self.keys.setdefault(error.reason, []).append(key)
        self.check(read.bad[-1] if read.bad else None)

    def check(self, last: tuple[str, BadSample] | None = None) -> None:
        """Raise InputError if there are too many; `last` is the latest one."""
        count = sum(map(len, self.keys.values()))
        if count <= self.max_bad * self.total:
            return
        place = next(reversed(self.keys.values()))[-1] if last is None else last[0]
        remedy = "mend the data (`diptych check` lists them)"
        if last is not None and last[1].reason == BAD_BOX:
            place = f"{place}: {last[1].detail}"
            remedy = "mend the boxes"
        raise InputError(
            f"{self.name}: {count} of its {self.total} samples are damaged so far ({self}; last: {place}), more than "
            f"--max-bad {self.max_bad:g} of all; {remedy} or raise it"
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


def _embedded(job: Job, read: _Batch) -> list[np.ndarray]:
    """Return the vectors (rows, E) of each kind; a row without a caption has a text vector of zeros."""
    model = job.model
    found = []
    if "img_emb" in job.kinds:
        if job.regions is not None:
            vectors = job.regions.embed(model, read.pixels, read.regions, job.batch_size)
        else:
            embed = model.index if _several(model) else model.embed_images
            vectors = embed(read.pixels, batch_size=job.batch_size)
        found.append(_finite(torch.as_tensor(vectors).flatten(1), model.name))
    if "text_emb" in job.kinds:
        there = [row.caption is not None for row in read.rows]
        captions = [row.caption for row in read.rows if row.caption is not None]
        texts = _embedded_texts(model, captions) if captions else found[0][:0]
        vectors = np.zeros((len(there), texts.shape[1]), np.float32)
        vectors[there] = texts
        found.append(vectors)
    return found


def _embedded_texts(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the vectors (n, E) of texts, of which equal ones are embedded once."""
    different = list(dict.fromkeys(texts))
    number = {text: at for at, text in enumerate(different)}
    vectors = _finite(model.embed_texts(different), model.name)
    return vectors[[number[text] for text in texts]]
