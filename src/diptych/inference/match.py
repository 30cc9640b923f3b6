"""How well each text of a source fits its image, by a model that has `match`."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.sample import Source, lost_samples
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
    bad = lost_samples(source)
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
        scores = as_vectors(model.match(pixels[owner], asked, batch_size=batch_size))
        odds = hasattr(model, "match_logits")  # the scores are log-odds
        shares = scores.sigmoid().tolist() if odds else [None] * len(asked)
        found += map(Pair, keys, asked, scores.tolist(), shares)
    return found, bad
