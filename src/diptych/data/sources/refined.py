"""A source with the refined captions that `diptych data refine` wrote for it: `refined:refined.jsonl`.

The file has a line about the source, and then for each sample in order an object {"key": …,
"captions": ["…", …]}. These take the place of the sample's texts of the role; samples for which none
was kept are left out.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.compact import Strings
from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text, keys_digest
from diptych.data.sources.rows import JsonRows
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.spec import Spec, configure

FORMAT = "refined"
PREFIX = "refined:"


@dataclass(frozen=True, kw_only=True)
class RefinedOptions:
    """`source` is the current spec of the source, by default that at the time of refining."""

    source: str | None = None


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


def open(spec: Spec) -> "Refined":
    """Open `refined:FILE.jsonl[:source=SPEC]`.

    Raises InputError if FILE has another form, or if the source has changed since.
    """
    from diptych.data.sources import open_source  # which scans this folder

    options = configure(RefinedOptions, spec.options, f"source {spec.name!r}")
    path = spec.name.removeprefix(PREFIX)
    how = f"`diptych data refine SOURCE --out {path}`"
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; {how} makes it")
    rows = list(JsonRows(path).scan())
    head: Any = rows[0] if rows and not isinstance(rows[0], BadSample) else {}
    if not isinstance(head.get("source"), str) or not isinstance(head.get("role"), str):
        raise InputError(f"{path}: its first line names no source and role; {how} makes it")
    source = open_source(options.source or head["source"])
    if keys_digest(source) != head.get("keys") or len(rows) != len(source) + 1:
        raise InputError(
            f"{path} was made of {head['source']} with other samples than are there now; refine it again"
        )
    captions = [_captions(path, number, row) for number, row in enumerate(rows[1:], 2)]
    return Refined(source, captions, head["role"], str(spec))


def _captions(path: str, line: int, row: Any) -> list[str]:
    captions = None if isinstance(row, BadSample) else row.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise InputError(f"{path}, line {line}: captions are no list of texts; refine again")
    return captions


def write(
    path: Path, spec: str, source: Source, role: str, captions: Iterable[Sequence[str]]
) -> None:
    """Write the file for `refined:FILE`, of a source opened from `spec`: the captions of each sample in
    order."""
    head = {"source": spec, "role": role, "keys": keys_digest(source)}

    def fill(at: Path) -> None:
        with at.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head, ensure_ascii=False) + "\n")
            for key, texts in zip(source.keys(), captions, strict=True):
                row = {"key": key, "captions": list(texts)}
                file.write(json.dumps(row) + "\n")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, fill)


class Refined(Wrapped):
    """The samples of a source for which captions were kept, with these as their texts of a role."""

    def __init__(self, source: Source, captions: Sequence[Sequence[str]], role: str, name: str):
        rows = np.array([at for at, texts in enumerate(captions) if texts], np.int64)
        if not len(rows):
            raise InputError(f"{name}: no caption was kept; loosen the rules")
        super().__init__(source, rows, name)
        self.role = role
        self._texts = Strings(text for texts in captions for text in texts)
        self._ends = np.cumsum([len(captions[row]) for row in rows])

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        sample = super().__getitem__(at)
        start = int(self._ends[at - 1]) if at else 0
        own = [
            Text(text=self._texts[row], role=self.role) for row in range(start, int(self._ends[at]))
        ]
        others = [text for text in sample.texts if text.role != self.role]
        return replace(sample, texts=[*own, *others])

    def schema(self) -> Schema:
        """The fields of the source, and texts of the role."""
        return {**super().schema(), f"texts.{self.role}": Field(kind="text")}
