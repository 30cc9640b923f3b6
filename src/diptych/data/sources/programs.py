"""Diagram programs in a file, drawn afresh: `programs:FILE`, with captions and edits.

A row of JSON lines, or a JSON member of a tar file, has

    points          {letter: [x, y]}, y downwards, in any unit
    polygons        [[shape, name], …]                   segments     [name of two letters, …]
    circles         {letter of the centre: radius}       lengths      {segment: what is written beside it}
    relations       [[kind, segment, segment], …]

all but the points optional, and perhaps an `id`. In place of segments, lengths and relations it may
have the `lines` and `diagram_forms` of Geometry3K (Lu et al. 2021), in which points without a place
have negative coordinates.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Field, Sample, Schema, Text
from diptych.data.sources.rows import JsonRows
from diptych.data.worlds import Drawn, Rendered
from diptych.data.worlds.diagrams import Program, caption_of, draw
from diptych.data.worlds.diagrams.edits import GROUPS
from diptych.data.worlds.diagrams.program import MARKS
from diptych.errors import InputError
from diptych.rng import generator
from diptych.spec import Spec, configure, several

FORMAT = "programs"
PREFIX = "programs:"
KINDS = ("letters", "number", "relation")
_MOST = 1 << 20  # bytes of a program
_MARGIN = 0.16  # of the image around the points, for letters
_LINE = r"Line\((\w+), ?(\w+)\)"
_FORMS = {
    "parallel": re.compile(rf"Parallel\({_LINE}, ?{_LINE}\)"),
    "perpendicular": re.compile(rf"Perpendicular\({_LINE}, ?{_LINE}\)"),
    "equal": re.compile(rf"Equals\(LengthOf\({_LINE}\), ?LengthOf\({_LINE}\)\)"),
}
_LENGTH = re.compile(rf"Equals\(LengthOf\({_LINE}\), ?([^()]+)\)")

_WRITTEN = re.compile(r"[\w.+-]{1,6}")  # what fits beside a segment


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """Options of a file of programs: the images' `size`, kinds of `edits` (letters, number,
    relation, or all), `number` edits of a sample, `max_facts` facts of a program, as a small image shows
    no more (0: no limit). Programs without facts, or with more, are left out."""

    size: int = 64
    edits: str = ""
    number: int = 9
    max_facts: int = 0


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


def open(spec: Spec) -> "Programs":
    """Open `programs:FILE[:size=64][:edits=all][:number=9][:max_facts=N]`.

    Raises InputError for a missing file, and for a program that cannot be drawn, such as a polygon
    whose sides cross.
    """
    options = configure(ProgramOptions, spec.options, f"source {spec.name!r}")
    path = spec.name.removeprefix(PREFIX)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file of diagram programs; check the path")
    found: dict[str, Program] = {}
    for where, row in _rows(path):
        if isinstance(row, BadSample) or not isinstance(row, dict) or "points" not in row:
            raise InputError(f"{path}, {where}: no diagram program; give it points")
        try:
            program = program_of(row)
        except InputError as error:
            raise InputError(f"{path}, {where}: {error}") from None
        except (TypeError, ValueError, AttributeError):
            raise InputError(
                f"{path}, {where}: a field of the program has another form; docs/data.md lists them"
            ) from None
        if _stated(program) and (not options.max_facts or _stated(program) <= options.max_facts):
            found[str(row.get("id", where))] = program
    if not found:
        raise InputError(
            f"{path}: no program states a fact, or all more than max_facts={options.max_facts}"
        )
    return Programs(str(spec), found, options)


def _stated(program: Program) -> int:
    """The number of facts in the caption of a program."""
    return len(program.polygons) + len(program.lengths) + len(program.relations)


def _rows(path: str) -> Iterator[tuple[str, Any]]:
    """Each program of a file with its place."""
    if not tarfile.is_tarfile(path):
        for number, row in enumerate(JsonRows(path).scan(), 1):
            yield f"line {number}", row
        return
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".json") else None
            if file is not None:
                yield member.name, _member(file.read(_MOST + 1))


def _member(data: bytes) -> Any:
    """The content of a JSON file in a tar; a BadSample for one that is damaged or far too large."""
    if len(data) > _MOST:
        return BadSample("bomb", f"more than {_MOST:,} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        return BadSample("json", str(error))


def program_of(row: Mapping[str, Any]) -> Program:
    """Return the program of a row, whose points fill the unit square up to a margin.

    Raises InputError for a program that cannot be drawn.

    >>> row = {"points": {"A": [0, 0], "B": [4, 0], "C": [4, 3]}, "lines": ["AB", "BC", "AC"]}
    >>> program_of({**row, "diagram_forms": ["Perpendicular(Line(A, B), Line(B, C))"]}).relations
    (('perpendicular', 'AB', 'BC'),)
    """
    forms = "diagram_forms" in row
    points = {
        name: tuple(place)
        for name, place in row["points"].items()
        if not forms or min(place) >= 0  # so Geometry3K marks points without a place
    }
    circles = {
        centre: radius
        for centre, radius in (row.get("circles") or {}).items()
        if radius and centre in points
    }
    given: dict[str, Any] = {
        "segments": row.get("segments", ()),
        "lengths": dict(row.get("lengths") or {}).items(),
        "relations": row.get("relations", ()),
    }
    if forms:
        given = _read(row, set(points))
    place, scale = _fitted(points, circles)
    return Program.of(
        {name: place(point) for name, point in points.items()},
        polygons=row.get("polygons", ()),
        circles={centre: radius * scale for centre, radius in circles.items()},
        **given,
    )


def _read(row: Mapping[str, Any], points: set[str]) -> dict[str, Any]:
    """Segments, lengths and relations of lines and logic forms, of points that have a place; lengths
    with more than a short number or term are left out."""

    def drawn(*names: str) -> bool:
        return all(set(name) <= points and len(name) == 2 and name[0] != name[1] for name in names)

    lengths = {}
    relations = []
    for form in row["diagram_forms"]:
        if match := _LENGTH.fullmatch(form):
            lengths[match[1] + match[2]] = match[3].strip()
        for kind, pattern in _FORMS.items():
            if match := pattern.fullmatch(form):
                relations.append((kind, match[1] + match[2], match[3] + match[4]))
    return {
        "segments": [name for name in row.get("lines", ()) if drawn(name)],
        "lengths": [
            (name, value)
            for name, value in lengths.items()
            if drawn(name) and _WRITTEN.fullmatch(value)
        ],
        "relations": [each for each in relations if drawn(each[1], each[2])],
    }


def _fitted(points: Mapping[str, Sequence[float]], circles: Mapping[str, float]) -> Any:
    """The map from the points' plane to the unit square, and its scale."""
    if not points:
        return None, 1.0
    reach = [(x - r, y - r) for name, (x, y) in points.items() for r in [circles.get(name, 0)]]
    reach += [(x + r, y + r) for name, (x, y) in points.items() for r in [circles.get(name, 0)]]
    low = np.min(reach, axis=0)
    high = np.max(reach, axis=0)
    scale = (1 - 2 * _MARGIN) / max(float(np.max(high - low)), 1e-9)
    start = 0.5 - scale * (low + high) / 2

    def place(point: Sequence[float]) -> tuple[float, float]:
        return float(start[0] + scale * point[0]), float(start[1] + scale * point[1])

    return place, scale


