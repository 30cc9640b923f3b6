"""Embed the pictures and texts of a source for an evaluation: lazily, in batches, damaged samples counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError

Progress = Callable[[int, int], None]

WORKERS = 4
"""Threads that decode; PIL frees the interpreter while it does."""


class Steps:
    """Counts the work done and reports it as `progress(done, total)`."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Embedded:
    """Vectors (n, E) of the samples that could be read, those samples' `facts`, and why others could not."""

    vectors: Tensor
    facts: list[Any]
    bad: Counter[str]


def embed_pictures(
    model: Any, source: Source, facts: Callable[[Sample], Any], *, role: str = "main", batch_size: int, steps: Steps
) -> Embedded:
    """Embed the picture of every sample. `facts(sample)` is kept of each; it may raise BadSample to leave one out.

    At most two batches of pictures are in memory, already at the model's size. Raises InputError where none can be
    used.
    """
    bad: Counter[str] = Counter()
    vectors: list[Tensor] = []
    kept: list[Any] = []
    with ThreadPoolExecutor(WORKERS) as pool:

        def start(indices: Sequence[int]) -> list[tuple[Any, Future[Tensor]]]:
            started = []
            for index in indices:
                try:
                    sample = source[index]
                    fact = facts(sample)
                    if role not in sample.images:
                        raise BadSample("no-picture", f"{sample.key} has no picture {role!r}")
                except BadSample as error:
                    bad[error.reason] += 1
                else:
                    picture = sample.images[role]
                    started.append((fact, pool.submit(lambda picture: model.preprocess(picture.decode()), picture)))
            return started

        for size, reading in _one_ahead(start, _batches(range(len(source)), batch_size)):
            pixels = []
            for fact, future in reading:
                try:
                    pixels.append(future.result())
                    kept.append(fact)
                except BadSample as error:
                    bad[error.reason] += 1
            if pixels:
                vectors.append(as_vectors(model.embed_images(torch.stack(pixels), batch_size=batch_size)))
            steps.add(size)
    if not vectors:
        reasons = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        raise InputError(f"none of the {len(source)} samples of {source.name!r} can be used ({reasons})")
    return Embedded(torch.cat(vectors), kept, bad)


def embed_texts(model: Any, texts: Sequence[str], *, batch_size: int, steps: Steps) -> Tensor:
    """Embed texts (n, E) batch by batch."""
    vectors = []
    for part in _batches(texts, batch_size):
        vectors.append(as_vectors(model.embed_texts(list(part))))
        steps.add(len(part))
    return torch.cat(vectors)


def as_vectors(vectors: Any) -> Tensor:
    """A model's output as float32 on the CPU."""
    return torch.as_tensor(vectors).detach().float().cpu()


def _batches(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _one_ahead(start: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Each started batch with its size, the next one started before it is handed out."""
    ahead: tuple[int, Any] | None = None
    for batch in batches:
        current, ahead = ahead, (len(batch), start(batch))
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead
