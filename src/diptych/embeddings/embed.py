"""Embed the images of a source and their first captions, the regions of its images, or its texts
alone, to a folder in clip-retrieval's layout.

The same command continues where it was killed (`diptych.embeddings.writer`), with batches split at the
same places, so that the folder has the same bytes as after an uninterrupted run. So has one that
several ranks or processes made in parts (`diptych.embeddings.parts`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.collectives import barrier, patient_barrier, rank, world_size
from diptych.data.sample import Source
from diptych.embeddings import parts
from diptych.embeddings.job import Job, make_job, write
from diptych.embeddings.layout import Manifest, parquet
from diptych.embeddings.parts import Part
from diptych.embeddings.regions import Regions
from diptych.embeddings.writer import refuse_existing
from diptych.errors import InputError, brief
from diptych.models.model import Progress, TextModel
from diptych.training.launch import joined


def embed_source(
    model: TextModel,
    source: str | Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    exact: bool = False,
    max_bad: float = 0.01,
    columns: Sequence[str] = (),
    regions: Regions | None = None,
    part: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write the unit-norm embeddings of every readable sample of `source` to the new folder `out`.

    With `regions` a row is a region of an image in place of an image: a box with the vector that
    `Model.embed_regions` gives, and the name or the text of what is in it as its caption. An image has
    as many rows as boxes.

    Rows are in the order of the source, which is a `Source` or its spec. A row is an image, or a text
    where the model or the source has no images. A row's text is its first caption, or its first text
    of any role. An image without any text has a text vector of zeros, so that row i of every file is
    the same sample. `exact` is that of `Model.embed_images`; `columns` are labels and text roles to
    keep with the rows, for `query(where=…)`; `progress(done, total)` is called at the start and
    after each batch.
    What a killed process left unfinished is continued.

    `part`, such as "3/100", embeds the third of a hundred parts, into a folder in OUT.parts, unless
    it is there already, and `parts.merge` joins them. On ranks (torchrun), or where OUT.parts holds
    parts that were begun, each rank embeds its share of the parts, and the first joins them.

    Raises InputError, and leaves nothing behind, if `out` exists, more than `max_bad` of the
    samples are damaged (which one with a box outside its image, or without area, is), there is nothing
    to embed, a column does not exist, or embeddings are not finite, and as
    `embeddings.regions.region_reader`. Raises InputError, and keeps what is unfinished, for a full disk,
    another process that writes `out`, or an unfinished folder or parts of another model, source or
    batch size.
    """
    out = Path(out).expanduser()
    parquet()  # raises now, not after an hour, if it is missing
    job = make_job(
        model,
        source,
        batch_size=batch_size,
        exact=exact,
        max_bad=max_bad,
        columns=columns,
        regions=regions,
    )
    if part is not None:
        return embed_part(job, out, Part.parse(part), progress)
    with joined():
        if world_size() == 1 and parts.count_of(out) is None:
            return write(job, out, range(len(job.source)), job.settings, progress)
        return _embed_parts(job, out, progress)


def _embed_parts(job: Job, out: Path, progress: Progress | None) -> Manifest:
    """Embed this rank's parts, wait for the other ranks, and join all parts on the first."""
    wait = patient_barrier()
    refuse_existing(out)
    count = parts.count_of(out) or world_size()
    barrier()  # all ranks have counted before one begins a part
    own = [Part(number, count) for number in range(rank() + 1, count + 1, world_size())]
    sizes = [len(part.span(len(job.source), job.batch_size)) for part in own]
    for at, part in enumerate(own):
        embed_part(job, out, part, _shifted(progress, sum(sizes[:at]), sum(sizes)))
    with _peers():
        wait()
    if rank() == 0:
        parts.merge(out, max_bad=job.max_bad)
    with _peers():
        wait()
    return Manifest.read(out)


@contextmanager
def _peers() -> Iterator[None]:
    """Context that turns the error of a rank whose peer has ended into one line."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"rank {rank()} waited for the other ranks, and one has ended ({brief(error)}); its own message says "
            "why; what is done is kept, so run the same command again"
        ) from error


def embed_part(job: Job, out: Path, part: Part, progress: Progress | None) -> Manifest:
    """Embed one part into its folder in OUT.parts, unless it is there already."""
    refuse_existing(out)
    span = part.span(len(job.source), job.batch_size)
    settings = {**job.settings, "part": str(part)}
    parts.refuse_others(out, part, settings)
    folder = part.folder(out)
    done = parts.finished(folder, settings)
    if done is not None:
        if progress:
            progress(len(span), len(span))
        return done
    try:
        return write(job, folder, span, settings, progress)
    finally:
        with suppress(OSError):  # it holds other parts
            folder.parent.rmdir()


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return the progress of one of several parts as that of all."""
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
