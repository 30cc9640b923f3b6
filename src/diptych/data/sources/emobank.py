"""EmoBank (Buechel and Hahn 2017): sentences with the valence, arousal and dominance that people gave them.

    emobank.csv    id, split, V, A, D, text       one sentence a row, means of ratings from 1 to 5

The first version has no column `split`. Tables and JSON lines with the columns text, valence, arousal and
dominance, and none but `id` and `split` beside them, are read too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.data.compact import Strings
from diptych.data.emotions import DIMENSIONS
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources._files import beginning
from diptych.data.sources.rows import open_rows
from diptych.errors import InputError
from diptych.spec import Spec, configure, several

FORMAT = "emobank"
_FORMS = (("V", "A", "D"), DIMENSIONS)
"""The names of the columns of ratings, as published and in full."""
_LEAST = 1.0  # of the ratings
_MOST = 5.0
_SPLIT = "split"


@dataclass(frozen=True, kw_only=True)
class EmoBankOptions:
    """Options of a file: `split` are the values of the column `split` whose rows are read (None: all)."""

    split: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the names of its columns, of which there are no others."""
    first = beginning(spec, ".csv", ".jsonl").partition(b"\n")[0].decode("utf-8", "replace")
    if spec.name.lower().endswith(".jsonl"):
        try:
            columns = set(json.loads(first))
        except (TypeError, ValueError):
            return False
    else:
        columns = {name.strip().strip('"') for name in first.lstrip("\ufeff").split(",")}
    return any(columns - {"id", _SPLIT} == {"text", *form} for form in _FORMS)


def open(spec: Spec) -> "EmoBank":
    """Open `emobank.csv[:split=A+B]`. Raises InputError for a file without a sentence that can be read, and
    for a split that it has not."""
    options = configure(EmoBankOptions, spec.options, f"source {spec.name!r}")
    rows: list[tuple[str, str, tuple[float, ...], str]] = []
    damage: dict[str, str] = {}
    for number, row in enumerate(open_rows(spec.name).scan(), 1):
        place = f"{spec.name}:row {number}"
        if isinstance(row, BadSample):
            damage[place] = row.reason
            continue
        ratings = _ratings(row)
        text = row.get("text")
        if ratings is None or not isinstance(text, str) or not text.strip():
            damage[place] = "columns"
        elif not all(_LEAST <= value <= _MOST for value in ratings):
            damage[place] = "rating"
        else:
            key = row.get("id") or number
            rows.append((str(key), text.strip(), ratings, str(row.get(_SPLIT) or "")))
    if not rows:
        raise InputError(
            f"{spec.name}: no row has a text with its valence, arousal and dominance from 1 to 5; compare it with "
            "EmoBank's emobank.csv"
        )
    if options.split is not None:
        there = sorted({split for *_, split in rows} - {""})
        wanted = several(f"split of {spec.name}", options.split, there)
        rows = [row for row in rows if row[-1] in wanted]
    return EmoBank(spec.name, rows, damage)


def _ratings(row: Mapping[str, object]) -> tuple[float, ...] | None:
    """The three numbers of a row, None without them."""
    for form in _FORMS:
        if all(name in row for name in form):
            try:
                return tuple(float(str(row[name])) for name in form)
            except ValueError:
                return None
    return None


class EmoBank:
    """One sample for each sentence, in order, with the labels `valence`, `arousal` and `dominance` from 1
    to 5. Rows that cannot be read are counted in `damage`: "columns" for one without a text and three
    numbers, "rating" for numbers beyond 1 to 5."""

    def __init__(
        self,
        name: str,
        rows: Sequence[tuple[str, str, tuple[float, ...], str]],
        damage: Mapping[str, str],
    ):
        self.name = name
        self.damage = dict(damage)
        keys = [key for key, *_ in rows]
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{number}" for number, key in enumerate(keys, 1)]
        self._keys = Strings(keys)
        self._texts = Strings(text for _, text, *_ in rows)
        self._ratings = np.array([ratings for _, _, ratings, _ in rows])

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        ratings = self._ratings[index].tolist()
        return Sample(
            key=self._keys[index],
            source=self.name,
            texts=(Text(text=self._texts[index]),),
            labels=dict(zip(DIMENSIONS, ratings, strict=True)),
        )

    def keys(self) -> Sequence[str]:
        """The ids of the sentences."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._ratings[:, DIMENSIONS.index(name)]

    def schema(self) -> Schema:
        """Sentences and their three labels."""
        ratings = {f"labels.{name}": Field(kind="float") for name in DIMENSIONS}
        return {"texts.caption": Field(kind="text"), **ratings}
