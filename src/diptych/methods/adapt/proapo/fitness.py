"""The fitness of prompt sets: how well they classify a few labelled images, computed from features.

    F = w1 top1 + w5 top5 + w_r R - w_ce CE,        R = || triu(T Tᵀ - I) ||

top1 and top5 are in per cent, CE is the mean cross-entropy, T (C, E) the class embeddings. With w1
= 0.5 and w_ce = 10 this is 50 (Acc + 0.2 H), H = -CE: the paper's Acc + alpha H. With one image a
class, many sets have the same top1, and CE ranks them. R is from the published code, and so is its
sign: it rewards classes that are similar to each other.

Dimensions: G candidates, N images, C classes, K units of a class, E embedding; P sets that
candidates were made from, k classes that a candidate changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

_MAX_LOGITS = 2**24  # in memory at once


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights w1, w5, w_r and w_ce of the fitness."""

    top1: float = 0.5
    top5: float = 0.0
    similarity: float = 0.0
    cross_entropy: float = 10.0


class Scores(NamedTuple):
    """The fitness of candidates (G,), and their top1 (G,) in per cent."""

    fitness: np.ndarray
    top1: np.ndarray

    @classmethod
    def concatenate(cls, parts: Iterable["Scores"]) -> "Scores":
        """The scores of all parts, in order."""
        return cls(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def fitness(
    logits: Tensor, labels: Tensor, classes: Tensor | None = None, weights: Weights = Weights()
) -> Scores:
    """The scores of candidates from logits (G, N, C) and labels (N,).

    The class embeddings `classes` (G, C, E) are needed where `weights.similarity` is not 0. A label
    whose logit equals another class's does not count as top1.

    >>> logits = torch.tensor([[[2.0, 0, 0], [0.5, 1, 0], [0, 0, 1]]])
    >>> fitness(logits, torch.arange(3)).fitness.round(4)
    array([45.0958])
    """
    target = logits.gather(2, labels[None, :, None].expand(len(logits), -1, 1))
    rank = (logits >= target).sum(2).cpu()  # not every device has float64, which follows
    top1 = 100 * (rank <= 1).double().mean(1)
    top5 = 100 * (rank <= 5).double().mean(1)
    cross_entropy = (logits.logsumexp(2) - target[..., 0]).cpu().double().mean(1)
    total = weights.top1 * top1 + weights.top5 * top5 - weights.cross_entropy * cross_entropy
    if weights.similarity:
        assert classes is not None, "R is computed from the class embeddings"
        total = total + weights.similarity * class_similarity(classes).cpu().double()
    return Scores(total.numpy(), top1.numpy())


def class_similarity(classes: Tensor) -> Tensor:
    """R (…,) of unit vectors (…, C, E): the norm of the upper triangle of their Gram matrix less
    the identity.

    >>> class_similarity(normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=1))
    tensor(0.7071)
    """
    gram = classes @ classes.mT - torch.eye(classes.shape[-2], device=classes.device)
    return gram.triu().flatten(-2).norm(dim=-1)


def tolerance(classes: int) -> float:
    """The loss of top1, in points, at which a prompt leaves the library: that of two classes, with
    one image each.

    >>> round(tolerance(47), 6), round(tolerance(10), 6)
    (4.355319, 20.1)
    """
    return 200 / classes + 0.1


def class_embeddings(rows: Tensor, units: Tensor) -> Tensor:
    """The class embeddings (G, C, E), unit vectors, of sets of units (C, K, E).

    `rows` are bits: (G, C, K), or (G, K) where all classes have the same set.
    """
    equation = "gk,cke->gce" if rows.dim() == 2 else "gck,cke->gce"
    return normalize(torch.einsum(equation, rows.to(units.dtype), units), dim=-1)


class PromptScorer:
    """Scores candidates on image features (N, E), unit vectors, with labels (N,)."""

    def __init__(self, images: Tensor, labels: Tensor, logit_scale: float, weights: Weights):
        self.images = images
        self.labels = labels
        self.logit_scale = logit_scale
        self.weights = weights

    def logits(self, classes: Tensor) -> Tensor:
        """Class embeddings (…, C, E) -> logits (…, N, C)."""
        return self.logit_scale * self.images @ classes.mT

    def score(self, classes: Tensor) -> Scores:
        """The scores of candidates by their class embeddings (G, C, E)."""
        return Scores.concatenate(
            fitness(self.logits(tile), self.labels, tile, self.weights)
            for tile in classes.split(self._tile(classes))
        )

    def score_changes(
        self, before: Tensor, origin: Tensor, which: Tensor, classes: Tensor
    ) -> Scores:
        """The scores of candidates that each change some classes of a known set.

        Candidate g is set `origin[g]` of `before` (P, C, E), with classes `which[g]` of (G, k)
        replaced by `classes[g]` of (G, k, E). The logits of `before` are computed once.
        """
        known = self.logits(before)

        def tiles() -> Iterator[Scores]:
            size = self._tile(before)
            for parent, index, new in zip(
                origin.split(size), which.split(size), classes.split(size), strict=True
            ):
                columns = index[:, None].expand(-1, len(self.images), -1)
                logits = known[parent].scatter(2, columns, self.logits(new))
                candidates = None
                if self.weights.similarity:
                    candidates = before[parent].scatter(1, index[..., None].expand_as(new), new)
                yield fitness(logits, self.labels, candidates, self.weights)

        return Scores.concatenate(tiles())

    def _tile(self, classes: Tensor) -> int:
        """How many candidates are scored at once."""
        return max(1, _MAX_LOGITS // (len(self.images) * classes.shape[-2]))
