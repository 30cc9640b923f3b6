"""Sources whose images have concepts beside their captions, as texts of role `concept`:

    rewritten:rewritten.jsonl          another source with what `diptych data rewrite` found for it
    rewritten:'shards/{000..331}.tar'  shards whose .txt members have the caption on the first line, the
                                       scores on the second and the clusters on the third

Scores are a JSON object {"dog": 1.9, …}. Clusters are a list of lists of its names, or an object whose
values are such lists. The attributes of a concept are its `score` and the number of its `cluster`; one
that is in no cluster has one of its own.

The file of `rewrite` has a line about the source, and then for each sample in order an object
{"key": …, "scores": …, "clusters": …}.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text, keys_digest
from diptych.data.sources.rows import JsonRows
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, shortened
from diptych.files import write_atomic
from diptych.spec import Spec, configure

FORMAT = "rewritten"
PREFIX = "rewritten:"
ROLE = "concept"
SCORE = "score"
CLUSTER = "cluster"
Found = tuple[Mapping[str, float], Iterable[Iterable[str]]]
"""The scores of an image's concepts by name, and their clusters as lists of names."""


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


@dataclass(frozen=True, kw_only=True)
class RewrittenOptions:
    """`source` is the current spec of the source, by default that at the time of rewriting."""

    source: str | None = None


def open(spec: Spec) -> "Rewritten":
    """Open `rewritten:FILE.jsonl[:source=SPEC]`, or `rewritten:SHARDS`.

    Raises InputError if FILE has another form, or if the source has changed since.
    """
    from diptych.data.sources import open_source  # which scans this folder

    path = spec.name.removeprefix(PREFIX)
    if not path.endswith(".jsonl"):
        return ThreeLines(open_source(str(Spec(path, spec.options))))
    options = configure(RewrittenOptions, spec.options, f"source {spec.name!r}")
    if not Path(path).is_file():
        raise InputError(
            f"{path}: no such file; `diptych data rewrite SOURCE --model MODEL --gallery names.txt --out {path}` "
            "makes it"
        )
    rows = JsonRows(path)
    try:
        head = rows[0]
    except BadSample:
        head = {}
    if not isinstance(head.get("source"), str):
        raise InputError(
            f"{path}: its first line names no source; make it with `diptych data rewrite`"
        )
    source = open_source(options.source or head["source"])
    if keys_digest(source) != head.get("keys") or len(rows) != len(source) + 1:
        raise InputError(
            f"{path} was made of {head['source']} with other samples than are there now; rewrite it again"
        )
    return OfFile(source, rows, str(spec))


def write(path: Path, spec: str, source: Source, model: str, found: Iterable[Found]) -> None:
    """Write the file for `rewritten:FILE`, of a source opened from `spec`: what was found for each
    sample by a model of this name."""
    head = {"source": spec, "keys": keys_digest(source), "model": model}

    def fill(at: Path) -> None:
        with at.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head, ensure_ascii=False) + "\n")
            for key, (scores, clusters) in zip(source.keys(), found, strict=True):
                row = {"key": key, "scores": dict(scores), "clusters": [[*own] for own in clusters]}
                file.write(json.dumps(row) + "\n")

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, fill)


class Rewritten(Wrapped):
    """A source whose samples have concepts too. Subclasses say where these come from."""

    def schema(self) -> Schema:
        """The fields of the source, and the concepts."""
        return {**super().schema(), f"texts.{ROLE}": Field(kind="text", optional=True)}


class OfFile(Rewritten):
    """The samples of a source with the concepts in the rows of a file, behind its first one."""

    def __init__(self, source: Source, rows: JsonRows, name: str):
        super().__init__(source, None, name)
        self._rows = rows

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        sample = super().__getitem__(at)
        row = self._rows[1 + at]
        concepts = as_texts(row.get("scores"), row.get("clusters"))
        return replace(sample, texts=[*sample.texts, *concepts])


class ThreeLines(Rewritten):
    """The samples of a source whose captions are followed by lines of scores and of clusters."""

    def __init__(self, source: Source):
        super().__init__(source, None, f"{PREFIX}{source.name}")

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        texts: list[Text] = []
        for text in sample.texts:
            lines = text.text.strip().splitlines()
            if text.role != "caption" or len(lines) != 3:
                texts.append(text)
                continue
            texts.append(replace(text, text=lines[0].strip()))
            texts += as_texts(_json(lines[1]), _json(lines[2]))
        return replace(sample, texts=texts)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadSample("concepts", f"{shortened(line)!r} is not JSON") from error


def as_texts(scores: Any, clusters: Any) -> list[Text]:
    """The concepts of a sample as texts, from its scores and clusters. Raises BadSample("concepts") for
    other forms than those of this format.

    >>> [(text.text, dict(text.attrs)) for text in as_texts({"dog": 2.0, "car": 1.5}, [["car"]])]
    [('dog', {'score': 2.0, 'cluster': 1}), ('car', {'score': 1.5, 'cluster': 0})]
    """
    if isinstance(clusters, Mapping):
        clusters = list(clusters.values())
    if not isinstance(scores, Mapping) or not isinstance(clusters, list):
        raise BadSample("concepts", "scores are an object of numbers, clusters lists of names")
    numbers: dict[str, int] = {}
    for number, names in enumerate(clusters):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadSample("concepts", f"cluster {number} is no list of names")
        for name in names:
            numbers.setdefault(name, number)
    texts = []
    for at, (name, score) in enumerate(scores.items()):
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise BadSample("concepts", f"the score of {name!r} is {score!r}, not a number")
        attrs = {SCORE: float(score), CLUSTER: numbers.get(name, len(clusters) + at)}
        texts.append(Text(text=name, role=ROLE, attrs=attrs))
    return texts
