"""Embed the pictures and texts of a source for an evaluation: lazily, in batches, damaged samples counted."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.data.ahead import ahead
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError

Progress = Callable[[int, int], None]


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
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    *,
    role: str = "main",
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Embedded:
    """Embed the picture of every sample. `facts(sample)` is kept of each; it may raise BadSample to leave one out.

    `exact` is that of `Model.embed_images`. At most two batches of pictures are in memory, already at the model's size.
    Raises InputError where none can be used.
    """
    bad: Counter[str] = Counter()
    vectors: list[Tensor] = []
    kept: list[Any] = []

    def read(index: int) -> tuple[Sample, Tensor]:
        sample = source[index]
        if role not in sample.images:
            raise BadSample("no-picture", f"{sample.key} has no picture {role!r}")
        return sample, model.preprocess.read(sample.images[role], exact=exact)

    for batch in ahead(read, range(len(source)), batch_size):
        pixels = []
        for made in batch:
            try:
                if isinstance(made, BadSample):
                    raise made
                kept.append(facts(made[0]))
                pixels.append(made[1])
            except BadSample as error:
                bad[error.reason] += 1
        if pixels:
            vectors.append(as_vectors(model.embed_images(torch.stack(pixels), batch_size=batch_size)))
        steps.add(len(batch))
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
