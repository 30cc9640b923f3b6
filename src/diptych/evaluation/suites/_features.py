"""Frozen features of two sets of images or texts, one to train a probe and one to test it, and how
the sets are chosen.

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
from diptych.evaluation.embed import (
    Steps,
    as_vectors,
    clip_or_image,
    embed_texts,
    read_images,
    read_texts,
)
from diptych.evaluation.protocol import data_of, split_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.linear import HELD_OUT
from diptych.methods.abilities import require
from diptych.rng import generator

Features = Literal["embedding", "projected", "pooled", "text"]
"""What a probe reads: the embedding of an image (unit vectors), the embedding before normalisation,
the pooled output of the image tower before the projection, or the embedding of a text."""

_ABILITY = {
    "embedding": "embed_images",
    "projected": "project_images",
    "pooled": "represent",
    "text": "embed_texts",
}


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
        held_out = round(HELD_OUT * len(source))
        if not held_out:
            raise InputError(
                f"{len(source)} samples of {source.name!r} are too few to learn from and be judged on"
            )
        learned = Wrapped(source, np.sort(order[held_out:]))
        judged = Wrapped(source, np.sort(order[:held_out]))
        return Split(learned, judged, (f"train=the other samples by seed {seed}",))
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


def features_ready(model: Any, source: Source, features: Features, role: str | None = None) -> None:
    """Raise InputError if the model cannot compute these features, or the source lacks what they are
    of: images, or texts of a role."""
    if features not in _ABILITY:
        raise InputError(f"features are {features!r}; they are {', '.join(_ABILITY)}")
    if features == "text":
        role_of("a probe of texts", source, role)
    elif "images.main" not in source.schema():
        raise InputError(
            f"a probe of features={features} needs images.main, which source {source.name!r} does not give; probe its "
            "texts with features=text"
        )
    require(model, _ABILITY[features], "a probe")


def frozen(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    bad: Counter[str],
    *,
    features: Features,
    role: str | None = None,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, D), float32, of the samples that can be used, and their facts (n, …) (see
    `read_images`). Those of texts are of the first text of `role` (caption, or the first)."""
    if features == "text":
        role = role_of("a probe of texts", source, role)
        pairs = read_texts(source, lambda sample: (texts_of(sample, role)[0], facts(sample)), bad)
        steps.add(len(source) - len(pairs))
        texts, kept = zip(*pairs, strict=True)
        vectors = embed_texts(model, texts, batch_size=batch_size, steps=steps)
        return vectors.numpy(), np.asarray(kept)
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


def frozen_tokens(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    bad: Counter[str],
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of the image tower (n, P, D), float32, without CLS and registers, and the
    facts (n, …) of the samples that can be used. Those of a clip are those of all of its frames."""
    found = []
    kept = []
    how = {"images": clip_or_image, "exact": exact, "batch_size": batch_size, "steps": steps}
    for pixels, of_batch in read_images(model, source, facts, bad, **how):
        frames = pixels if pixels.ndim == 4 else pixels.flatten(0, 1)
        encoded = model.represent(frames, batch_size=batch_size)
        tokens = encoded.tokens[:, encoded.prefix :]
        found.append(tokens.reshape(len(pixels), -1, tokens.shape[2]))
        kept += of_batch
    return torch.cat(found).numpy(), np.asarray(kept)
