"""Plans: which samples form a batch.

A plan is a pure function of (source, seed, epoch, batch size). It returns global batches, of which
each rank takes its slice, so the order depends on neither ranks nor workers.

An epoch of `InOrder`, `Shuffled`, `Together`, `Distinct` and `Stratified` contains every sample
exactly once. The other plans leave samples out or repeat some, as their docstrings say. In training
the loader leaves out batches that are too small for a step.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

import numpy as np

from diptych.data.sample import BadSample, Source, label_values, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.rng import generator


class Plan(Protocol):
    """`plan(source, seed, epoch, batch)` returns the epoch's batches as index arrays.

    The optional attribute `reads` are the fields of the source that it needs.
    """

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
class InOrder:
    """Every sample once, in the order of the source."""

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        return _even(np.arange(len(source)), batch)


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
    with at least r samples. So batches shrink to the number of values that are left; the loader
    leaves out those that are too small for a step.
    """

    label: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

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
    is such an image. With `values` of a label (`sample.label_values`) there are two: samples with
    one of them, and all others. Each kind is shuffled and spread evenly over the epoch, with a
    random offset.

    Raises InputError if a batch has fewer than `min_samples` samples of one of these two kinds.
    """

    field: str
    values: str | int | None = None
    min_samples: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        _check(source, batch)
        kinds = kinds_of(source, self.field)
        if self.values is not None:
            label = self.field.removeprefix("labels.")
            kinds = np.isin(kinds, label_values(source, label, self.values))
        rng = generator(seed, "plan", epoch)
        places = np.empty(len(kinds))
        for kind in np.unique(kinds):
            mine = np.flatnonzero(kinds == kind)
            places[rng.permutation(mine)] = (np.arange(len(mine)) + rng.random()) / len(mine)
        batches = _even(np.argsort(places, kind="stable"), batch)
        if self.values is not None:
            self._check_both(source, kinds, batches)
        return batches

    def _check_both(self, source: Source, kinds: np.ndarray, batches: list[np.ndarray]) -> None:
        counts = np.array([(int(kinds[rows].sum()), int((~kinds[rows]).sum())) for rows in batches])
        if counts.min() >= self.min_samples:
            return
        raise InputError(
            f"every batch needs {self.min_samples} samples with {self.field} {self.values} and {self.min_samples} "
            f"others, and {int(kinds.sum()):,} of the {len(kinds):,} samples of {source.name} have it; raise "
            "--batch-size, or name other values"
        )


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


@dataclass(frozen=True)
class Fixed:
    """The order of `plan` in batches of exactly the asked size, rounded down to a multiple of
    `multiple`. The last batch is filled up from the beginning of the epoch.

    For models whose shapes depend on the batch size, and for batches that are put together from
    units of several samples.

    >>> from diptych.testing import Toy
    >>> [batch.tolist() for batch in Fixed(InOrder(), multiple=3)(Toy(8), 0, 0, 7)]
    [[0, 1, 2, 3, 4, 5], [6, 7, 0, 1, 2, 3]]
    """

    plan: Plan = Shuffled()
    multiple: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return getattr(self.plan, "reads", ())

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        size = batch // self.multiple * self.multiple
        if size == 0:
            raise InputError(
                f"batches are made of units of {self.multiple} samples, and the batch size is {batch}; "
                "raise --batch-size"
            )
        order = np.concatenate(self.plan(source, seed, epoch, batch))
        count = -(-len(order) // size)
        return np.split(np.resize(order, count * size), count)


@dataclass(frozen=True)
class OneGroup:
    """Batches of samples that all have the same value of `label`, so that all negatives share it.

    Each group is shuffled and cut into whole batches; what remains of it is left out of the epoch.
    The groups take turns, a batch each, until they are used up. Samples whose label is missing (-1)
    are left out. A group smaller than a batch is left out, or with `every` raises InputError.
    """

    label: str
    every: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        groups = _by_value(source, self.label, generator(seed, "plan", epoch))
        largest = max(map(len, groups.values()), default=0)
        if largest < batch:
            raise InputError(
                f"no batch of {batch} samples has one value of labels.{self.label}: the most frequent value has "
                f"{largest} samples of {source.name}; lower --batch-size, or make fewer groups"
            )
        small = [value for value, rows in groups.items() if len(rows) < batch]
        if self.every and small:
            raise InputError(
                f"value {small[0]} of labels.{self.label} has {len(groups[small[0]])} samples of {source.name}, fewer "
                f"than a batch of {batch} of one value, and would never be seen; lower --batch-size, or leave such "
                "samples out"
            )
        batches = [
            rows[: len(rows) // batch * batch].reshape(-1, batch) for rows in groups.values()
        ]
        return [each for turn in zip_longest(*batches) for each in turn if each is not None]


@dataclass(frozen=True)
class AtLeast:
    """Random batches that contain at least `count` samples of every value of `label` that they
    contain, so that each sample has positives.

    Samples whose label is missing (-1) are left out. Raises InputError if a value has fewer
    samples.
    """

    label: str
    count: int = 2

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        rng = generator(seed, "plan", epoch)
        blocks = []
        for value, rows in _by_value(source, self.label, rng).items():
            if len(rows) < self.count:
                raise InputError(
                    f"value {value} of labels.{self.label} has {len(rows)} samples of {source.name}, and every batch "
                    f"with it needs {self.count}; remove such samples, or ask for fewer of each"
                )
            blocks += np.split(rows, range(self.count, len(rows) - self.count + 1, self.count))
        return _packed(blocks, batch, rng)


@dataclass(frozen=True)
class PerClass:
    """Batches of `count` random samples of each of as many random values of `label` as fit.

    An epoch has as many batches as hold the source once. Which samples they hold is drawn: a value
    is as likely as any other, whatever its number of samples. It gives its samples in shuffled
    passes of whole blocks of `count`, none twice in a pass; of a value with fewer samples, some are
    repeated in a block. Samples whose label is missing (-1) are left out.
    """

    label: str
    count: int = 4

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        rng = generator(seed, "plan", epoch)
        groups = list(_by_value(source, self.label, rng).values())
        together = batch // self.count
        if not 0 < together <= len(groups):
            raise InputError(
                f"a batch of {batch} with {self.count} samples of each value of labels.{self.label} needs {together} "
                f"values, at least one, and {source.name} has {len(groups)}; change --batch-size"
            )
        batches = -(-sum(map(len, groups)) // (together * self.count))
        drawn = np.stack([rng.choice(len(groups), together, replace=False) for _ in range(batches)])
        times = np.bincount(drawn.ravel(), minlength=len(groups))
        rows = np.empty((drawn.size, self.count), np.int64)
        rows[np.argsort(drawn.ravel(), kind="stable")] = np.concatenate(
            [
                self._rows(group, often, rng)
                for group, often in zip(groups, times.tolist(), strict=True)
            ]
        )
        return list(rows.reshape(batches, -1))

    def _rows(self, group: np.ndarray, times: int, rng: np.random.Generator) -> np.ndarray:
        """Return `times` draws (times, count) from the rows of a value."""
        whole = max(len(group) // self.count, 1) * self.count
        passes = -(-times * self.count // whole)
        orders = [np.resize(rng.permutation(group), whole) for _ in range(passes)]
        return np.reshape(orders, (-1, self.count))[:times].astype(np.int64)


@dataclass(frozen=True)
class Grouped:
    """Random batches of groups: at most `max_samples` samples of each value of `label`, side by side.

    An epoch contains every group once. Of a group with more samples, `max_samples` are drawn without
    replacement, with a probability that grows with the label `score`:

        p_i = (s_i - min s + 0.5) / Σ_j (s_j - min s + 0.5)

    or all alike without one. Samples whose label is missing (-1) are left out.
    """

    label: str
    max_samples: int = 2
    score: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"labels.{name}" for name in (self.label, self.score) if name)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        rng = generator(seed, "plan", epoch)
        scores = np.zeros(len(source)) if self.score is None else labels_of(source, self.score)
        scores = np.where(np.isnan(scores), -1, scores)  # as of a label of integers
        blocks = []
        for rows in _by_value(source, self.label, rng).values():
            chances = scores[rows] - scores[rows].min() + 0.5
            # The largest of log p + Gumbel noise are draws without replacement.
            order = np.argsort(-np.log(chances) - rng.gumbel(size=len(rows)), kind="stable")
            blocks.append(rows[order[: self.max_samples]])
        return _packed(blocks, batch, rng)


@dataclass(frozen=True)
class Mined:
    """Batches of hard negatives: each sample with samples of similar values of `label`.

    The column `neighbours` (N, k) of a stage's `prepare` holds the k values of `label` that are
    nearest to a sample, its own first, or -1 for a sample that is no anchor. An epoch contains a
    block of k · `count` samples for every anchor, `count` random ones of each of these values, so
    some are repeated. Blocks are shuffled and not split.
    """

    label: str
    neighbours: str
    count: int = 3

    @property
    def reads(self) -> tuple[str, ...]:
        return f"labels.{self.label}", f"arrays.{self.neighbours}"

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        rng = generator(seed, "plan", epoch)
        near = column_of(source, self.neighbours)
        near = near[near[:, 0] >= 0]
        groups = _by_value(source, self.label, rng)
        values = np.array(sorted(groups))
        places = np.searchsorted(values, near).clip(max=len(values) - 1)
        strangers = near[values[places] != near]
        if len(strangers):
            raise InputError(
                f"column {self.neighbours!r} names value {strangers[0]} of labels.{self.label}, which no sample of "
                f"{source.name} has"
            )
        block = near.shape[1] * self.count
        if block > batch:
            raise InputError(
                f"a sample and its negatives are {block} samples and do not fit into a batch of {batch}; "
                "raise --batch-size"
            )
        rows = np.concatenate([groups[value] for value in values])
        sizes = np.array([len(groups[value]) for value in values])
        starts = np.cumsum(sizes) - sizes
        drawn = rng.random((*near.shape, self.count)) * sizes[places][..., None]
        table = rows[starts[places][..., None] + drawn.astype(np.int64)].reshape(len(near), block)
        return [part.ravel() for part in _even(rng.permutation(table), batch // block)]


@dataclass(frozen=True)
class Weighted:
    """Random batches in which a sample appears as often as the weight of its value of `label` says.

    A weight of 2.5 means twice in every epoch and once more for half of the samples, drawn anew.
    Values without a weight have weight 1.
    """

    label: str
    weights: Mapping[int, float]

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    def __call__(self, source: Source, seed: int, epoch: int, batch: int) -> list[np.ndarray]:
        rng = generator(seed, "plan", epoch)
        labels = labels_of(source, self.label)
        weights = np.ones(len(labels))
        for value, weight in self.weights.items():
            weights[labels == value] = weight
        times = np.floor(weights + rng.random(len(labels))).astype(np.int64)
        order = rng.permutation(np.repeat(np.arange(len(labels)), times))
        if batch > len(order):
            raise InputError(
                f"batch size {batch} is larger than the {len(order)} samples of an epoch of {source.name}; "
                "lower --batch-size, or raise the weights"
            )
        return _even(order, batch)


def _by_value(source: Source, label: str, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Return the rows of each value of a label, shuffled; a missing label (-1, NaN) is none."""
    labels = labels_of(source, label)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    values, starts = np.unique(labels[order], return_index=True)
    groups = dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
    known = (value for value in groups if value != -1 and not math.isnan(value))
    return {value: groups[value] for value in known}


