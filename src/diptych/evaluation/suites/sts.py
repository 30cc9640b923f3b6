"""Similarity of sentences: the correlation of the cosine of two texts with a graded similarity.

    Pearson's r, and Spearman's of the ranks, of cos(a_i, b_i) with the label, each with its 95 % interval by Fisher's
    transformation (see `metrics.correlation`)

Cosines are rounded to 1e-6, so that values that differ only by rounding are tied. How the texts are
spread:

    alignment     mean |a_i - b_i|² of the pairs in the upper fifth of the labels' range
    uniformity    log mean_{i<j} exp(-2 |x_i - x_j|²) of all different texts      -8 to 0, lower is more even
    isotropy      least over greatest partition function of these                1 where all directions are alike

With `biases`, what the cosine follows beside the meaning, 0 if nothing. Pairs are of equal grade if
their labels are equal or, of more than twenty different labels, in the same tenth of the range:

    length_bias      Spearman's r of | words of a - words of b | with -cos, the mean over grades by their pairs
    surface_bias     partial r of the surface similarity (`data.surface`) with cos, given the label: Pearson's, and
                     surface_bias_spearman
    frequency_bias   Spearman's r of the mean log frequency of the words of a and b, counted in all texts, with cos,
                     the mean over grades by their pairs

Sources: Cer et al. 2017 (STS benchmark); Wang and Isola 2020, Gao et al. 2021 (alignment of similar
pairs, uniformity); Mu and Viswanath 2018 (isotropy). The biases are named by Miao et al. 2023, who
give no measure: these are ours.

Dimensions: N pairs, M different texts, E embedding.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.data.surface import Numbered, surface_similarity
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, Texts, embed_texts, label_of, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._sources import mean_of_sources, parts_of
from diptych.evaluation.suites.retrieval import role_of
from diptych.metrics import TIE, Array, correlation, isotropy
from diptych.objectives.uniformity import alignment, uniformity

card = {
    "title": "Similarity of sentences: correlation with graded pairs",
    "needs": ["texts", "labels"],
    "abilities": ["embed_texts"],
}

SCORES = ("similarity", "score", "relatedness")
"""Labels used as the similarity if none is given."""

SIMILAR = 0.8
"""Pairs above this share of the labels' range are similar; it is 4 where labels go from 0 to 5."""
GRADES = 20
"""The most different labels of which each is a grade of its own."""
PARTS = 10
"""The grades of labels that are more."""
FEWEST = 10
"""The pairs that a grade needs for a correlation."""


