"""Composition: images and texts that differ by one edit, which only a model of the whole image and
text can distinguish.

A unit is a sample and its edits, n images and n texts that correspond one to one; s_ij is the score
of image i with text j, and 0 is the sample itself.

    i2t_2way    s_00 > s_01, and s_11 > s_10      each image between the two texts        chance 1/2
    t2i_2way    s_00 > s_10, and s_11 > s_01      each text between the two images        chance 1/2
    text        s_00 > s_01 and s_11 > s_10       both images right: paired accuracy      chance 1/4
    image       s_00 > s_10 and s_11 > s_01       both texts right                          chance 1/4
    group       text and image                                                              chance 1/6
    text_1      s_ii is the largest of its row, over all members                            chance 1/n
    image_1     s_ii is the largest of its column                                           chance 1/n
    group_1     both                                                                        chance 1/(2n - 1)
    …_all       the same of all members of a unit at once
    text_own    s_00 is the largest of row 0: the sample's image among all texts, with or without
                images of their own                                                       chance 1/n
    image_own   s_00 is the largest of column 0                                           chance 1/n

Pairs are the sample with each of its edits; `by_kind` separates them by the kind of edit. Ties
count as wrong. Edits of the text alone yield i2t_2way, edits of the image alone t2i_2way.

Sources: Thrush et al. 2022 (Winoground: text, image, group); Tong et al. 2024 (MMVP: paired); Hsieh
et al. 2023 (SugarCrepe: 2-way). The chances are those of scores in random order.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Progress,
    Steps,
    Texts,
    as_vectors,
    embed_texts,
    images_with_edits,
    normal_form,
    read_images,
)
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._groups import Siblings
from diptych.evaluation.suites._labels import group_field
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.metrics import TIE

card = {
    "title": "Composition: images and texts that differ by one edit",
    "needs": ["images.main", "texts"],
    "abilities": [],  # embed_images and embed_texts, or match, depending on `by`
}

By = Literal["embed", "match"]
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps numbers of images and of texts to the scores of these pairs."""
TILE = 1 << 14  # pairs whose vectors are held at once


@dataclass(frozen=True)
class Unit:
    """The members of a unit, the sample itself first: kinds of the edits, numbers of images and
    texts (-1: none)."""

    kinds: tuple[str, ...]
    images: tuple[int, ...]
    texts: tuple[int, ...]


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    negatives: Sequence[str] = (),
    siblings: str | None = None,
    by: By = "embed",
) -> None:
    """Raise InputError for roles and abilities that are missing, and for a source without edits or
    negatives."""
    role_of("composition", source, role)
    if siblings is not None:
        group_field(source, siblings)
    if by not in ("embed", "match"):
        raise unknown("way to score", by, ("embed", "match"))
    for ability in ("embed_images", "embed_texts") if by == "embed" else ("preprocess", "match"):
        require(model, ability, "composition")
    for name in negatives:
        role_of("composition", source, name)
    if "edits" not in source.schema() and not negatives and siblings is None:
        raise InputError(
            f"composition needs edits, siblings=LABEL or negatives=ROLE; source {source.name!r} gives "
            f"{', '.join(source.schema())}"
        )


