"""Frozen features of two sets of images, those a probe learns from and those it is judged on, and
how it is chosen.

Without a source to learn from, one source is cut in two by a seed: a fifth of its samples is for
judging.
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
from diptych.evaluation import able
from diptych.evaluation.embed import Steps, as_vectors, read_images
from diptych.evaluation.protocol import data_of, split_of
from diptych.linear import KEPT
from diptych.rng import generator

Features = Literal["embedding", "projected", "pooled"]
"""What a probe reads: the embedding (unit vectors), the same with its own length, or what the image
tower pools before the projection."""

_ABILITY = {"embedding": "embed_images", "projected": "project_images", "pooled": "represent"}


@dataclass(frozen=True)
class Split:
    """Which samples of a source are learnt from and which are judged on, in words for the
    protocol."""

    train: Source
    test: Source
    options: tuple[str, ...]


def split(source: Source, train: Source | str | None, seed: int) -> Split:
    """What to learn from and what to judge on: `train` and `source`, or by `seed` four fifths and a
    fifth of `source`.

    `train` may be a source's spec. Raises InputError where it has no sample, or `source` has too
    few.
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
    """A source, or the one of a spec."""
    if not isinstance(source, str):
        return source
    from diptych.data.sources import open_source

    return open_source(source)


def features_ready(model: Any, features: Features) -> None:
    """Raises InputError where the model cannot give such features."""
    if features not in _ABILITY:
        raise InputError(f"features are {features!r}; they are {', '.join(_ABILITY)}")
    able("a probe", model, _ABILITY[features])


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
    """Features (n, D), float32, of the samples that can be used, and their facts (n, …) (see
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
