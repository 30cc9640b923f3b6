"""The search for the names and sentences of each class, one group of classes at a time.

Dimensions: C classes, K units of the class that has most, G sets, k classes of a group, E
embedding.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.methods.adapt.proapo.evolution import Archive, Operators, SearchSpace, evolve
from diptych.methods.adapt.proapo.fitness import PromptScorer, Scores, class_embeddings, tolerance
from diptych.methods.adapt.proapo.groups import confused_groups, salient_groups
from diptych.methods.adapt.proapo.units import initial_sets
from diptych.rng import generator

EXCLUDED_SHARE = (
    0.4  # of the classes with the least gain; those that lose fitness are in no confused group
)


class DescriptionSearch:
    """The search for the units of each class, from embeddings of all units.

    `embeddings` (C, K, E) are means over templates, not of unit length. `exists` and `name_only`
    (C, K) are the masks of `unit_masks`. The search starts from the fittest of `initial_sets`. All
    groups of classes share one archive, so each group starts from the result of the one before.
    """

    def __init__(
        self,
        scorer: PromptScorer,
        embeddings: Tensor,
        exists: np.ndarray,
        name_only: np.ndarray,
        seed: int,
    ):
        self.scorer = scorer
        self.embeddings = embeddings
        self.exists = exists
        self.name_only = name_only
        self.rng = generator(seed, "proapo", "descriptions")
        rows = initial_sets(exists, name_only, self.rng)
        fitness = scorer.score(self.class_embeddings(rows)).fitness
        best = [int(fitness.argmax())]
        self.archive = Archive(rows[best].reshape(1, -1), fitness[best])

    @property
    def best(self) -> np.ndarray:
        """The fittest set so far (C, K)."""
        return self.archive.rows[self.archive.best()[0]].reshape(self.exists.shape)

    def class_embeddings(self, rows: np.ndarray, which: np.ndarray | None = None) -> Tensor:
        """The class embeddings of sets (G, C, K) or (G, C · K): (G, C, E), or (G, k, E) of the
        classes `which` (k,)."""
        bits = torch.from_numpy(rows.reshape(-1, *self.exists.shape)).to(self.embeddings.device)
        if which is None:
            return class_embeddings(bits, self.embeddings)
        return class_embeddings(bits[:, which], self.embeddings[which])

    def evolve(
        self,
        group: np.ndarray,
        operators: Operators,
        generations: int,
        callback: Callable[[int], None] = lambda generation: None,
    ) -> None:
        """Search the units of a group of classes (k,); the units of all other classes stay as they
        are."""
        start = self.best
        free = np.zeros_like(self.exists)
        free[group] = start[group] | self._tolerated(start, group)

        def score(rows: np.ndarray, origin: np.ndarray) -> np.ndarray:
            parents, index = np.unique(origin, return_inverse=True)
            before = self.class_embeddings(self.archive.rows[parents])
            which = torch.from_numpy(group).expand(len(rows), -1).to(before.device)
            new = self.class_embeddings(rows, group)
            return self.scorer.score_changes(before, torch.from_numpy(index), which, new).fitness

        owner = np.repeat(np.arange(len(self.exists)), self.exists.shape[1])
        space = SearchSpace(free=free.reshape(-1), start=start.reshape(-1), owner=owner)
        evolve(self.archive, score, space, operators, self.rng, generations, callback)

    def _tolerated(self, start: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Units (k, K) of a group that a set `start` (C, K) lacks, and that cost less top1 than the
        tolerance.

        Each is tried alone, added to the units of its class.
        """
        free = np.zeros_like(self.exists)
        free[group] = self.exists[group] & ~start[group]
        owner, unit = np.nonzero(free)
        if not len(owner):
            return free[group]
        sums = torch.einsum(
            "ck,cke->ce", torch.from_numpy(start).to(self.embeddings), self.embeddings
        )
        extended = normalize(sums[owner] + self.embeddings[owner, unit], dim=1)
        before = self.scorer.score(self.class_embeddings(start[None])).top1[0]
        after = self._score_each(start, owner, extended).top1
        free[owner, unit] = before - after < tolerance(len(self.exists))
        return free[group]

    def _score_each(self, start: np.ndarray, which: np.ndarray, new: Tensor) -> Scores:
        """Return the scores of candidates that each change one class of `start` (C, K): `which`
        (G,), to `new` (G, E)."""
        index = torch.from_numpy(which)[:, None].to(new.device)
        origin = torch.zeros_like(index[:, 0])
        return self.scorer.score_changes(
            self.class_embeddings(start[None]), origin, index, new[:, None]
        )

    def full_list_fitness(self) -> tuple[np.ndarray, float]:
        """Return the fitness with all units of one class (C,), other classes as in the best set,
        and the fitness of the best set."""
        best = self.best
        full = self.class_embeddings(self.exists[None])[0]
        fitness = self._score_each(best, np.arange(len(self.exists)), full).fitness
        baseline = self.scorer.score(self.class_embeddings(best[None])).fitness[0]
        return fitness, float(baseline)

    def salient(self) -> list[np.ndarray]:
        """Return groups of the classes that gain most by their sentences."""
        return salient_groups(*self.full_list_fitness())

    def confused(self) -> list[np.ndarray]:
        """Return groups of confused classes, without the classes whose sentences gain least."""
        fitness, baseline = self.full_list_fitness()
        excluded = np.zeros(len(fitness), bool)
        excluded[np.argsort(fitness, kind="stable")[: int(EXCLUDED_SHARE * len(fitness))]] = True
        excluded &= fitness < baseline
        classes = self.class_embeddings(self.best[None])[0]
        labels = self.scorer.labels.cpu().numpy()
        return confused_groups(self.scorer.logits(classes), labels, classes, excluded, self.rng)
