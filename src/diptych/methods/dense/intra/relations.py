"""Which verbs touch the same part, other words for verbs, and the loss that reads them.

Dimensions: V verbs, M embeddings, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data import descriptions
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer
from diptych.dtypes import at_least_float32
from diptych.errors import InputError, unknown
from diptych.objectives.core import off_diagonal, pair_losses


def related_contrast(
    z: Tensor, labels: Tensor, related: Tensor, tau: float, *, tile: int | None = None
) -> Tensor:
    """The contrast of embeddings whose labels are related.

        L = mean_i -1/(n_i - 1) Σ_{j≠i} R(y_i, y_j) log [ exp(z_i·z_j/τ) / Σ_{k≠i} exp(z_i·z_k/τ) ]

    z (M, D) are unit vectors, labels (M,) long, R = `related` (V, V) of 0 and 1 with a diagonal of 1. n_i
    are the embeddings with the label of i: those of related labels do not count, though the sum is
    over them too. With R the identity it is the supervised contrastive loss. An embedding with the
    label -1 adds nothing to the mean.

    >>> z = torch.tensor([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8]])
    >>> y = torch.tensor([0, 0, 1, 1])
    >>> [round(related_contrast(z, y, R, 0.2).item(), 4) for R in (torch.eye(2), torch.ones(2, 2))]
    [0.1728, 8.5184]
    """
    known = labels >= 0
    named = labels.clamp(min=0)
    weights = at_least_float32(related.to(z))[named][:, named]
    weights = weights * known[:, None] * known
    weights = weights.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), 0.0)
    others = ((named[:, None] == named) & known[:, None] & known).sum(1) - 1
    targets = weights / others.clamp(min=1)[:, None]
    rows = pair_losses(z, z, 1 / tau, targets=targets, allowed=off_diagonal(z.device), tile=tile)
    return rows.loss.sum() / len(z)


def relation_table(names: Sequence[str], path: str | None) -> Tensor:
    """R (V, V): 1 where two verbs touch the same part.

    The file has for each verb the others that do, {"hold": ["carry"], …}; one direction is enough, and
    every verb is related to itself. Without a file that is all. Raises InputError for a verb that
    is none of `names`.
    """
    table = torch.eye(len(names))
    place = {descriptions.normal(name): at for at, name in enumerate(names)}

    def number(verb: str) -> int:
        if descriptions.normal(verb) not in place:
            raise unknown(f"verb of {path}", verb, list(names))
        return place[descriptions.normal(verb)]

    given: Mapping[str, Sequence[str]] = {} if path is None else descriptions.read(path)
    for verb, others in given.items():
        for other in others:
            a = number(verb)
            b = number(other)
            table[a, b] = table[b, a] = 1.0
    return table


def synonym_lists(names: Sequence[str], path: str | None) -> list[tuple[str, ...]]:
    """Other words for each verb, from a file {"hold": ["grasp", …], …}; none without a file.

    Raises InputError for a verb that is none of `names`, and for a synonym that is one.
    """
    if path is None:
        return [()] * len(names)
    given = descriptions.read(path)
    known = {descriptions.normal(name) for name in names}
    for verb, words in given.items():
        if verb not in known:
            raise unknown(f"verb of {path}", verb, list(names))
        for word in words:
            if descriptions.normal(word) in known:
                raise InputError(
                    f"{path}: the synonym {word!r} of {verb!r} is a verb of its own; put another word in its place"
                )
    return [given.get(descriptions.normal(name), ()) for name in names]


@dataclass(frozen=True, kw_only=True)
class VerbView:
    """The name of a label as token ids (B, 1, L); in training a random synonym in its place with
    probability `swap`, where it has some. A missing label raises BadSample("no-label")."""

    label: str
    names: Sequence[str]
    synonyms: Sequence[Sequence[str]]
    swap: float
    tokenizer: Tokenizer

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return ("texts.main",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        number = sample.labels.get(self.label, -1)
        if number < 0:
            raise BadSample("no-label", f"no label {self.label!r}")
        text = self.names[int(number)]
        words = self.synonyms[int(number)]
        if progress is not None and words and rng.random() < self.swap:
            text = words[int(rng.integers(len(words)))]
        return {"texts.main": self.tokenizer.encode([text])}
