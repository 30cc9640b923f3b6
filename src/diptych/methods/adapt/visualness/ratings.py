"""Ratings of sentences by several people to labels, and how far these people agree.

    not visual: at least `votes` ratings in 1 … 3         visual: at least `votes` ratings in 5 … 7

of a scale of seven points; other sentences are ambiguous and left out. As published 5 of 9 votes
are asked for, which is the majority, the default for any number of people [ours].

Agreement is Krippendorff's alpha for ordinal values, 1 - D_o / D_e: the disagreement within
sentences over that expected by chance.

    D_o = (1/n) Σ_u 1/(m_u - 1) Σ_{i≠j in u} δ²(v_i, v_j)        D_e = 1/(n (n - 1)) Σ_{c,k} n_c n_k δ²(c, k)
    δ(c, k) = n_c/2 + n_{c+1} + … + n_{k-1} + n_k/2              for c < k

The sums are over sentences u with m_u ≥ 2 ratings; n_c of their n ratings have the value c.
Sources: Verma et al. 2023 (TIP-CLIP); Krippendorff 2011 (alpha).

Dimensions: N sentences, R people.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import BadSample
from diptych.data.sources.records import CAPTIONS
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError
from diptych.files import write_atomic

POINTS = 7
_OTHERS = ("image", "page_id", "key", "id", "split")
"""Columns that are no ratings, beside the text."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """Sentences with their rows of the table, and the ratings (N, R), 0 where somebody gave none."""

    path: Path
    text: str
    people: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    ratings: np.ndarray


def read(path: str) -> Rated:
    """Read a table (.csv, .tsv) of sentences with a column of ratings for each person: every column
    but the text, image, page_id, key, id and split. An empty cell is no rating.

    Raises InputError for a missing or another file, a table without texts or ratings, and a cell
    that is no whole number from 1 to 7.
    """
    if Path(path).suffix.lower() not in (".csv", ".tsv"):
        raise InputError(f"{path}: ratings are a .csv or .tsv file; save the table as one")
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file; check the path")
    table = open_rows(path)
    columns = list(table.columns)
    text = next((name for name in (*CAPTIONS, "sentence") if name in columns), None)
    if text is None:
        raise InputError(f"{path}: no column text among {', '.join(columns)}; name it so")
    people = [name for name in columns if name not in (text, *_OTHERS)]
    if len(people) < 2:
        raise InputError(
            f"{path}: {len(people)} columns of ratings; give one for each person, two at least"
        )
    rows: list[Mapping[str, Any]] = []
    ratings = []
    for number, row in enumerate(table.scan(), 1):
        if isinstance(row, BadSample) or not str(row.get(text) or "").strip():
            why = row if isinstance(row, BadSample) else f"it has no {text}"
            raise InputError(f"{path}: row {number} cannot be read ({why}); correct it")
        rows.append(row)
        ratings.append([_rating(row.get(name), f"{path}: row {number}, {name}") for name in people])
    return Rated(
        path=Path(path), text=text, people=people, rows=rows, ratings=np.array(ratings, np.int64)
    )


def _rating(value: Any, place: str) -> int:
    """The rating of a cell, 0 for an empty one."""
    if value is None or str(value).strip() == "":
        return 0
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if number not in range(1, POINTS + 1):
        raise InputError(
            f"{place} is {value!r}, no whole number from 1 to {POINTS}; correct it, or leave it empty"
        )
    return int(number)


def labels(ratings: np.ndarray, votes: int | None = None) -> np.ndarray:
    """The labels (N,) of ratings (N, R): 1 visual, 0 not visual, -1 ambiguous.

    Raises InputError for `votes` with which a sentence could be both, and for more than R.

    >>> nine = [[1, 2, 3, 3, 1, 7, 7, 7, 7], [5, 6, 7, 5, 5, 1, 1, 1, 4], [4, 4, 4, 4, 5, 5, 5, 5, 1]]
    >>> labels(np.array(nine)).tolist()
    [0, 1, -1]
    """
    R = ratings.shape[1]
    least = R // 2 + 1
    needed = least if votes is None else votes
    if not least <= needed <= R:
        raise InputError(
            f"{needed} votes of {R} are no majority; give {least} to {R}, or leave it out"
        )
    low = ((ratings >= 1) & (ratings <= 3)).sum(1) >= needed
    high = (ratings >= 5).sum(1) >= needed
    return np.where(high, 1, np.where(low, 0, -1))


def alpha(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for ordinal ratings (N, R) from 1 on, 0 where there is none: 1 for people
    who agree, about 0 for ratings at random. NaN if all ratings are equal, or no sentence has two.

    >>> alpha(np.array([[1, 1], [2, 2], [7, 7]])), round(alpha(np.array([[1, 2], [2, 2], [7, 5]])), 3)
    (1.0, 0.731)
    """
    values = np.arange(1, max(int(ratings.max(initial=1)), 1) + 1)
    counts = (ratings[:, :, None] == values).sum(1).astype(np.float64)  # (N, values)
    counts = counts[counts.sum(1) >= 2]
    within = counts.sum(1, keepdims=True) - 1
    both = (counts / within).T @ counts - np.diag((counts / within).sum(0))
    total = both.sum(1)
    n = total.sum()
    up_to = np.cumsum(total) - total / 2
    distance = (up_to[:, None] - up_to[None]) ** 2
    expected = float((np.outer(total, total) * distance).sum())
    if expected == 0:
        return float("nan")
    return 1 - float((n - 1) * (both * distance).sum()) / expected


def write(rated: Rated, found: np.ndarray, out: Path) -> int:
    """Write a line {"text", "image", "label", "page_id"} for each labelled sentence, and return how
    many.

    `image` is null where the label is 0, or the table gives none; paths are relative to the folder
    of `out`. `page_id` is written where the table gives it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, label in zip(rated.rows, found.tolist(), strict=True):
        if label < 0:
            continue
        image = row.get("image") if label else None
        if image:
            place = (rated.path.parent / image).resolve()
            image = os.path.relpath(place, out.parent.resolve())
        line = {"text": str(row[rated.text]), "image": image, "label": label}
        if "page_id" in row:
            line["page_id"] = row["page_id"]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    if not lines:
        raise InputError(
            f"{rated.path}: all {len(found)} sentences are ambiguous, so none has a label; ask for "
            "fewer votes, or more people"
        )
    write_atomic(out, lambda at: at.write_text("".join(lines), encoding="utf-8"))
    return len(lines)
