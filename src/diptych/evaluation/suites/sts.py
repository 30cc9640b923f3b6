"""Similarity of sentences: the correlation of the cosine of two texts with a graded similarity.

    Pearson's r, and Spearman's of the ranks, of cos(a_i, b_i) with the label, each with its 95 % interval by Fisher's
    transformation (see `metrics.correlation`)

Cosines are rounded to 1e-6, so that values that differ only by rounding are tied. Source: Cer et
al. 2017 (STS benchmark).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, Texts, embed_texts, label_of, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._sources import mean_of_sources, parts_of
from diptych.evaluation.suites.retrieval import role_of
from diptych.metrics import TIE, Array, correlation

card = {
    "title": "Similarity of sentences: correlation with graded pairs",
    "needs": ["texts", "labels"],
    "abilities": ["embed_texts"],
}

SCORES = ("similarity", "score", "relatedness")
"""Labels used as the similarity if none is given."""


def ready(
    model: Any,
    source: Source,
    *,
    roles: Sequence[str] | None = None,
    score: str | None = None,
    by_source: bool = False,
) -> None:
    """Raise InputError for roles and labels that the source lacks."""
    for part in parts_of(source) if by_source else [source]:
        names_of(part, roles, score)


def names_of(
    source: Source, roles: Sequence[str] | None, score: str | None
) -> tuple[str, str, str]:
    """Return the roles of the two texts, and the label, as `sts` finds them."""
    return *_roles(source, roles), _score(source, score)


def sts(
    model: Any,
    source: Source,
    *,
    roles: Sequence[str] | None = None,
    score: str | None = None,
    by_source: bool = False,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `pearson` and `spearman` of the cosines of text pairs with a graded label, with the
    ends of their intervals.

    `roles` are those of the two texts of a sample; the same role twice means its first two texts.
    The default is caption and pair, or the only two roles. `score` is the label: similarity, score
    or relatedness, or the one named. With `by_source` each of several sources, such as languages, is
    measured by itself: all numbers are means over them, and `by_source` has each. Also returned: `n`
    pairs, `bad` samples by reason, and the protocol. Chance is 0.
    """
    if by_source:
        how: dict[str, Any] = {"roles": roles, "score": score, "batch_size": batch_size}
        return mean_of_sources(sts, model, source, progress=progress, **how)
    (a, b, score) = names_of(source, roles, score)
    texts = Texts()
    bad = Counter[str]()
    pairs = pairs_of(source, roles, score, bad)
    first = [texts.add(each) for each, _, _ in pairs]
    second = [texts.add(each) for _, each, _ in pairs]
    values = [value for *_, value in pairs]
    steps = Steps(progress, len(texts))
    vectors = embed_texts(model, texts.written, batch_size=batch_size, steps=steps)
    found = report(vectors[list(first)], vectors[list(second)], np.array(values))
    protocol = protocol_of(
        "sts",
        source,
        model,
        field=score,
        rule="cosine of the two texts, to 1e-6",
        options=(f"roles={a},{b}",),
    )
    return {"n": len(values)} | found | {"bad": dict(bad)} | describe(protocol, model)


def pairs_of(
    source: Source, roles: Sequence[str] | None, score: str | None, bad: Counter[str]
) -> list[tuple[str, str, float]]:
    """Return the two texts and the graded similarity of each sample; damage is counted in `bad`."""
    (a, b, label) = names_of(source, roles, score)

    def pair(sample: Sample) -> tuple[str, str, float]:
        value = float(label_of(sample, label))
        first = sample.captions(a)[:2]
        second = sample.captions(b)[:2]
        if not first or not second or (a == b and len(first) < 2):
            raise BadSample("no-pair", f"{sample.key} has no two texts of roles {a!r} and {b!r}")
        return first[0], second[-1] if a == b else second[0], value

    return read_texts(source, pair, bad)


def report(a: Array, b: Array, similarity: Array) -> dict[str, float]:
    """Return `pearson`, `spearman`, their intervals (`pearson_low`, …) and chance, for pairs of
    unit vectors (N, E).

    >>> report(np.eye(3), np.eye(3)[[0, 1, 1]], np.array([5.0, 5.0, 0.0]))["spearman"]
    1.0
    """
    cosines = (np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(1)
    found: dict[str, float] = {}
    for kind in ("pearson", "spearman"):
        r, low, high = correlation(np.round(cosines / TIE) * TIE, similarity, kind)
        found |= {kind: r, f"{kind}_low": low, f"{kind}_high": high, f"chance_{kind}": 0.0}
    return found


def _roles(source: Source, roles: Sequence[str] | None) -> tuple[str, str]:
    there = [name.removeprefix("texts.") for name in source.schema() if name.startswith("texts.")]
    if roles is None:
        if {"caption", "pair"} <= set(there):
            return "caption", "pair"
        if len(there) != 2:
            raise InputError(
                f"sts compares two texts; name two roles of source {source.name!r}: {', '.join(there)}"
            )
        roles = there
    for name in roles:
        role_of("sts", source, name)
    if len(roles) != 2:
        raise InputError(
            f"sts compares two texts; {len(roles)} roles are named: {', '.join(roles)}"
        )
    return roles[0], roles[1]


def _score(source: Source, score: str | None) -> str:
    there = [name.removeprefix("labels.") for name in source.schema() if name.startswith("labels.")]
    if score is None:
        usual = [name for name in SCORES if name in there]
        if not usual and len(there) != 1:
            raise InputError(
                f"sts needs a graded label; name one of source {source.name!r}: {', '.join(there)}"
            )
        return usual[0] if usual else there[0]
    if score not in there:
        raise unknown(f"label of source {source.name!r}", score, there)
    return score
