"""Evolutionary search for the subset of a library that scores best, without gradients.

A set is a row of U bits. The fittest sets of the archive are the parents of the next generation:

    add, remove, replace    one element of a parent is added, removed, or exchanged for another
    mutate                  random elements are added to a start, more of them in later generations
    cross                   elements of all parents are kept, elements of some parents are drawn at random

No set is scored twice, and the archive drops none, so the best fitness never falls. Source: Qu et
al. 2025 (ProAPO), from code.

Dimensions: G sets, U elements of the library, P parents.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# draws beyond the number of children asked for; after them an operator returns what it has found
EXTRA_TRIES = 64
_MIN_ELEMENTS = 2  # `remove_one` never leaves fewer
_COUNT_OFFSET = 1e-4  # added to the counts in `crossover`, as published


@dataclass(frozen=True, kw_only=True)
class Operators:
    """The number of parents, and of children: `add`, `remove` and `replace` for each parent, the
    others in total."""

    parents: int = 4
    add: int = 8
    remove: int = 8
    replace: int = 8
    mutate: int = 8
    cross: int = 16


class Archive:
    """All sets that were scored, in order: `rows` (G, U) and `fitness` (G,).

    >>> archive = Archive(np.eye(3, dtype=bool), np.array([1.0, 3.0, 2.0]))
    >>> archive.best(2)
    array([1, 2])
    """

    def __init__(self, rows: np.ndarray, fitness: np.ndarray):
        self.rows = rows[:0]
        self.fitness = fitness[:0]
        self._seen: set[bytes] = set()
        self.add(self.take_unseen(rows, len(rows)), fitness)

    def take_unseen(self, rows: np.ndarray, limit: int) -> np.ndarray:
        """The first `limit` different sets of rows (G, U) that were not seen before; they count as
        seen from now on."""
        selected = []
        for index, key in enumerate(np.packbits(rows, axis=1)):
            if len(selected) == limit:
                break
            if key.tobytes() not in self._seen:
                self._seen.add(key.tobytes())
                selected.append(index)
        return rows[selected]

    def add(self, rows: np.ndarray, fitness: np.ndarray) -> None:
        """Append sets (G, U) that `take_unseen` has returned, with their fitness (G,)."""
        assert len(rows) == len(fitness), "a set was given twice"
        self.rows = np.concatenate([self.rows, rows])
        self.fitness = np.concatenate([self.fitness, fitness])

    def best(self, count: int = 1) -> np.ndarray:
        """Indices of the fittest sets, in falling order; of sets with equal fitness the earlier
        comes first."""
        return np.argsort(-self.fitness, kind="stable")[:count]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The sets that a search may visit, by three arrays (U,).

    `free` marks the elements that change; the others stay as they are in the parent. `start` is the
    set that mutation adds to. `owner` numbers the owner of each element; a set holds at least one
    element of each owner.
    """

    free: np.ndarray
    start: np.ndarray
    owner: np.ndarray

    def contains(self, rows: np.ndarray) -> np.ndarray:
        """Which rows (G, U) hold an element of every owner that has free elements (G,)."""
        owners = np.unique(self.owner[self.free])
        columns = np.flatnonzero(np.isin(self.owner, owners))
        member = self.owner[columns][:, None] == owners
        return (rows[:, columns].astype(np.float32) @ member.astype(np.float32) > 0).all(1)


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`score(rows, origin) -> fitness` (G,): sets (G, U), and the archive index (G,) of the set that
each was made from."""


def evolve(
    archive: Archive,
    score: Score,
    space: SearchSpace,
    operators: Operators,
    rng: np.random.Generator,
    generations: int,
    callback: Callable[[int], None] = lambda generation: None,
) -> np.ndarray:
    """The best set (U,) after some generations, all of which are added to the archive.

    `callback(generation)` is called after each generation.
    """
    for generation in range(generations):
        rows, origin = children(archive, space, operators, rng, generation)
        if len(rows):
            archive.add(rows, score(rows, origin))
        callback(generation)
    return archive.rows[archive.best()[0]]


def children(
    archive: Archive,
    space: SearchSpace,
    operators: Operators,
    rng: np.random.Generator,
    generation: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The new sets of a generation (G, U), and the archive index of each one's parent (G,).

    Sets of mutation and crossover count as made from the fittest set, which they equal outside
    `free`.
    """
    fittest = archive.best(operators.parents)
    parents = np.concatenate([fittest, rng.choice(fittest, operators.parents - len(fittest))])
    edits = (
        (add_one, operators.add),
        (remove_one, operators.remove),
        (replace_one, operators.replace),
    )
    rows: list[np.ndarray] = []
    origin: list[np.ndarray] = []

    def collect(candidates: np.ndarray, count: int, parent: int) -> None:
        rows.append(archive.take_unseen(candidates[space.contains(candidates)], count))
        origin.append(np.full(len(rows[-1]), parent))

    for parent in parents:
        row = archive.rows[parent]
        if row[space.free].all():
            continue
        for edit, count in edits:
            if count:
                collect(edit(row, space.free, rng, count + EXTRA_TRIES), count, parent)
    best = archive.rows[fittest[0]]
    if operators.mutate:
        start = np.where(space.free, space.start, best)
        mutated = mutate(start, space.free, rng, operators.mutate + EXTRA_TRIES, 2 + generation)
        collect(mutated, operators.mutate, fittest[0])
    if operators.cross:
        crossed = crossover(
            archive.rows[parents], best, space.free, rng, operators.cross + EXTRA_TRIES
        )
        collect(crossed, operators.cross, fittest[0])
    return np.concatenate(rows), np.concatenate(origin)


