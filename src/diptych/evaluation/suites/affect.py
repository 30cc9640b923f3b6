"""Affect of texts: whether the valence, arousal and dominance that a model gives to texts are those that
people gave them.

    r_k = corr(model's k, people's k)          Pearson's, k = valence, arousal, dominance

with 95 % intervals by Fisher's transformation, over the texts to which the model gives values: a lexicon
gives none to a text without a word of it. `known` is their share. Correlation does not depend on the
scales. Chance is 0.

Source: Buechel and Hahn 2017 (EmoBank), who compare predictions with ratings by Pearson's r.
"""

from collections import Counter
from typing import Any

import numpy as np

from diptych.data.emotions import DIMENSIONS
from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, as_vectors, label_of, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.metrics import correlation, lab

card = {
    "title": "Affect of texts: correlation with people's ratings",
    "needs": ["texts", "labels.valence", "labels.arousal", "labels.dominance"],
    "abilities": ["affect"],
}

FEWEST = 4
"""The number of texts with values that an interval needs."""


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a role that the source lacks, and without scipy."""
    with lab("a correlation"):
        import scipy  # noqa: F401
    role_of("affect", source, role)


def affect(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `by_dimension`, r of valence, arousal and dominance with its interval, and their mean `mean_r`,
    beside chance, for the first text of each sample.

    Also returned: `n` texts, `known`, the share of them to which the model gives values, `bad` samples by
    reason, and the protocol. Raises InputError if fewer than four texts have values.
    """
    ready(model, source, role=role)
    role = role_of("affect", source, role)
    bad: Counter[str] = Counter()

    def rated(sample: Sample) -> tuple[str, list[float]]:
        """Return the text of a sample and what people say of it."""
        return texts_of(sample, role)[0], [label_of(sample, name) for name in DIMENSIONS]

    rows = read_texts(source, rated, bad)
    steps = Steps(progress, len(rows))
    given = []
    for start in range(0, len(rows), batch_size):
        texts = [text for text, _ in rows[start : start + batch_size]]
        given.append(as_vectors(model.affect(texts)).double().numpy())
        steps.add(len(texts))
    values = np.concatenate(given)
    people = np.array([ratings for _, ratings in rows])
    known = np.isfinite(values).all(1)
    if known.sum() < FEWEST:
        raise InputError(
            f"{getattr(model, 'name', 'this model')} gives affect to {known.sum()} of {len(rows)} texts, and a "
            f"correlation needs {FEWEST}; name other texts, or a model with a larger lexicon"
        )
    by_dimension = {}
    for column, name in enumerate(DIMENSIONS):
        r, low, high = correlation(values[known, column], people[known, column])
        by_dimension[name] = {"r": r, "low": low, "high": high, "chance_r": 0.0}
    protocol = protocol_of(
        "affect",
        source,
        model,
        field=role,
        rule="first text of each sample; Pearson's r over texts that have values",
    )
    return {
        "n": len(rows),
        "known": float(known.mean()),
        "mean_r": float(np.mean([row["r"] for row in by_dimension.values()])),
        "chance_mean_r": 0.0,
        "by_dimension": by_dimension,
        "bad": dict(bad),
    } | describe(protocol, model)
