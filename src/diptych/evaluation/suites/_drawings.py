"""Drawings of visual texts against drawings of others: whether a model that draws shows what a text
says.

    likeness(t) = mean over the drawings x of t of <x, t>
    lift(t)     = likeness(t) - mean over the drawings x of other texts of its kind of <x, t>
    alike(t)    = mean over pairs of drawings x, x' of t of <x, x'>

Vectors are those of a model that embeds, the judge. Some texts are near all images; `lift` is free
of that. `gap` is the mean of the visual texts minus that of the others, with its 95 % interval by
Welch's t.

Dimensions: N texts, K drawings of each, E embedding.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError
from diptych.evaluation.embed import Steps, as_vectors, embed_texts
from diptych.methods.abilities import require
from diptych.metrics import lab


def check_drawer(drawer: Any, draws: int) -> None:
    """Raise InputError for a model that draws no text, and for fewer than one drawing."""
    require(drawer, "draw", "the drawer of visualness")
    if draws < 1:
        raise InputError(f"{draws} drawings of a text are none; draw 1 at least")


def drawn(
    judge: Any,
    drawer: Any,
    texts: Sequence[str],
    visual: np.ndarray,
    *,
    draws: int,
    seed: int,
    batch_size: int,
    steps: Steps,
) -> dict[str, dict[str, float]]:
    """Draw every text `draws` times, each with noise of its own, and return the `report`."""
    vectors = embed_texts(judge, texts, batch_size=batch_size, steps=steps)
    images = []
    for number, text in enumerate(texts):
        pictures = drawer.draw(text, draws, seed=seed + number)
        images.append(as_vectors(judge.embed_images(pictures, batch_size=batch_size)))
        steps.add(1)
    return report(torch.stack(images), vectors, visual)


def report(images: Tensor, texts: Tensor, visual: np.ndarray) -> dict[str, dict[str, float]]:
    """Return `likeness`, `lift` and `alike` of unit vectors of drawings (N, K, E) and texts (N, E), of
    which `visual` (N,) are visual: the mean of each kind, and their `gap` with its interval.

    `lift` needs two texts of each kind, `alike` two drawings of a text.

    >>> x = torch.eye(4)
    >>> found = report(x[[0, 1, 2, 2], None], x, np.array([1, 1, 0, 0]))
    >>> found["likeness"]["visual"], found["likeness"]["other"], found["lift"]["other"]
    (1.0, 0.5, 0.0)
    """
    visual = np.asarray(visual, bool)
    images = images.double()
    texts = texts.double()
    K = images.shape[1]
    own = (images * texts[:, None]).sum(2).mean(1).numpy()
    found = {"likeness": own}
    others = np.full(len(own), math.nan)
    means = images.mean(1)
    for kind in (visual, ~visual):
        count = int(kind.sum())
        if count > 1:
            whole = (texts[kind] @ means[kind].sum(0)).numpy()
            others[kind] = (whole - own[kind]) / (count - 1)
    if not np.isnan(others).any():
        found["lift"] = own - others
    if K > 1:
        itself = (images**2).sum((1, 2))
        found["alike"] = ((images.sum(1) ** 2).sum(1) - itself).numpy() / (K * (K - 1))
    return {name: difference(values[visual], values[~visual]) for name, values in found.items()}


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return the means of `visual` (n,) and `other` (m,), their `gap`, and its 95 % interval `low` to
    `high`, NaN for fewer than two of a kind. Source: Welch 1947.

    >>> {name: round(value, 2) for name, value in difference(np.array([3.0, 4, 5]), np.array([1.0, 2])).items()}
    {'visual': 4.0, 'other': 1.5, 'gap': 2.5, 'low': 0.01, 'high': 4.99}
    """
    gap = float(a.mean() - b.mean())
    found = {"visual": float(a.mean()), "other": float(b.mean()), "gap": gap}
    if min(len(a), len(b)) < 2:
        return found | {"low": math.nan, "high": math.nan}
    with lab("visualness"):
        from scipy import stats
    own = a.var(ddof=1) / len(a)
    other = b.var(ddof=1) / len(b)
    width = 0.0
    if own + other > 0:
        degrees = (own + other) ** 2 / (own**2 / (len(a) - 1) + other**2 / (len(b) - 1))
        width = float(stats.t.ppf(0.975, degrees)) * math.sqrt(own + other)
    return found | {"low": gap - width, "high": gap + width}
