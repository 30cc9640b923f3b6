"""Two-stage ranking: embeddings select the first k of each query, and a `match` ability reorders
them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample, Source
from diptych.evaluation.embed import Steps, as_vectors, read_images


@dataclass(frozen=True)
class Matched:
    """Scores of some of the n x m pairs: `pairs` (P,) are sorted numbers image · m + text, `scores`
    (P,) their scores."""

    pairs: np.ndarray
    scores: np.ndarray
    texts: int

    def __call__(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Return the scores of existing pairs; the two arrays are broadcast."""
        return self.scores[np.searchsorted(self.pairs, images * self.texts + texts)]


def match_some(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    texts: Sequence[str],
    of_images: np.ndarray,
    of_texts: np.ndarray,
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Matched:
    """Score with `model.match` each image with its texts `of_images` (n, k), and each text with its
    images `of_texts` (m, k).

    Each image is read once, for all texts of both directions. `facts` is the function that selected
    the images, so that the same ones are left out again.
    """
    n = len(of_images)
    m = len(of_texts)
    forward = np.arange(n)[:, None] * m + of_images
    backward = of_texts * m + np.arange(m)[:, None]
    pairs = np.unique(np.concatenate([forward.ravel(), backward.ravel()]))
    steps.total += len(source) + len(pairs)
    scores = []
    done = 0
    for pixels, kept in read_images(
        model, source, facts, Counter(), exact=exact, batch_size=batch_size, steps=steps
    ):
        begin, end = np.searchsorted(pairs, (done * m, (done + len(kept)) * m))
        for start in range(begin, end, batch_size):
            image, text = np.divmod(pairs[start : min(start + batch_size, end)], m)
            asked = [texts[at] for at in text]
            scores.append(
                as_vectors(model.match(pixels[image - done], asked, batch_size=batch_size))
            )
            steps.add(len(asked))
        done += len(kept)
    return Matched(pairs, torch.cat(scores).numpy(), m)
