"""The search for what tells each class: names and sentences, group by group of classes.

Dimensions: C classes, K units of the class that has most, G sets, k classes of a group, E embedding.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.methods.adapt.proapo.evolution import Operators, Record, Room, evolve
from diptych.methods.adapt.proapo.fitness import Judge, Scores, directions, tolerance
from diptych.methods.adapt.proapo.groups import confused_groups, salient_groups
from diptych.methods.adapt.proapo.units import starts
from diptych.rng import generator

PASSED_OVER = (
    0.4  # the share of classes whose units help least, which are in no group by confusion if they cost fitness
)


class Descriptions:
    """The search for each class's units (C, K), whose vectors (C, K, E) are not of unit length: means over templates.

    It begins from the fittest of `starts`, and keeps one record for all groups of classes, so that what one group has
    found is where the next goes on.
    """

    def __init__(self, judge: Judge, vectors: Tensor, there: np.ndarray, named: np.ndarray, seed: int):
        self.judge, self.vectors, self.there, self.named = judge, vectors, there, named
        self.rng = generator(seed, "proapo", "descriptions")
        rows = starts(there, named, self.rng)
        fitness = judge.whole(self.classes(rows)).fitness
        first = [int(fitness.argmax())]
        self.record = Record(rows[first].reshape(1, -1), fitness[first])

    @property
    def best(self) -> np.ndarray:
        """The fittest set of all (C, K)."""
        return self.record.rows[self.record.best()[0]].reshape(self.there.shape)

    def classes(self, rows: np.ndarray, which: np.ndarray | None = None) -> Tensor:
        """Sets (G, C, K), or (G, C · K), as directions (G, C, E), or (G, k, E) of the classes numbered `which` (k,)."""
        bits = torch.from_numpy(rows.reshape(-1, *self.there.shape)).to(self.vectors.device)
        return directions(bits, self.vectors) if which is None else directions(bits[:, which], self.vectors[which])

    def evolve(
        self, group: np.ndarray, operators: Operators, generations: int, tell: Callable[[int], None] = lambda step: None
    ) -> None:
        """Search the units of a group of classes, the others as they are."""
        start = self.best
        free = np.zeros_like(self.there)
        free[group] = start[group] | self._affordable(start, group)

        def score(rows: np.ndarray, origin: np.ndarray) -> np.ndarray:
            parents, at = np.unique(origin, return_inverse=True)
            before = self.classes(self.record.rows[parents])
            which = torch.from_numpy(group).expand(len(rows), -1).to(before.device)
            return self.judge.changed(before, torch.from_numpy(at), which, self.classes(rows, group)).fitness

        owner = np.repeat(np.arange(len(self.there)), self.there.shape[1])
        room = Room(free=free.reshape(-1), start=start.reshape(-1), owner=owner)
        evolve(self.record, score, room, operators, self.rng, generations, tell)

    def _affordable(self, start: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Further units (k, C) of a group's classes that may be added, each alone, without costing too much top1."""
        free = np.zeros_like(self.there)
        free[group] = self.there[group] & ~start[group]
        owner, unit = np.nonzero(free)
        if not len(owner):
            return free[group]
        sums = torch.einsum("ck,cke->ce", torch.from_numpy(start).to(self.vectors), self.vectors)
        more = normalize(sums[owner] + self.vectors[owner, unit], dim=1)
        now = self.judge.whole(self.classes(start[None])).top1[0]
        top1 = self._one_by_one(start, owner, more).top1
        free[owner, unit] = now - top1 < tolerance(len(self.there))
        return free[group]

    def _one_by_one(self, start: np.ndarray, which: np.ndarray, classes: Tensor) -> Scores:
        """The scores of candidates that each change one class of a set (C, K): numbers (G,), new directions (G, E)."""
        at = torch.from_numpy(which)[:, None].to(classes.device)
        return self.judge.changed(self.classes(start[None]), torch.zeros_like(at[:, 0]), at, classes[:, None])

    def alone(self) -> tuple[np.ndarray, float]:
        """The fitness where a class has all its units and the others what is best so far (C,), and that of the best."""
        every, best = np.arange(len(self.there)), self.best
        found = self._one_by_one(best, every, self.classes(self.there[None])[0]).fitness
        return found, float(self.judge.whole(self.classes(best[None])).fitness[0])

    def salient(self) -> list[np.ndarray]:
        """Groups of the classes that gain most by their sentences."""
        return salient_groups(*self.alone())

    def confused(self) -> list[np.ndarray]:
        """Groups of classes that are taken for each other; without those whose sentences help least."""
        found, baseline = self.alone()
        left_out = np.zeros(len(found), bool)
        left_out[np.argsort(found, kind="stable")[: int(PASSED_OVER * len(found))]] = True
        left_out &= found < baseline
        classes = self.classes(self.best[None])[0]
        labels = self.judge.labels.cpu().numpy()
        return confused_groups(self.judge.logits(classes), labels, classes, left_out, self.rng)
