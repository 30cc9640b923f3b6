"""Evolution of sets: a search for the subset of a library that scores best, without gradients.

A set is a row of U bits. Of the best sets of a record, its parents, a generation has as many new sets as asked by

    add, remove, replace    an element of a parent: in, out, one for another
    mutate                  random elements, more of them in later generations, joined to a start
    cross                   what all parents hold, and at random some of what only some of them hold

No set is scored twice and none is forgotten, so the best never gets worse. Source: Qu et al. 2025 (ProAPO), from code.

Dimensions: G sets, U elements of the library.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TRIES = 64  # draws beyond the number of children asked; then an operator gives those it has found
_LEAST = 2  # elements that `remove` leaves
_RARE = 1e-4  # added to counts, so that no element that some parent holds is out of reach


@dataclass(frozen=True, kw_only=True)
class Operators:
    """How many parents there are, and how many new sets each operator gives: the first three for each parent."""

    parents: int = 4
    add: int = 8
    remove: int = 8
    replace: int = 8
    mutate: int = 8
    cross: int = 16


class Record:
    """Every set that was scored, in order, and its fitness.

    >>> record = Record(np.eye(3, dtype=bool), np.array([1.0, 3.0, 2.0]))
    >>> record.best(2)
    array([1, 2])
    """

    def __init__(self, rows: np.ndarray, fitness: np.ndarray):
        self.rows, self.fitness = rows[:0], fitness[:0]
        self._known: set[bytes] = set()
        self.add(self.new(rows, len(rows)), fitness)

    def new(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Those of rows (G, U) that never came here, each once, at most so many; from now on they are known."""
        kept = []
        for at, key in enumerate(np.packbits(rows, axis=1)):
            if len(kept) == most:
                break
            if key.tobytes() not in self._known:
                self._known.add(key.tobytes())
                kept.append(at)
        return rows[kept]

    def add(self, rows: np.ndarray, fitness: np.ndarray) -> None:
        """Take sets (G, U) that `new` gave, with their fitness (G,)."""
        assert len(rows) == len(fitness), "a set came twice"
        self.rows = np.concatenate([self.rows, rows])
        self.fitness = np.concatenate([self.fitness, fitness])

    def best(self, count: int = 1) -> np.ndarray:
        """Where the fittest sets stand, the fittest first; of equal ones the earlier."""
        return np.argsort(-self.fitness, kind="stable")[:count]


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where sets may differ: `free` (U,) tells the elements that come and go, the others stay as a parent has them;
    `start` (U,) is what mutation adds to. Of the elements of one `owner` (U,) a set holds one at least."""

    free: np.ndarray
    start: np.ndarray
    owner: np.ndarray

    def alive(self, rows: np.ndarray) -> np.ndarray:
        """Which of the rows (G, U) leave no owner without an element (G,)."""
        owners = np.unique(self.owner[self.free])
        mine = np.flatnonzero(np.isin(self.owner, owners))
        member = self.owner[mine][:, None] == owners
        return (rows[:, mine].astype(np.float32) @ member.astype(np.float32) > 0).all(1)


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`score(rows, origin) -> fitness`: sets (G, U), and (G,) where in the record each stands that it was changed from."""


def evolve(
    record: Record,
    score: Score,
    room: Room,
    operators: Operators,
    rng: np.random.Generator,
    generations: int,
    tell: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """The best set (U,) after so many generations, which the record takes in; `tell(step)` is called after each."""
    for step in range(generations):
        rows, origin = children(record, room, operators, rng, step)
        if len(rows):
            record.add(rows, score(rows, origin))
        tell(step)
    return record.rows[record.best()[0]]


def children(
    record: Record, room: Room, operators: Operators, rng: np.random.Generator, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """A generation's new sets (G, U), and where in the record each one's parent stands; for mutation and crossover, the
    best one of all, which they are like outside `free`."""
    best = record.best(operators.parents)
    lot = np.concatenate([best, rng.choice(best, operators.parents - len(best))])
    changes = ((added, operators.add), (removed, operators.remove), (replaced, operators.replace))
    rows, origin = [], []

    def take(found: np.ndarray, count: int, parent: int) -> None:
        rows.append(record.new(found[room.alive(found)], count))
        origin.append(np.full(len(rows[-1]), parent))

    for parent in lot:
        row = record.rows[parent]
        if row[room.free].all():
            continue
        for change, count in changes:
            if count:
                take(change(row, room.free, rng, count + TRIES), count, parent)
    like = record.rows[best[0]]
    if operators.mutate:
        start = np.where(room.free, room.start, like)
        take(mutated(start, room.free, rng, operators.mutate + TRIES, 2 + step), operators.mutate, best[0])
    if operators.cross:
        take(crossed(record.rows[lot], like, room.free, rng, operators.cross + TRIES), operators.cross, best[0])
    return np.concatenate(rows), np.concatenate(origin)


def added(row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int) -> np.ndarray:
    """`row` (U,) with one free element more (tries, U); no rows where it holds all."""
    absent = np.flatnonzero(free & ~row)
    return _turned(row, rng.choice(absent, tries)) if len(absent) else row[None][:0]


def removed(row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int) -> np.ndarray:
    """`row` (U,) with one free element less (tries, U); no rows where that would leave fewer than two of them."""
    present = np.flatnonzero(free & row)
    return _turned(row, rng.choice(present, tries)) if len(present) > _LEAST else row[None][:0]


def replaced(row: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int) -> np.ndarray:
    """`row` (U,) with one free element in another's place (tries, U); no rows where there are none to change."""
    absent, present = np.flatnonzero(free & ~row), np.flatnonzero(free & row)
    if not (len(absent) and len(present)):
        return row[None][:0]
    return _turned(row, rng.choice(absent, tries), rng.choice(present, tries))


def _turned(row: np.ndarray, *places: np.ndarray) -> np.ndarray:
    """Copies of a row, each with a bit turned at a place of each list."""
    rows = np.repeat(row[None], len(places[0]), 0)
    for each in places:
        rows[np.arange(len(rows)), each] ^= True
    return rows


def mutated(start: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int, size: int) -> np.ndarray:
    """`start` (U,) and `size` random free elements that it has not, or all there are (tries, U)."""
    absent = np.flatnonzero(free & ~start)
    order = rng.random((tries, len(absent))).argsort(1)[:, :size]
    rows = np.repeat(start[None], tries, 0)
    np.put_along_axis(rows, absent[order], True, 1)
    return rows


def crossed(
    parents: np.ndarray, like: np.ndarray, free: np.ndarray, rng: np.random.Generator, tries: int
) -> np.ndarray:
    """Sets (tries, U) with what all `parents` (P, U) hold of the free elements, and a random number of those that some
    hold, each the likelier the more hold it; outside `free` they are as `like` (U,). No rows where fewer than two
    elements are held by some alone."""
    count = parents.sum(0)
    some = np.flatnonzero(free & (count > 0) & (count < len(parents)))
    if len(some) < 2:
        return like[None][:0]
    keys = np.log(count[some] + _RARE) + rng.gumbel(size=(tries, len(some)))  # the greatest are a draw by weight
    place = (-keys).argsort(1).argsort(1)
    rows = np.repeat(np.where(free, count == len(parents), like)[None], tries, 0)
    rows[:, some] = place < rng.integers(1, len(some) + 1, (tries, 1))
    return rows
