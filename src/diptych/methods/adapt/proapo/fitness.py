"""How well sets of prompts classify a few labelled pictures, from features alone.

    F = w1 top1 + w5 top5 + w_r R - w_ce CE,        R = || triu(T Tᵀ - I) ||

top1 and top5 in per cent, CE the mean cross-entropy, T (C, E) the classes. With w1 = 0.5 and w_ce = 10 this is
50 (Acc + 0.2 H), H = -CE: the paper's Acc + alpha H. One picture a class makes top1 tie a thousand times over; CE tells
such sets apart. R is of the published code, and its sign too: it rewards classes that are alike.

Dimensions: G candidates, N pictures, C classes, E embedding; k classes that a candidate changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

_LOGITS = 2**24  # that are held at once


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of the fitness."""

    top1: float = 0.5
    top5: float = 0.0
    alike: float = 0.0
    entropy: float = 10.0


class Scores(NamedTuple):
    """The fitness of candidates (G,), and their top1 (G,) in per cent."""

    fitness: np.ndarray
    top1: np.ndarray

    @classmethod
    def joined(cls, parts: Iterator["Scores"]) -> "Scores":
        """All parts, one after the other."""
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def fitness(logits: Tensor, labels: Tensor, classes: Tensor | None = None, weights: Weights = Weights()) -> Scores:
    """The scores of candidates from logits (G, N, C), labels (N,) and, where their likeness counts, classes (G, C, E).

    A right class that ties with another does not count as first.

    >>> logits = torch.tensor([[[2.0, 0, 0], [0.5, 1, 0], [0, 0, 1]]])
    >>> fitness(logits, torch.arange(3)).fitness.round(4)
    array([45.0958])
    """
    right = logits.gather(2, labels[None, :, None].expand(len(logits), -1, 1))
    rank = (logits >= right).sum(2).cpu()  # float64, which follows, is not on every device
    top1, top5 = (100 * (rank <= k).double().mean(1) for k in (1, 5))
    entropy = (logits.logsumexp(2) - right[..., 0]).cpu().double().mean(1)
    found = weights.top1 * top1 + weights.top5 * top5 - weights.entropy * entropy
    if weights.alike:
        assert classes is not None, "likeness is that of the classes"
        found = found + weights.alike * likeness(classes).cpu().double()
    return Scores(found.numpy(), top1.numpy())


def likeness(classes: Tensor) -> Tensor:
    """R (…,) of unit vectors (…, C, E): the norm of the cosines of all pairs, and of what the squares are off one.

    >>> likeness(normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=1))
    tensor(0.7071)
    """
    gram = classes @ classes.mT - torch.eye(classes.shape[-2], device=classes.device)
    return gram.triu().flatten(-2).norm(dim=-1)


def tolerance(classes: int) -> float:
    """How many points of top1 a prompt may cost and stay in the library: the pictures of two classes.

    >>> round(tolerance(47), 6), round(tolerance(10), 6)
    (4.355319, 20.1)
    """
    return 200 / classes + 0.1


def directions(rows: Tensor, units: Tensor) -> Tensor:
    """The classes (G, C, E) of sets of units: rows (G, C, K) tell which of the K units (C, K, E) of each class, or
    (G, K) the same of all."""
    how = "gk,cke->gce" if rows.dim() == 2 else "gck,cke->gce"
    return normalize(torch.einsum(how, rows.to(units.dtype), units), dim=-1)


class Judge:
    """Scores candidates against pictures (N, E), unit, with labels (N,): logits are `scale` times cosines."""

    def __init__(self, images: Tensor, labels: Tensor, scale: float, weights: Weights):
        self.images, self.labels, self.scale, self.weights = images, labels, scale, weights

    def logits(self, classes: Tensor) -> Tensor:
        """Classes (…, C, E) -> (…, N, C)."""
        return self.scale * self.images @ classes.mT

    def whole(self, classes: Tensor) -> Scores:
        """The scores of candidates (G, C, E)."""
        return Scores.joined(
            fitness(self.logits(part), self.labels, part, self.weights) for part in classes.split(self._tile(classes))
        )

    def changed(self, before: Tensor, origin: Tensor, which: Tensor, classes: Tensor) -> Scores:
        """The scores of candidates that differ from one of `before` (P, C, E), by its number `origin` (G,), in the
        classes numbered `which` (G, k), now `classes` (G, k, E). The other classes' logits are computed once."""
        known = self.logits(before)

        def parts() -> Iterator[Scores]:
            tile = self._tile(before)
            for at, where, new in zip(origin.split(tile), which.split(tile), classes.split(tile), strict=True):
                columns = where[:, None].expand(-1, len(self.images), -1)
                logits = known[at].scatter(2, columns, self.logits(new))
                whole = None
                if self.weights.alike:
                    whole = before[at].scatter(1, where[..., None].expand_as(new), new)
                yield fitness(logits, self.labels, whole, self.weights)

        return Scores.joined(parts())

    def _tile(self, classes: Tensor) -> int:
        return max(1, _LOGITS // (len(self.images) * classes.shape[-2]))
