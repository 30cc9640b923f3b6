"""Parallel texts: sentences and their translations, without images.

    parallel:TED2020-en-de-train.tsv.gz         a line has a sentence and its translations, with tabs between
    parallel:tatoeba.tsv:languages=en+fr+ja     the same, with its languages by column
    parallel:Europarl.de-en:languages=en+de     files Europarl.de-en.en and Europarl.de-en.de, line by line

These are the forms of sentence-transformers' data and of OPUS (Moses). Text of the first language is
a caption, that of each other has the role of its name. A file of lines with names of columns is a
table instead: `table.csv:text=en;de=de`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.data.compact import Strings
from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources.rows import TextRows, unpacked
from diptych.errors import InputError
from diptych.spec import Spec, configure

FORMAT = "parallel"
PREFIX = "parallel:"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_IN_NAME = re.compile(r"(?<![A-Za-z])([a-z]{2,3})-([a-z]{2,3})(?![A-Za-z])")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its name."""
    return spec.name.startswith(PREFIX)


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """Options of parallel texts: `languages` are those of the columns or of the files, joined by +; by
    default two, which the file's name has, as in `en-de`."""

    languages: str | None = None


def open(spec: Spec) -> "Parallel":
    """Open `parallel:FILE.tsv[.gz][:languages=en+de]` or `parallel:STEM:languages=en+de`."""
    options = configure(ParallelOptions, spec.options, f"source {spec.name!r}")
    path = Path(spec.name.removeprefix(PREFIX))
    languages = _languages(path, options.languages)
    if path.is_file():
        return Parallel(str(path), languages, [_rows(path)])
    each = [path.with_name(f"{path.name}.{language}") for language in languages]
    for file in each:
        if not file.is_file():
            raise InputError(
                f"{path}: no such file, nor {file.name} beside it; name a .tsv file, or the files of languages "
                "without their endings"
            )
    return Parallel(str(path), languages, [_rows(file) for file in each])


def _rows(path: Path) -> TextRows:
    return TextRows(unpacked(str(path)) if path.suffix == ".gz" else str(path), blank=True)


def _languages(path: Path, given: str | None) -> tuple[str, ...]:
    """The languages. Raises InputError if there are fewer than two."""
    found = tuple(given.split("+")) if given is not None else ()
    if given is None and (named := _IN_NAME.search(path.name)):
        found = named.groups()
    if len(found) < 2 or len(set(found)) < len(found) or not all(map(_NAME.fullmatch, found)):
        raise InputError(
            f"{path}: its languages are {given or 'not in its name'}; name two or more, in the order of the columns, "
            "as in languages=en+de"
        )
    return found


class Parallel:
    """One sample for each line, with its number from 0 as key.

    Lines without a text in two languages, or with another number of columns, are counted in
    `damage` as "columns", those that are not UTF-8 as "utf8". Only the offsets of lines are held in
    memory. Raises InputError for files of different lengths, and without a readable line.
    """

    def __init__(self, name: str, languages: Sequence[str], files: Sequence[TextRows]):
        self.name = name
        self.languages = tuple(languages)
        self._files = tuple(files)
        lengths = {len(file) for file in files}
        if len(lengths) > 1:
            counts = ", ".join(f"{file.path} has {len(file):,}" for file in files)
            raise InputError(f"{name}: files of parallel texts have equally many lines; {counts}")
        damage: dict[str, str] = {}
        good = []
        for number in range(lengths.pop()):
            try:
                self._texts(number)
                good.append(number)
            except BadSample as bad:
                damage[f"{name}:{number + 1}"] = bad.reason
        if not good:
            raise InputError(
                f"{name}: none of its {len(damage):,} lines has {len(languages)} texts with tabs between; a table with "
                "names of columns is given without parallel:"
            )
        self.damage: Mapping[str, str] = damage
        self._good = np.array(good, np.int64)
        self._keys = Strings([str(number) for number in good])

    def _texts(self, number: int) -> dict[str, str]:
        """The texts of a line by language. Raises BadSample if it is no pair."""
        cells = [file[number]["caption"] for file in self._files]
        if len(cells) == 1:
            cells = cells[0].split("\t")
        found = {
            language: cell.strip()
            for language, cell in zip(self.languages, cells, strict=False)
            if cell.strip()
        }
        first = self.languages[0]
        if len(cells) != len(self.languages) or len(found) < 2 or first not in found:
            raise BadSample("columns", f"line {number + 1} has {len(cells)} columns")
        return found

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        first = self.languages[0]
        texts = [
            Text(text=text, role="caption" if language == first else language)
            for language, text in self._texts(int(self._good[index])).items()
        ]
        return Sample(key=self._keys[index], source=self.name, texts=texts)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def keys(self) -> Sequence[str]:
        """The numbers of the lines."""
        return self._keys

    def schema(self) -> Schema:
        """A caption, and a text for each other language, which single samples may lack if there are
        several."""
        others = self.languages[1:]
        optional = len(others) > 1
        return {
            "texts.caption": Field(kind="text"),
            **{f"texts.{name}": Field(kind="text", optional=optional) for name in others},
        }