def edits_of(
    program: Program, kinds: Sequence[str], most: int, seed: int
) -> list[tuple[str, Program]]:
    """Return at most `most` edits of a program, of its kinds in turn, each with its kind; they state
    different facts."""
    options = {"letters": _letters, "number": _numbers, "relation": _relations}
    waiting = []
    for kind in kinds:
        found = list(options[kind](program))
        order = generator(seed, "edit", kind).permutation(len(found))
        waiting.append((kind, iter([found[int(at)] for at in order])))
    seen = {program.facts}
    edits: list[tuple[str, Program]] = []
    while waiting and len(edits) < most:
        kind, edited = waiting.pop(0)
        for edit in edited:
            if edit.facts not in seen:
                seen.add(edit.facts)
                edits.append((kind, edit))
                waiting.append((kind, edited))
                break
    return edits


def _letters(program: Program) -> Iterator[Program]:
    """Two letters exchanged, everywhere."""
    names = "".join(program.at)
    for first, one in enumerate(names):
        for two in names[first + 1 :]:
            table = str.maketrans(one + two, two + one)
            yield Program(
                points=tuple((name.translate(table), point) for name, point in program.points),
                polygons=tuple((shape, name.translate(table)) for shape, name in program.polygons),
                segments=tuple(name.translate(table) for name in program.segments),
                circles=tuple((name.translate(table), radius) for name, radius in program.circles),
                lengths=tuple((name.translate(table), value) for name, value in program.lengths),
                relations=tuple(
                    (kind, first.translate(table), second.translate(table))
                    for kind, first, second in program.relations
                ),
            )


def _numbers(program: Program) -> Iterator[Program]:
    """A whole number beside a segment a little larger or smaller."""
    for at, (segment, value) in enumerate(program.lengths):
        for change in (-3, -2, -1, 1, 2, 3):
            if value.isdecimal() and int(value) + change > 0:
                new = (segment, str(int(value) + change))
                yield replace(
                    program, lengths=(*program.lengths[:at], new, *program.lengths[at + 1 :])
                )


def _relations(program: Program) -> Iterator[Program]:
    """Two segments marked with another relation of the same group. Lines and circles lie where the
    program has them, and keep theirs."""
    for at, (kind, *both) in enumerate(program.relations):
        [group] = [group for group in GROUPS if kind in group]
        for other in group:
            if other != kind and kind in MARKS:
                new = (other, both[0], both[1])
                rest = program.relations
                yield replace(program, relations=(*rest[:at], new, *rest[at + 1 :]))


class Programs:
    """One sample per program that states a fact, in order; its id, or its place, is the key."""

    name: str

    def __init__(self, name: str, programs: Mapping[str, Program], options: ProgramOptions):
        self.name = name
        self._keys = list(programs)
        self._programs = list(programs.values())
        self.options = options
        self.kinds = several("edit of programs", options.edits, KINDS) if options.edits else ()

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        program = self._programs[index]
        edits = edits_of(program, self.kinds, self.options.number, index)
        key = self._keys[index]
        return replace(
            self._sample(program, key, index),
            edits=[
                replace(self._sample(edit, f"{key}/{at}", index), kind=kind)
                for at, (kind, edit) in enumerate(edits)
            ],
        )

    def _sample(self, program: Program, key: str, wording: int) -> Sample:
        caption = caption_of(program, wording)
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, program).image()},  # type: ignore[arg-type]
            texts=(Text(text=caption),),
        )

    def render(self, program: Program) -> Rendered:
        """The drawing of a program."""
        return Rendered(image=draw(program, self.options.size))

    def keys(self) -> Sequence[str]:
        """The ids of the programs."""
        return self._keys

    def schema(self) -> Schema:
        """Images, captions, and edits."""
        found = {"images.main": Field(kind="image"), "texts.caption": Field(kind="text")}
        return found | ({"edits": Field(kind="edit", optional=True)} if self.kinds else {})
