"""The modality gap: how far images and their texts are separated, and how each modality is spread.

    centroid_distance     | mean_i x_i - mean_i y_i |                    0 to 2; the means are not normalised again
    linear_separability   accuracy of a logistic regression, images against texts; 0.5 no gap, 1 a full one
    matched_cosine        mean_i <x_i, y_i>
    alignment             mean_i |x_i - y_i|²                            2 - 2 · matched_cosine
    uniformity_SIDE       log mean_{i<j} exp(-2 |x_i - x_j|²)            -8 to 0, lower is more even
    cross_uniformity      log mean_{i≠j} exp(-2 |x_i - y_j|²)            over pairs that are no partners
    effective_rank_SIDE   exp of the entropy of the singular values      1 to the width
    covariance_rank_SIDE  rank of the covariance                         up to the width
    wasserstein_SIDE      distance of N(mean, covariance) from N(0, I/E) 0 where points are spread evenly
    isotropy_SIDE         least over greatest partition function         1 where all directions are alike
    mean_cosine_SIDE      mean_{i≠j} <x_i, x_j>                          0 where points are spread evenly, 1 collapsed
    collapse_SIDE         1 - sqrt( sum_j var_j )                        1 where all points are one

SIDE is image or text. With `features` only the measures of one side are computed. All measures
are of unit vectors. For the separability the pairs are split 80
to 20 by a seed, with both members of a pair in the same part.

Sources: Liang et al. 2022 (centroids); Fahim et al. 2024 (separability, uniformity across); Wang
and Isola 2020 (alignment, uniformity); Fang et al. 2024 (Wasserstein distance); Roy and Vetterli
2007 (effective rank); Mu and Viswanath 2018 (isotropy); Ethayarajh 2019 (mean cosine); Chen and He
2021 (collapse).

Dimensions: N pairs, E embedding.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, embed_images, embed_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._features import Features, features_ready, frozen
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.metrics import (
    Array,
    covariance_rank,
    effective_rank,
    isotropy,
    lab,
    spread,
    wasserstein_uniformity,
)
from diptych.objectives.uniformity import alignment, cross_uniformity, uniformity
from diptych.rng import generator

card = {
    "title": "The gap between images and texts, and the spread of each",
    "needs": ["images.main", "texts"],
    "abilities": ["embed_images", "embed_texts"],
    "one_side": "features",
}

FEWEST = 5
"""The number of pairs that a split of 80 to 20 needs."""


def ready(
    model: Any, source: Source, *, role: str | None = None, features: Features | None = None
) -> None:
    """Raise InputError for a role that the source lacks, and for a model that lacks a side."""
    if features is not None:
        features_ready(model, source, features, role)
        return
    if not getattr(model, "reads_texts", True):
        raise InputError(
            f"gap compares images with texts, and {model.name} embeds no texts; give --features embedding or pooled "
            "for the spread of the images alone"
        )
    role_of("gap", source, role)


def gap(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    features: Features | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures of `report` for the images of a source and their first texts of `role`
    (caption, or the first).

    With `features`, return those of `side_report` for these features of the images, or for the
    texts alone ("text"). The first seed splits the pairs for the separability. Also returned: `n`
    pairs, images or texts, `bad` samples by reason, the protocol.
    """
    ready(model, source, role=role, features=features)
    if features is not None:
        return _one_side(model, source, features, role, batch_size, exact, progress)
    role = role_of("gap", source, role)

    def first_text(sample: Sample) -> str:
        return texts_of(sample, role)[0]

    steps = Steps(progress, 2 * len(source))
    images = embed_images(
        model, source, first_text, exact=exact, batch_size=batch_size, steps=steps
    )
    texts = embed_texts(model, images.facts, batch_size=batch_size, steps=steps)
    protocol = protocol_of(
        "gap",
        source,
        model,
        exact=exact,
        field=role,
        rule="unit vectors; the first text of each image; pairs cut 80 to 20",
        options=(f"seed={seeds[0]}",),
    )
    found = report(images.vectors, texts, seed=seeds[0])
    return {"n": len(texts)} | found | {"bad": dict(images.bad)} | describe(protocol, model)


