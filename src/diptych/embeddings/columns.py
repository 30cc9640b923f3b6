"""Columns of a source that a folder of embeddings keeps with its rows, such as a price.

A column is a label or a text role of the source. A number stays one, a label with class names
becomes the name, and of several texts of a role the first is kept. A value that is missing (by the
conventions of `Sample`: no such field, NaN, -1 of a class) is null.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, brief, unknown

Kind = Literal["int", "float", "text"]
Value = int | float | str | None

ALWAYS: Mapping[str, Kind] = {
    "key": "text",
    "position": "int",
    "image_path": "text",
    "caption": "text",
}
"""The columns that every folder has."""

SIDES: Mapping[str, Kind] = {
    "left": "float",
    "top": "float",
    "right": "float",
    "bottom": "float",
}
"""The columns of a region's box, in pixels of its image; only folders of regions have them."""

_OF_HITS = ("rank", "score", "box", "match")  # what a result adds to the columns of its row


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its kind, and the class names where its numbers are classes."""

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()

    def value(self, sample: Sample) -> Value:
        """Return the value of a sample. Raises BadSample for words in a column of numbers."""
        number = sample.labels.get(self.name)
        texts = sample.captions(self.name)
        if self.kind == "text":
            return texts[0] if texts else self._as_text(number)
        if number is None and texts:
            raise BadSample(
                "columns", f"{self.name} is {brief(repr(texts[0]), 40)} and not a number"
            )
        return None if number is None or number != number else number  # NaN differs from itself

    def _as_text(self, number: int | float | None) -> str | None:
        if number is None or number != number:
            return None
        if not self.classes:
            return str(number)
        return self.classes[int(number)] if 0 <= number < len(self.classes) else None


def find_columns(
    source: Source, names: Sequence[str], taken: Iterable[str] = ()
) -> tuple[Column, ...]:
    """Return the columns of a source by their names.

    Raises InputError for a column that the source does not have or that every folder has, or this one
    (`taken`), and for one that is named twice.

    >>> from diptych.data.sources import open_source
    >>> [column] = find_columns(open_source("glyphs:split=test"), ["group"])
    >>> column.kind, column.value(open_source("glyphs:split=test")[0])
    ('text', 'smileys-emotion')
    """
    if isinstance(names, str):
        raise InputError(f"columns is the text {names!r}; give a list of names")
    fields = source.schema()
    have = [
        name.partition(".")[2]
        for name in fields
        if name.startswith(("labels.", "texts.")) and name.partition(".")[2] not in ALWAYS
    ]
    columns: list[Column] = []
    for name in names:
        if name in (*ALWAYS, *_OF_HITS, *taken):
            raise InputError(
                f"{name!r} is a column that every search shows; leave it out of the columns to keep, or "
                "rename your own"
            )
        if name not in have:
            raise unknown(f"column of {source.name}", name, dict.fromkeys(have))
        if any(name == column.name for column in columns):
            raise InputError(f"the column {name!r} is named twice; name it once")
        label = fields.get(f"labels.{name}")
        classes = label.classes if label is not None else ()
        if label is None or classes or f"texts.{name}" in fields:
            columns.append(Column(name, "text", classes))
        else:
            columns.append(Column(name, "float" if label.kind == "float" else "int"))
    return tuple(columns)


def united(parts: Iterable[Mapping[str, Kind]]) -> dict[str, Kind]:
    """Return the columns of several folders as those of one: each column that one of them has, of
    decimals if one of them has these.

    >>> united([{"price": "int"}, {"brand": "text"}, {"price": "float"}])
    {'price': 'float', 'brand': 'text'}
    """
    found: dict[str, Kind] = {}
    for columns in parts:
        for name, kind in columns.items():
            first = found.setdefault(name, kind)
            if (first, kind) == ("int", "float"):
                found[name] = "float"
    return found


def arrow(kind: Kind, values: Sequence[Value]) -> Any:
    """Return the values of one part as a pyarrow array.

    Whole numbers are int64. If a later part of the source has decimals among them, its column is
    float64; this depends on the values alone, so that a copy of the rows has the same type.
    """
    import pyarrow

    if kind == "text":
        return pyarrow.array(values, pyarrow.string())
    numbers = [value for value in values if isinstance(value, int | float)]
    if kind == "float" or not all(float(number).is_integer() for number in numbers):
        return pyarrow.array(
            [None if value is None else float(value) for value in values], pyarrow.float64()
        )
    return pyarrow.array(
        [None if value is None else int(value) for value in values], pyarrow.int64()
    )
