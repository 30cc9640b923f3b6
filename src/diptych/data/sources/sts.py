"""Pairs of sentences with a graded similarity, in the files of SemEval: the folders of STS 2012 to 2016, the STS
benchmark, and SICK.

    STS2014-gs/STS.input.images.txt, STS.gs.images.txt   two sentences with a tab between; their score, line by line
    sts-test.csv                                          genre, file, year, number, score and two sentences, with tabs
    SICK_test_annotated.txt                               a table with sentence_A, sentence_B and relatedness_score

The first sentence is a caption and the second has the role pair. The label `score` is from 0 to 5, or from 1 to 5
in SICK.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.sources._files import beginning
from diptych.errors import InputError, unknown
from diptych.spec import Spec, configure

FORMAT = "sts"
_INPUT = re.compile(r"STS\.input\.(?P<part>.+)\.txt")
_ALL = "ALL"  # all parts of a year in one file
_BENCHMARK = re.compile(r"sts-(train|dev|test|mt|other)\.csv")
_SICK = ("sentence_A", "sentence_B", "relatedness_score")
_ENTAILMENT = ("entailment_judgment", "entailment_label")
RELATIONS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class _Pair:
    """A row: where it is, the sentences, and what is known of them."""

    place: str
    key: str
    first: str
    second: str
    score: str
    part: str = ""
    relation: str = ""


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: a folder with such files, or a file by its name or its
    columns."""
    path = Path(spec.name)
    name = os.path.basename(spec.name)  # noqa: PTH119  (Path may raise for long texts)
    if _BENCHMARK.fullmatch(name):
        return True
    if name.endswith(".txt"):
        first = beginning(spec, ".txt").partition(b"\n")[0]
        return all(column.encode() in first for column in _SICK)
    try:
        return path.is_dir() and bool(_inputs(path))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class STSOptions:
    """Options of a folder: `parts` is one of its data sets or several, such as
    `images+headlines`."""

    parts: str | None = None


def open(spec: Spec) -> "STS":
    """Open `FOLDER[:parts=NAME+NAME]`, `sts-test.csv` or `SICK_test_annotated.txt`."""
    options = configure(STSOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name)
    if path.is_dir():
        return STS(spec.name, _of_folder(path, options.parts))
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if options.parts is not None:
        raise InputError(f"{path} is one file; parts= chooses among those of a folder")
    rows = _of_benchmark(path) if _BENCHMARK.fullmatch(path.name) else _of_sick(path)
    return STS(spec.name, rows)


