"""How well each text of a source fits its image, by a model that has `match`."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import Source
from diptych.evaluation.embed import Progress, Steps, as_vectors, read_images
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require


@dataclass(frozen=True)
class Pair:
    """An image by its key, one of its texts, the score of the two, and the probability that they belong
    together, of a model that has one."""

    key: str
    text: str
    score: float
    probability: float | None = None


def match_pairs(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs of all images with their texts of a role, and the number of unreadable samples by
    reason.

    The role is caption, or the first that the source has, unless given. Raises InputError for a model
    without `match`, a source without texts, and if no sample can be read.
    """
    require(model, "match", "matching")
    role = role_of("matching", source, role)
    bad: Counter[str] = Counter()
    steps = Steps(progress, len(source))
    found = []
    for pixels, kept in read_images(
        model,
        source,
        lambda sample: (sample.key, texts_of(sample, role)),
        bad,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        owner = np.repeat(np.arange(len(kept)), [len(texts) for _, texts in kept])
        keys = [key for key, texts in kept for _ in texts]
        asked = [text for _, texts in kept for text in texts]
        scores, shares = _scores(model, pixels[owner], asked, batch_size)
        found += map(Pair, keys, asked, scores.tolist(), shares)
    return found, bad


def _scores(
    model: Any, pixels: Tensor, texts: list[str], batch_size: int
) -> tuple[Tensor, list[float | None]]:
    """The scores (N,) of pairs, and their probabilities."""
    if not hasattr(model, "match_logits"):
        scores = as_vectors(model.match(pixels, texts, batch_size=batch_size))
        return scores, [None] * len(texts)
    logits: Tensor = model.match_logits(pixels, texts, batch_size=batch_size)
    return logits[:, 1], torch.softmax(logits, 1)[:, 1].tolist()
