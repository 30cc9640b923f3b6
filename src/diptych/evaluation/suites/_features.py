"""Frozen features of two sets of images, one to train a probe and one to test it, and how the sets
are chosen.

Without a training source, one source is split by a seed: a fifth of its samples is the test set.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from diptych.data.sample import Sample, Source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation.embed import Steps, as_vectors, read_images
from diptych.evaluation.protocol import data_of, split_of
from diptych.linear import KEPT
from diptych.methods.abilities import require
from diptych.rng import generator

Features = Literal["embedding", "projected", "pooled"]
"""What a probe reads: the embedding (unit vectors), the embedding before normalisation, or the
pooled output of the image tower before the projection."""

_ABILITY = {"embedding": "embed_images", "projected": "project_images", "pooled": "represent"}


@dataclass(frozen=True)
class Split:
    """The training and test samples of a probe; `options` describe them in the protocol."""

    train: Source
    test: Source
    options: tuple[str, ...]


def split(source: Source, train: Source | str | None, seed: int) -> Split:
    """Return the training and test sets: `train` and `source`, or by `seed` four fifths and a fifth
    of `source`.

    `train` may be a source's spec. Raises InputError if it has no sample, or `source` has too few.
    """
    if train is None:
        order = generator(seed, "evaluation", "split").permutation(len(source))
        kept = round(KEPT * len(source))
        if not kept:
            raise InputError(
                f"{len(source)} samples of {source.name!r} are too few to learn from and be judged on"
            )
        learnt = Wrapped(source, np.sort(order[kept:]))
        judged = Wrapped(source, np.sort(order[:kept]))
        return Split(learnt, judged, (f"train=the other samples by seed {seed}",))
    train = opened(train)
    if not len(train):
        raise InputError(f"source {train.name!r} is empty; a probe has nothing to learn from")
    return Split(train, source, (f"train={data_of(train)} {split_of(train.keys())}",))


def opened(source: Source | str) -> Source:
    """Return a source, opened if its spec is given."""
    if not isinstance(source, str):
        return source
    from diptych.data.sources import open_source

    return open_source(source)


def features_ready(model: Any, features: Features) -> None:
    """Raise InputError if the model cannot compute these features."""
    if features not in _ABILITY:
        raise InputError(f"features are {features!r}; they are {', '.join(_ABILITY)}")
    require(model, _ABILITY[features], "a probe")


def frozen(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    bad: Counter[str],
    *,
    features: Features,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, D), float32, of the samples that can be used, and their facts (n, …) (see
    `read_images`)."""
    found = []
    kept = []
    for pixels, of_batch in read_images(
        model, source, facts, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        vectors = getattr(model, _ABILITY[features])(pixels, batch_size=batch_size)
        if features == "pooled":
            vectors = vectors.pooled.flatten(1)
        found.append(as_vectors(vectors))
        kept += of_batch
    return torch.cat(found).numpy(), np.asarray(kept)
