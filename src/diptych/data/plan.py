"""Plans: which samples form a batch.

A plan is a pure function of (source, seed, epoch, batch size). It returns global batches, of which
each rank takes its slice. So the order depends on neither ranks nor workers, and an epoch contains
every sample exactly once.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from diptych.data.sample import BadSample, Source, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.rng import generator


class Plan(Protocol):
    """`plan(source, seed, epoch, batch)` returns the epoch's batches as index arrays."""

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]: ...


def _even(order: np.ndarray, batch: int) -> list[np.ndarray]:
    """Split into batches of nearly equal size, at most `batch`, without dropping a sample."""
    return np.array_split(order, -(-len(order) // batch))


def _check(source: Source, batch: int) -> None:
    if batch > len(source):
        raise InputError(
            f"batch size {batch} is larger than the {len(source)} samples of {source.name}; lower --batch-size"
        )


@dataclass(frozen=True)
class Shuffled:
    """Random batches: a new shuffle each epoch."""

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        _check(source, batch)
        return _even(generator(seed, "plan", epoch).permutation(len(source)), batch)


@dataclass(frozen=True)
class Together:
    """Keep blocks of `size` consecutive samples in one batch, such as variants that differ by an
    edit (hard negatives).

    The order of blocks is shuffled, not their content. A batch contains as many whole blocks as
    fit.
    """

    size: int

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        _check(source, batch)
        if self.size > batch:
            raise InputError(
                f"blocks of {self.size} samples do not fit into a batch of {batch}; raise --batch-size"
            )
        starts = np.arange(0, len(source), self.size)
        groups = _even(generator(seed, "plan", epoch).permutation(starts), batch // self.size)
        blocks = [group[:, None] + np.arange(self.size) for group in groups]
        return [block[block < len(source)] for block in blocks]  # the last block may be shorter


@dataclass(frozen=True)
class Distinct:
    """No two samples of a batch have the same value of `label`, so none is a false negative of
    another.

    An epoch consists of rounds: round r contains the r-th sample (in random order) of every value
    with at least r samples.
    """

    label: str

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        _check(source, batch)
        labels = labels_of(source, self.label)
        order = generator(seed, "plan", epoch).permutation(len(labels))
        by_label = order[np.argsort(labels[order], kind="stable")]
        sorted_labels = labels[by_label]
        first = np.searchsorted(sorted_labels, sorted_labels)  # where each value's run begins
        rounds = np.empty(len(labels), dtype=np.int64)
        rounds[by_label] = np.arange(len(labels)) - first
        batches: list[np.ndarray] = []
        for number in range(int(rounds.max()) + 1):
            batches += _even(order[rounds[order] == number], batch)
        return [batches[i] for i in generator(seed, "rounds", epoch).permutation(len(batches))]


@dataclass(frozen=True)
class Having:
    """The batches of `plan` for the samples that have an image of the role `role`.

    If the schema says that all samples have one, nothing is read; else each sample is read once,
    without decoding images. Damaged samples are kept, so that the loader counts them.
    """

    role: str
    plan: Plan = Shuffled()
    _rows: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        if not source.schema()[f"images.{self.role}"].optional:
            return self.plan(source, seed, epoch, batch)
        if source.name not in self._rows:
            self._rows[source.name] = np.array(
                [at for at in range(len(source)) if self._fits(source, at)], np.int64
            )
        rows = self._rows[source.name]
        if not len(rows):
            raise InputError(
                f"no sample of {source.name} has an image of role {self.role!r}; name another source"
            )
        return [rows[indices] for indices in self.plan(Wrapped(source, rows), seed, epoch, batch)]

    def _fits(self, source: Source, at: int) -> bool:
        try:
            return self.role in source[at].images
        except BadSample:
            return True


@dataclass(frozen=True)
class Stratified:
    """Stratified batches: each has its share of every kind of sample, up to one or two samples.

    `field` defines the kinds: "labels.NAME" by the value of a label, "images.NAME" by whether there
    is such an image. Each kind is shuffled and spread evenly over the epoch, with a random offset.
    """

    field: str

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        _check(source, batch)
        kinds = kinds_of(source, self.field)
        rng = generator(seed, "plan", epoch)
        places = np.empty(len(kinds))
        for kind in np.unique(kinds):
            mine = np.flatnonzero(kinds == kind)
            places[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
        return _even(np.argsort(places, kind="stable"), batch)


def kinds_of(source: Source, field: str) -> np.ndarray:
    """The kind (N,) of every sample by a field of `Stratified`, 0 for a damaged one. Decodes no
    images."""
    group, _, name = field.partition(".")
    if group == "labels":
        return labels_of(source, name)
    found = np.zeros(len(source), np.int64)
    for index in range(len(source)):
        with suppress(BadSample):
            found[index] = name in source[index].images
    return found