def composition(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    negatives: Sequence[str] = (),
    siblings: str | None = None,
    by: By = "embed",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return how often images and texts that differ by one edit are distinguished: the measures
    above, and `by_kind`.

    - `role` is the role of the texts, of samples and edits alike.
    - `negatives` are roles of wrong texts that a sample contains; their role is their kind, and
      each contradicts the text of `role` with which it shares most words.
    - `siblings` is a label that samples of a unit share (`scene`): the first is the sample and the
      others its edits.
    - `by` is embed, the cosine, or match, the score of `model.match`.

    Edits that change no text of `role` are not counted as edits of the text. Also returned: `n`
    units, `pairs`, `bad` samples by reason, and the protocol.
    """
    ready(model, source, role=role, negatives=negatives, siblings=siblings, by=by)
    whole = source
    source = source if siblings is None else Siblings(source, siblings)
    role = role_of("composition", source, role)
    texts = Texts()
    bad = Counter()

    def units_of(sample: Sample) -> tuple[int, list[Unit]]:
        """Return the number of images of a sample, and its units."""
        return len(images_with_edits(sample)), _units(sample, texts, role, negatives)

    vectors = []  # of images
    units: list[tuple[int, Unit]] = []  # each with the number of its first image
    scores: list[np.ndarray] = []  # tables
    seen = 0
    steps = Steps(progress, len(source))
    for pixels, kept in read_images(
        model,
        source,
        units_of,
        bad,
        images=images_with_edits,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        own = []
        first = 0
        for count, mine in kept:
            own += [(first, unit) for unit in mine]
            first += count
        if by == "match":
            scores += _tables(own, _matcher(model, pixels, texts, batch_size))
        else:
            vectors += [
                as_vectors(model.embed_images(part, batch_size=batch_size))
                for part in pixels.split(batch_size)
            ]
        units += [(seen + first, unit) for first, unit in own]
        seen += len(pixels)
    if by == "embed" and units:
        steps.total += len(texts)
        of_texts = embed_texts(model, texts.written, batch_size=batch_size, steps=steps)
        scores = _tables(units, _cosines(torch.cat(vectors), of_texts))
    options = [f"by={by}", f"negatives={','.join(negatives)}"] + (
        [] if siblings is None else [f"siblings={siblings}"]
    )
    protocol = protocol_of(
        "composition",
        whole,
        model,
        exact=exact,
        field=role,
        rule="each sample with each of its edits; ties lose",
        options=tuple(options),
    )
    found = report(scores, [unit.kinds for _, unit in units])
    return found | {"bad": dict(bad)} | describe(protocol, model)


def report(scores: Sequence[np.ndarray], kinds: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return all measures of units: scores (n, n) of images (rows) with texts (columns), NaN where
    one of them is missing.

    `kinds` names each member's edit, the first member being the sample itself. Measures that no
    unit has are left out.

    >>> found = report([np.array([[0.9, 0.2], [0.4, 0.3]])], [("", "swap")])
    >>> found["i2t_2way"], found["text"], found["image"]
    (0.5, 0.0, 1.0)
    """
    by_kind: dict[str, list[np.ndarray]] = {}
    sets: dict[str, list[np.ndarray]] = {}
    for table, names in zip(scores, kinds, strict=True):
        for at, kind in enumerate(names[1:], 1):
            by_kind.setdefault(kind, []).append(table[np.ix_((0, at), (0, at))])
        for kind in dict.fromkeys(names[1:]):
            mine = [0, *(at for at, name in enumerate(names) if at and name == kind)]
            sets.setdefault(kind, []).append(table[np.ix_(mine, mine)])
    pairs = [table for tables in by_kind.values() for table in tables]
    rows = {}
    for kind, tables in by_kind.items():
        rows[kind] = {"n": len(tables), **_without_chance(pair_scores(np.stack(tables)))}
        if any(len(table) > 2 for table in sets[kind]):
            rows[kind] |= _without_chance(n_way(sets[kind]) | own_choices(sets[kind]))
    return {
        "n": len(scores),
        "pairs": len(pairs),
        **pair_scores(np.stack(pairs)),
        **n_way(scores),
        **own_choices(scores),
        "by_kind": rows,
    }


def pair_scores(scores: np.ndarray) -> dict[str, float]:
    """Return 2-way and Winoground accuracies of pairs: scores (P, 2, 2), images by texts, NaN where
    one is missing."""
    beats = _beats(scores)
    of_rows = np.stack(
        [beats(0, 0, 0, 1), beats(1, 1, 1, 0)], 1
    )  # (P, 2): each image between the texts
    of_columns = np.stack([beats(0, 0, 1, 0), beats(1, 1, 0, 1)], 1)  # each text between the images
    text = of_rows.prod(1)
    image = of_columns.prod(1)
    found = {
        "i2t_2way": of_rows,
        "t2i_2way": of_columns,
        "text": text,
        "image": image,
        "group": text * image,
    }
    chance = {"i2t_2way": 1 / 2, "t2i_2way": 1 / 2, "text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
    results = {}
    for name, hits in found.items():
        if np.isfinite(hits).any():
            results |= {name: float(np.nanmean(hits)), f"chance_{name}": chance[name]}
    return results


def n_way(scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Return accuracies of whole units, each (n, n), over those in which no image or text is
    missing.

    >>> found = n_way([np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.1, 0.2, 0.6]])])
    >>> found["image_1"], found["group_all"]
    (1.0, 0.0)
    """
    whole = [table for table in scores if np.isfinite(table).all()]
    if not whole:
        return {}
    found: dict[str, list[float]] = {}
    for table in whole:
        n = len(table)
        slack = TIE * np.abs(table).max()
        own = np.diag(table)
        others = np.where(np.eye(n, dtype=bool), -np.inf, table)
        text = own > others.max(1) + slack
        image = own > others.max(0) + slack
        for name, hits in {"text": text, "image": image, "group": text & image}.items():
            found.setdefault(f"{name}_1", []).append(float(hits.mean()))
            found.setdefault(f"{name}_all", []).append(float(hits.all()))
            one, of_all = (
                (1 / (2 * n - 1), chance_group(n)) if name == "group" else (1 / n, float(n) ** -n)
            )
            found.setdefault(f"chance_{name}_1", []).append(one)
            found.setdefault(f"chance_{name}_all", []).append(of_all)
    sizes = [len(table) for table in whole]
    weights = {True: sizes, False: None}  # equal weights of members in _1, of units in _all
    results = {
        name: float(np.average(hits, weights=weights[name.endswith("_1")]))
        for name, hits in found.items()
    }
    return {"ways": float(np.mean(sizes)), **results}


def own_choices(scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Return how often the sample's own image finds its text, and its own text its image, over units
    (n, n) with more than one other text or image; entries that are missing are no candidates.

    >>> own_choices([np.array([[0.9, 0.2, 0.95], [np.nan] * 3, [np.nan] * 3])])
    {'text_own': 0.0, 'chance_text_own': 0.3333333333333333}
    """
    found: dict[str, list[float]] = {}
    for table in scores:
        for name, line in (("text_own", table[0]), ("image_own", table[:, 0])):
            there = line[np.isfinite(line)]
            if len(there) > 2 and np.isfinite(line[0]):
                hit = there[0] > there[1:].max() + TIE * np.abs(there).max()
                found.setdefault(name, []).append(float(hit))
                found.setdefault(f"chance_{name}", []).append(1 / len(there))
    return {name: float(np.mean(values)) for name, values in found.items()}


