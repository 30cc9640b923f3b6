"""Arithmetic: an image vector minus one word plus another; is the nearest image the one described?

    query = image + strength · (word_target - word_source),      hit: the nearest image is a right one

All vectors have unit length. Labels describe an image: for an image of a red dog, replacing red by
blue asks for a blue dog, replacing dog by cat asks for a red cat. Every image is correct whose
labels equal the query's except for the exchanged one. The gallery is all images, the query's
included, and the images of their edits if samples have some.

    success         exchanges of one word for another have equal weights, whatever their queries
    success_mean    queries have equal weights

Source: Couairon et al. 2022 (SIMAT), as Fahim et al. 2024 use it. Our sources do not give their
weights; equal weights of the exchanges, and the query's image in the gallery, are ours. [choice]

Dimensions: N images, Q queries, E embedding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, embed_images, images_with_edits, label_of
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.metrics import ranks
from diptych.rng import generator

card = {
    "title": "Arithmetic: an image less one word plus another",
    "needs": ["images.main", "labels"],
    "abilities": ["embed_images", "embed_texts"],
}

LABELS = ("object", "colour")
MOST = 20_000
"""The largest number of queries; of more, this many are sampled."""

Exchange = tuple[int, int, int]
"""Number of the label, old value, new value."""


def ready(model: Any, source: Source, *, labels: Sequence[str] = LABELS) -> None:
    """Raise InputError for labels that the source lacks, or whose values have no names."""
    words_of(source, labels)


def arithmetic(
    model: Any,
    source: Source,
    *,
    labels: Sequence[str] = LABELS,
    templates: Sequence[str] = ("{}",),
    strength: float = 1.0,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above, and `by_label`: those of the exchanges of each label's words.

    `labels` together describe an image; their words are the names of their values, in `templates`.
    Every query with a correct image is used, or 20,000 sampled by the first seed. Also returned:
    `n` images, `pairs` of query and exchange, `bad` samples by reason, and the protocol.
    """
    words = words_of(source, labels)
    steps = Steps(progress, len(source) + sum(map(len, words)) * len(templates))

    def known(sample: Sample) -> list[tuple[int, ...]]:
        """The labels of a sample's image and of those of its edits."""
        shown = [sample, *(edit for edit in sample.edits if "main" in edit.images)]
        return [tuple(int(label_of(each, label)) for label in labels) for each in shown]

    read = embed_images(
        model,
        source,
        known,
        images=images_with_edits,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    )
    images = normalize(read.vectors, dim=1)
    facts = [values for of_sample in read.facts for values in of_sample]
    named = [
        class_vectors(model, names, templates, batch_size=batch_size, steps=steps)
        for names in words
    ]

    at, exchanges, right = asked(facts, [len(names) for names in words], MOST, seeds[0])
    if not len(at):
        raise InputError(
            f"no two images of {source.name!r} differ in one of {', '.join(labels)} alone; give more images, or "
            "samples with edits"
        )
    change = torch.stack([named[label][new] - named[label][old] for label, old, new in exchanges])
    found = hits(images, at, change, right, strength=strength)
    results = {"n": len(images), "pairs": len(at), **measures(found, exchanges)}
    results["chance_success"] = weighted(
        np.array([len(items) / len(images) for items in right]), exchanges
    )
    rows = {
        name: [number for number, kind in enumerate(exchanges) if kind[0] == of]
        for of, name in enumerate(labels)
    }
    results["by_label"] = {
        name: measures(found[mine], [exchanges[number] for number in mine])
        for name, mine in rows.items()
        if mine
    }
    protocol = protocol_of(
        "arithmetic",
        source,
        model,
        exact=exact,
        field=",".join(labels),
        prompts=tuple(templates),
        rule="unit vectors; the query's image is in the gallery; each exchange weighs the same; ties lose",
        options=(f"strength={strength:g}", f"max_queries={MOST}", f"seed={seeds[0]}"),
    )
    return results | {"bad": dict(read.bad)} | describe(protocol, model)


def words_of(source: Source, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the words of each label's values. Raises InputError if the source does not name
    them."""
    schema = source.schema()
    named = {
        name.removeprefix("labels."): field.classes
        for name, field in schema.items()
        if field.classes
    }
    for label in labels:
        if label not in named:
            raise unknown(f"label with named values of source {source.name!r}", label, named)
    return [named[label] for label in labels]


def asked(
    facts: Sequence[tuple[int, ...]], sizes: Sequence[int], max_queries: int, seed: int
) -> tuple[np.ndarray, list[Exchange], list[list[int]]]:
    """Return all queries that have an answer: the image's number (Q,), the exchange, the correct
    images.

    `facts` are the labels of each image, `sizes` the numbers of their values. Of more than `max_queries`
    queries, a sample by `seed`.

    >>> at, exchanges, right = asked([(0, 0), (0, 1), (1, 1)], (2, 2), 10, 0)
    >>> list(zip(at.tolist(), exchanges, right))
    [(0, (1, 0, 1), [1]), (1, (0, 0, 1), [2]), (1, (1, 1, 0), [0]), (2, (0, 1, 0), [1])]
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, values in enumerate(facts):
        alike.setdefault(values, []).append(number)
    answers: dict[tuple[int, ...], list[tuple[Exchange, list[int]]]] = {}
    for values in alike:
        answers[values] = [
            ((label, values[label], new), alike[wanted])
            for label, size in enumerate(sizes)
            for new in range(size)
            if new != values[label]
            and (wanted := (*values[:label], new, *values[label + 1 :])) in alike
        ]
    queries = [
        (number, *answer) for number, values in enumerate(facts) for answer in answers[values]
    ]
    if len(queries) > max_queries:
        chosen = generator(seed, "arithmetic").choice(len(queries), max_queries, replace=False)
        queries = [queries[number] for number in np.sort(chosen)]
    at = np.array([number for number, _, _ in queries], dtype=np.int64)
    return at, [exchange for _, exchange, _ in queries], [right for _, _, right in queries]


def hits(
    images: Tensor,
    at: np.ndarray,
    change: Tensor,
    right: Sequence[Sequence[int]],
    *,
    strength: float = 1.0,
) -> np.ndarray:
    """Return whether the image nearest to images[at] + strength · change is a correct one: (Q,)
    bool.

    images (N, E) are unit vectors, at (Q,) the queries' images, change (Q, E) target words minus
    source words, `right` the correct images of each query. Ties count as wrong (see `metrics`).

    >>> images = torch.eye(3)
    >>> hits(images, np.array([0, 0]), torch.tensor([[-1.0, 1, 0], [-0.4, 0.4, 0]]), [[1], [1]])
    array([ True, False])
    """
    return ranks(images[torch.from_numpy(at)] + strength * change, images, right) == 1


def weighted(values: np.ndarray, exchanges: Sequence[Exchange]) -> float:
    """Return the mean over exchanges of the mean of `values` (Q,) over the queries of each.

    >>> weighted(np.array([1, 1, 0]), [(0, 1, 2), (0, 1, 2), (0, 2, 1)])
    0.5
    """
    _, kind, count = np.unique(np.array(exchanges), axis=0, return_inverse=True, return_counts=True)
    return float((np.bincount(kind.ravel(), weights=values) / count).mean())


def measures(found: np.ndarray, exchanges: Sequence[Exchange]) -> dict[str, float]:
    """Return success with equal weights of the exchanges, and of the queries."""
    return {"success": weighted(found, exchanges), "success_mean": float(found.mean())}