def _one_side(
    model: Any,
    source: Source,
    features: Features,
    role: str | None,
    batch_size: int,
    exact: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    bad: Counter[str] = Counter()
    steps = Steps(progress, len(source))
    vectors, _ = frozen(
        model,
        source,
        lambda sample: 0,
        bad,
        features=features,
        role=role,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    )
    side = "text" if features == "text" else "image"
    protocol = protocol_of(
        "gap",
        source,
        model,
        exact=exact,
        field=role_of("gap", source, role) if side == "text" else "",
        rule="unit vectors of one side",
        options=(f"features={features}",),
    )
    found = side_report(vectors, side)
    return {"n": len(vectors)} | found | {"bad": dict(bad)} | describe(protocol, model)


def report(image_vectors: Array, text_vectors: Array, *, seed: int = 0) -> dict[str, float]:
    """Return all measures of pairs of vectors (N, E), row i with row i; they are normalised first.

    Raises InputError if the shapes differ or there are fewer than five pairs.

    >>> x = torch.nn.functional.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> found = report(x, x)
    >>> found["centroid_distance"], round(found["matched_cosine"], 6), found["linear_separability"]
    (0.0, 1.0, 0.5)
    """
    x, y = (torch.as_tensor(values) for values in (image_vectors, text_vectors))
    if x.dim() != 2 or x.shape != y.shape or len(x) < FEWEST:
        raise InputError(
            f"vectors {tuple(x.shape)} and {tuple(y.shape)} are no {FEWEST} pairs; give two of (N, E)"
        )
    x, y = (normalize(values.detach().double().cpu(), dim=1) for values in (x, y))
    found = {
        "centroid_distance": float((x.mean(0) - y.mean(0)).norm()),
        "linear_separability": linear_separability(x, y, seed=seed),
        "chance_linear_separability": 0.5,
        "matched_cosine": float((x * y).sum(1).mean()),
        "alignment": float(alignment(x, y)),
        "cross_uniformity": float(cross_uniformity(x, y)),
    }
    return found | side_report(x, "image") | side_report(y, "text")


def side_report(vectors: Array, side: str) -> dict[str, float]:
    """Return the measures of one side of vectors (N, D), which are normalised first; `side` ends
    their names.

    Raises InputError for fewer than two vectors.
    """
    x = torch.as_tensor(vectors)
    if x.dim() != 2 or len(x) < 2:
        raise InputError(f"vectors {tuple(x.shape)} have no spread; give two of (N, D) at least")
    x = normalize(x.detach().double().cpu(), dim=1)
    return {
        f"uniformity_{side}": float(uniformity(x)),
        f"effective_rank_{side}": effective_rank(x),
        f"covariance_rank_{side}": float(covariance_rank(x)),
        f"wasserstein_{side}": wasserstein_uniformity(x),
        f"isotropy_{side}": isotropy(x),
        f"mean_cosine_{side}": mean_cosine(x),
        f"collapse_{side}": 1 - spread(x),
    }


def linear_separability(image_vectors: Array, text_vectors: Array, *, seed: int = 0) -> float:
    """Return the accuracy of a logistic regression that separates images from texts (N, E), on a
    fifth of the pairs.

    It is scikit-learn's with the default C of 1, fitted on the other four fifths; both members of a
    pair are in the same part.
    """
    with lab("the separability"):
        from sklearn.linear_model import LogisticRegression
    x = np.asarray(image_vectors)
    y = np.asarray(text_vectors)
    order = generator(seed, "gap", "split").permutation(len(x))
    judged = max(1, round(len(x) / 5))
    learnt = order[judged:]
    judged = order[:judged]
    model = LogisticRegression(max_iter=1000)
    model.fit(np.concatenate([x[learnt], y[learnt]]), np.repeat([0, 1], len(learnt)))
    return float(
        model.score(np.concatenate([x[judged], y[judged]]), np.repeat([0, 1], len(judged)))
    )


def mean_cosine(vectors: Tensor) -> float:
    """Return the mean cosine of the pairs of different rows of unit vectors (N, E), without the N x
    N products.

    ( |sum_i x_i|² - sum_i |x_i|² ) / ( N (N - 1) )
    """
    count = len(vectors)
    return float((vectors.sum(0).square().sum() - vectors.square().sum()) / (count * (count - 1)))