def chance_group(n: int) -> float:
    """Return the probability that in an n x n table in random order each diagonal entry is the
    largest of its row and column.

        n! / prod_j (n - j + 1 + n (n - 1) - (j - 1)(j - 2))

    The j-th largest diagonal entry must be above the later ones and above 2 (j - 1) other entries
    that no earlier one already covers: a forest, whose orders the hook length formula counts.

    >>> round(1 / chance_group(2), 6), round(1 / chance_group(3), 6)
    (6.0, 60.0)
    """
    hooks = [n - j + 1 + n * (n - 1) - (j - 1) * (j - 2) for j in range(1, n + 1)]
    return math.factorial(n) / math.prod(hooks)


def closest(text: str, candidates: Sequence[str]) -> int:
    """Return the candidate that shares most words in order with a text; of equal ones the first.

    >>> closest("a red cup left of a blue box", ["two cups", "a blue cup left of a red box"])
    1
    """
    from difflib import SequenceMatcher

    words = normal_form(text).split()
    shares = [
        SequenceMatcher(None, normal_form(each).split(), words, autojunk=False).ratio()
        for each in candidates
    ]
    return int(np.argmax(shares))


def _cosines(images: Tensor, texts: Tensor) -> Score:
    """Return a function that scores pairs by their cosine, `TILE` pairs at a time."""

    def score(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        parts = [slice(start, start + TILE) for start in range(0, len(rows), TILE)]
        found = [(images[rows[part]] * texts[columns[part]]).sum(1).numpy() for part in parts]
        return np.concatenate(found)

    return score


def _matcher(model: Any, pixels: Tensor, texts: Texts, batch_size: int) -> Score:
    """Return a function that scores pairs by `model.match`, `batch_size` pairs at a time."""

    def score(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        parts = [slice(start, start + batch_size) for start in range(0, len(rows), batch_size)]
        asked = [
            (pixels[rows[part]], [texts.written[at] for at in columns[part]]) for part in parts
        ]
        return torch.cat(
            [as_vectors(model.match(*each, batch_size=batch_size)) for each in asked]
        ).numpy()

    return score


def _beats(scores: np.ndarray) -> Callable[[int, int, int, int], np.ndarray]:
    """Return a function: 1.0 where entry (a, b) of each pair is above (c, d) by more than rounding,
    0.0 where not, NaN where one is missing."""
    slack = TIE * np.nanmax(np.abs(scores), axis=(1, 2), initial=0.0)

    def beats(a: int, b: int, c: int, d: int) -> np.ndarray:
        left = scores[:, a, b]
        right = scores[:, c, d]
        return np.where(
            np.isfinite(left) & np.isfinite(right), (left > right + slack).astype(float), np.nan
        )

    return beats


def _without_chance(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("chance_")}


def _units(sample: Sample, texts: Texts, role: str, negatives: Sequence[str]) -> list[Unit]:
    """Return the units of a sample: itself with its edits, and each text with the negatives that
    contradict it."""
    own = texts_of(sample, role)
    first = texts.add(own[0])
    kinds = [""]
    images = [0]
    numbers = [first]
    for edit in sample.edits:
        edited = [text for text in edit.captions(role) if text.strip()]
        number = texts.add(edited[0]) if edited else -1
        kinds.append(edit.kind or "edit")
        images.append(max(images) + 1 if "main" in edit.images else -1)
        numbers.append(-1 if number == first else number)
    units = [Unit(tuple(kinds), tuple(images), tuple(numbers))] if len(kinds) > 1 else []
    against: dict[int, list[tuple[str, int]]] = {}
    for name in negatives:
        for text in sample.captions(name):
            right = texts.add(own[closest(text, own)])
            if texts.add(text) != right:
                against.setdefault(right, []).append((name, texts.add(text)))
    for right, wrong in against.items():
        names, others = zip(*wrong, strict=True)
        units.append(Unit(("", *names), (0, *[-1] * len(wrong)), (right, *others)))
    if not units:
        raise BadSample("no-edit", f"{sample.key} has no edit and no negative")
    return units


def _tables(units: Sequence[tuple[int, Unit]], score: Score) -> list[np.ndarray]:
    """Return the scores (n, n) of each unit, by one call of `score(images, texts)` with two lists of
    numbers; NaN where an image or a text is missing. A unit comes with the number of its first image."""
    if not units:
        return []
    places = []
    for _, unit in units:
        images = np.array(unit.images)
        texts = np.array(unit.texts)
        places.append(np.nonzero((images[:, None] >= 0) & (texts >= 0)))
    pairs = list(zip(units, places, strict=True))
    rows = [first + np.array(unit.images)[row] for (first, unit), (row, _) in pairs]
    columns = [np.array(unit.texts)[column] for (_, unit), (_, column) in pairs]
    values = score(np.concatenate(rows), np.concatenate(columns))
    tables = []
    start = 0
    for (_, unit), place in pairs:
        table = np.full((len(unit.images), len(unit.texts)), np.nan)
        table[place] = values[start : start + len(place[0])]
        start += len(place[0])
        tables.append(table)
    return tables