def add_one(row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int) -> np.ndarray:
    """Copies of `row` (U,) with one more free element (tries, U); no rows where it holds them
    all."""
    absent = np.flatnonzero(free & ~row)
    if not len(absent):
        return _no_rows(row)
    return _flip(row, rng.choice(absent, tries))


def remove_one(
    row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int
) -> np.ndarray:
    """Copies of `row` (U,) with one free element less (tries, U); no rows where it holds two free
    elements or fewer."""
    present = np.flatnonzero(free & row)
    if len(present) <= _MIN_ELEMENTS:
        return _no_rows(row)
    return _flip(row, rng.choice(present, tries))


def replace_one(
    row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int
) -> np.ndarray:
    """Copies of `row` (U,) with one free element exchanged (tries, U); no rows where it holds all
    of them or none."""
    absent = np.flatnonzero(free & ~row)
    present = np.flatnonzero(free & row)
    if not (len(absent) and len(present)):
        return _no_rows(row)
    return _flip(row, rng.choice(absent, tries), rng.choice(present, tries))


def _no_rows(row: np.ndarray) -> np.ndarray:
    """An empty array (0, U)."""
    return row[None][:0]


def _flip(row: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Copies of `row` (U,): in copy i, the bits at index i of each of `columns` (tries,) are
    flipped."""
    rows = np.repeat(row[None], len(columns[0]), 0)
    for column in columns:
        rows[np.arange(len(rows)), column] ^= True
    return rows


def mutate(
    start: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int, size: int
) -> np.ndarray:
    """Copies of `start` (U,) with `size` more free elements drawn at random, or with all of them
    (tries, U)."""
    absent = np.flatnonzero(free & ~start)
    order = rng.random((tries, len(absent))).argsort(1)[:, :size]
    rows = np.repeat(start[None], tries, 0)
    np.put_along_axis(rows, absent[order], True, 1)
    return rows


def crossover(
    parents: np.ndarray, best: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int
) -> np.ndarray:
    """Sets (tries, U) with the free elements of all `parents` (P, U), and some that only some
    parents hold.

    The number of the latter is drawn uniformly, and they are drawn in proportion to how many
    parents hold them. Outside `free` the sets equal `best` (U,). No rows where fewer than two
    elements are held by only some parents.
    """
    count = parents.sum(0)
    partial = np.flatnonzero(free & (count > 0) & (count < len(parents)))
    if len(partial) < 2:
        return _no_rows(best)
    keys = np.log(count[partial] + _COUNT_OFFSET) + rng.gumbel(
        size=(tries, len(partial))
    )  # the Gumbel top-k trick
    rank = (-keys).argsort(1).argsort(1)
    rows = np.repeat(np.where(free, count == len(parents), best)[None], tries, 0)
    rows[:, partial] = rank < rng.integers(1, len(partial) + 1, (tries, 1))
    return rows