def _packed(blocks: list[np.ndarray], batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Pack blocks of rows in random order into batches of nearly equal size, at most `batch`."""
    sizes = np.array([len(block) for block in blocks])
    largest = int(sizes.max(initial=0))
    if largest > batch:
        raise InputError(
            f"{largest} samples that belong together do not fit into a batch of {batch}; raise --batch-size"
        )
    order = rng.permutation(len(blocks))
    starts = np.cumsum(sizes[order]) - sizes[order]
    total = int(sizes.sum())
    # A batch gets the blocks that start in its share of the epoch; the last may reach beyond it.
    count = -(-total // (batch - largest + 1)) if total else 0
    cuts = np.searchsorted(starts, np.arange(1, count) * total / max(count, 1))
    parts = np.split(order, cuts)
    return [np.concatenate([blocks[i] for i in part]) for part in parts if len(part)]


def column_of(source: Source, name: str) -> np.ndarray:
    """Return an array of all samples (N, …). Raises InputError if the source has none."""
    if f"arrays.{name}" not in source.schema():
        raise InputError(
            f"{source.name} has no array {name!r}; it has {', '.join(source.schema())}. A stage's prepare can "
            "compute it as a column"
        )
    columns = getattr(source, "columns", {})
    if name in columns:
        return columns[name]
    return np.stack([source[index].arrays[name] for index in range(len(source))])