def ready(
    model: Any,
    source: Source,
    *,
    roles: Sequence[str] | None = None,
    score: str | None = None,
    biases: bool = False,
    by_source: bool = False,
) -> None:
    """Raise InputError for roles and labels that the source lacks, and for biases without what
    they need."""
    if biases:
        surface_similarity([[0]], [[0]])
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
    biases: bool = False,
    by_source: bool = False,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `pearson` and `spearman` of the cosines of text pairs with a graded label, with the
    ends of their intervals.

    `roles` are those of the two texts of a sample; the same role twice means its first two texts.
    The default is caption and pair, or the only two roles. `score` is the label: similarity, score
    or relatedness, or the one named. Also returned: `alignment`, `uniformity` and `isotropy`, and
    with `biases` those (see the module), where the pairs suffice for them; `n` pairs, `bad` samples
    by reason, and the protocol. With `by_source` each of several sources, such as languages, is
    measured by itself: all numbers are means over them, and `by_source` has each. Chance is 0.
    """
    if by_source:
        how: dict[str, Any] = {
            "roles": roles,
            "score": score,
            "biases": biases,
            "batch_size": batch_size,
        }
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
    a_vectors = vectors[first]
    b_vectors = vectors[second]
    found = report(a_vectors, b_vectors, np.array(values))
    found |= spread(a_vectors, b_vectors, np.array(values), vectors)
    if biases:
        said = [[texts.written[at] for at in side] for side in (first, second)]
        found |= biases_of(a_vectors, b_vectors, np.array(values), *said)
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
    cosines = _cosines(a, b)
    found: dict[str, float] = {}
    for kind in ("pearson", "spearman"):
        r, low, high = correlation(cosines, similarity, kind)
        found |= {kind: r, f"{kind}_low": low, f"{kind}_high": high, f"chance_{kind}": 0.0}
    return found


def spread(a: Tensor, b: Tensor, similarity: np.ndarray, texts: Tensor) -> dict[str, float]:
    """Return `alignment` of pairs of unit vectors (N, E), and `uniformity` and `isotropy` of those of
    all different texts (M, E), as far as there are pairs and texts for them.

    >>> import torch
    >>> x = torch.eye(4)
    >>> spread(x, x, np.array([0.0, 1, 2, 5]), x)["uniformity"]
    -4.0
    """
    found: dict[str, float] = {}
    low = similarity.min()
    similar = similarity > low + SIMILAR * (similarity.max() - low)
    if similar.any():
        found["alignment"] = float(alignment(a.double()[similar], b.double()[similar]))
    if len(texts) > 1:
        found["uniformity"] = float(uniformity(texts.double()))
        found["isotropy"] = isotropy(texts)
    return found


def biases_of(
    a: Array, b: Array, similarity: np.ndarray, first: Sequence[str], second: Sequence[str]
) -> dict[str, float]:
    """Return `length_bias`, `surface_bias`, `surface_bias_spearman` and `frequency_bias` of pairs of
    unit vectors (N, E) of the texts `first` and `second`.

    Raises InputError for an empty text, or without rapidfuzz.
    """
    cosines = _cosines(a, b)
    numbered = Numbered()
    one = numbered.words(first)
    other = numbered.words(second)
    lengths = [np.array([len(words) for words in side]) for side in (one, other)]
    counts = np.zeros(len(numbered))
    for words in {tuple(words) for words in (*one, *other)}:
        np.add.at(counts, list(words), 1)
    logs = np.log(counts / counts.sum())
    frequency = np.array([logs[[*x, *y]].mean() for x, y in zip(one, other, strict=True)])
    surface = surface_similarity(one, other)
    grades = _grades(similarity)
    found = {
        "length_bias": _within(np.abs(lengths[0] - lengths[1]), -cosines, grades),
        "surface_bias": partial_correlation(surface, cosines, similarity, "pearson"),
        "surface_bias_spearman": partial_correlation(surface, cosines, similarity, "spearman"),
        "frequency_bias": _within(frequency, cosines, grades),
    }
    named = {name: value for name, value in found.items() if not math.isnan(value)}
    return named | {f"chance_{name}": 0.0 for name in named}


def partial_correlation(
    x: Array, y: Array, given: Array, kind: Literal["pearson", "spearman"]
) -> float:
    """Return the partial correlation of two lists (N,), given a third.

        ( r_xy - r_xz r_yz ) / sqrt( (1 - r_xz²) (1 - r_yz²) )

    It is NaN if the third determines one of them.

    >>> z = np.array([0.0, 0, 1, 1])
    >>> round(partial_correlation(z + [0, 1, 0, 1], 5 * z + [0, 1, 0, 1], z, "pearson"), 6)
    1.0
    """
    xy = correlation(x, y, kind)[0]
    xz = correlation(x, given, kind)[0]
    yz = correlation(y, given, kind)[0]
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(rest) if rest > TIE else math.nan


def _within(x: np.ndarray, y: np.ndarray, grades: np.ndarray) -> float:
    """The mean of Spearman's r within grades of `FEWEST` pairs or more, by their pairs; NaN if there
    are none."""
    total = 0.0
    pairs = 0
    for grade in np.unique(grades):
        own = grades == grade
        if own.sum() >= FEWEST:
            total += float(own.sum()) * correlation(x[own], y[own], "spearman")[0]
            pairs += int(own.sum())
    return total / pairs if pairs else math.nan


def _grades(similarity: np.ndarray) -> np.ndarray:
    """The number of each pair's grade."""
    values, number = np.unique(similarity, return_inverse=True)
    if len(values) <= GRADES:
        return number
    edges = np.linspace(values[0], values[-1], PARTS + 1)
    return np.digitize(similarity, edges[1:-1])


def _cosines(a: Array, b: Array) -> np.ndarray:
    """The cosines (N,) of rows of unit vectors, rounded."""
    cosines = (np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(1)
    return np.round(cosines / TIE) * TIE


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