class STS:
    """One sample for each pair with a score, in order, with the labels `score`, `part` (of folders
    and of the benchmark: the data set that it is of) and `entailment` (of SICK).

    Pairs without a score, which were not annotated, are left out. Rows that cannot be read are
    counted in `damage`: "columns" for one without two sentences, "score" for a score that is no
    number from 0 to 5. Raises InputError for files without a readable pair.
    """

    def __init__(self, name: str, rows: Iterator[_Pair]):
        self.name = name
        damage: dict[str, str] = {}
        kept: list[_Pair] = []
        for row in rows:
            if not row.score:
                continue
            if reason := _problem(row):
                damage[row.place] = reason
            else:
                kept.append(row)
        if not kept:
            raise InputError(
                f"{name}: no line is two sentences with a score from 0 to 5; see docs/data.md for the forms"
            )
        self.damage: Mapping[str, str] = damage
        self._keys = Strings([row.key for row in kept])
        self._first = Strings([row.first for row in kept])
        self._second = Strings([row.second for row in kept])
        self._score = np.array([float(row.score) for row in kept])
        self.parts = tuple(dict.fromkeys(row.part for row in kept if row.part))
        self._part = np.array(
            [self.parts.index(row.part) if row.part else -1 for row in kept], np.int64
        )
        self._relation = np.array(
            [RELATIONS.index(row.relation) if row.relation in RELATIONS else -1 for row in kept],
            np.int64,
        )

    def __len__(self) -> int:
        return len(self._score)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        labels: dict[str, int | float] = {"score": float(self._score[index])}
        for name in ("part", "entailment"):
            if f"labels.{name}" in self.schema():
                labels[name] = int(self.labels(name)[index])
        return Sample(
            key=self._keys[index],
            source=self.name,
            texts=(Text(text=self._first[index]), Text(text=self._second[index], role="pair")),
            labels=labels,
        )

    def keys(self) -> Sequence[str]:
        """Data set and line, or the file's own number, of each pair."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return {"score": self._score, "part": self._part, "entailment": self._relation}[name]

    def schema(self) -> Schema:
        """Two texts, the score, and the other labels that the files have."""
        found = {f"texts.{role}": Field(kind="text") for role in ("caption", "pair")}
        found["labels.score"] = Field(kind="float")
        if self.parts:
            found["labels.part"] = Field(kind="int", classes=self.parts)
        if (self._relation >= 0).any():
            found["labels.entailment"] = Field(kind="int", classes=RELATIONS)
        return found


def _problem(row: _Pair) -> str:
    if not row.first.strip() or not row.second.strip():
        return "columns"
    try:
        score = float(row.score)
    except ValueError:
        return "score"
    return "" if 0 <= score <= 5 else "score"


def _inputs(folder: Path) -> dict[str, Path]:
    """The files of sentences of a folder, by their data set."""
    found = {}
    for path in sorted(folder.iterdir()):
        match = _INPUT.fullmatch(path.name)
        if match and match["part"] != _ALL:
            found[match["part"]] = path
    return found


def _of_folder(folder: Path, parts: str | None) -> Iterator[_Pair]:
    """The pairs of the data sets of a folder. Raises InputError for one that is not there, and for
    scores of another number of pairs."""
    there = _inputs(folder)
    for part in parts.split("+") if parts is not None else there:
        if part not in there:
            raise unknown(f"part of {folder}", part, there)
        scores = folder / f"STS.gs.{part}.txt"
        if not scores.is_file():
            raise InputError(f"{scores}: no such file; the scores lie beside {there[part].name}")
        said = _lines(there[part])
        given = _lines(scores)
        if len(said) != len(given):
            raise InputError(
                f"{there[part]} has {len(said)} lines and {scores.name} {len(given)}; fetch both again"
            )
        for number, (line, score) in enumerate(zip(said, given, strict=True), 1):
            first, second, *_ = [*line.split("\t"), "", ""]
            place = f"{there[part].name}:{number}"
            yield _Pair(
                place, f"{part}/{number}", first.strip(), second.strip(), score.strip(), part
            )


def _of_benchmark(path: Path) -> Iterator[_Pair]:
    """The pairs of the STS benchmark; cells are between tabs, and quotes are ordinary signs."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        genre, file, year, _, score, first, second, *_ = [*line.split("\t"), *[""] * 7]
        part = file if genre else ""
        yield _Pair(
            f"{path.name}:{number}",
            str(number),
            first.strip(),
            second.strip(),
            score.strip() or "-",
            part or year,
        )


def _of_sick(path: Path) -> Iterator[_Pair]:
    """The pairs of SICK, whose first line names the columns."""
    header, *lines = _lines(path)
    names = header.split("\t")
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        row = dict(zip(names, line.split("\t"), strict=False))
        relation = next((row[name] for name in _ENTAILMENT if name in row), "")
        first, second, score = (row.get(name, "").strip() for name in _SICK)
        yield _Pair(
            f"{path.name}:{number}",
            row.get("pair_ID", str(number)),
            first,
            second,
            score or "-",
            relation=relation.strip().lower(),
        )


def _lines(path: Path) -> list[str]:
    """The lines of a file, which ends with a line break. Raises InputError if it is not UTF-8."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); convert it first") from None
    return text.removesuffix("\n").split("\n")
