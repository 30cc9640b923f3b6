"""From a record (a JSON object, a table's row) to the parts of a sample, by one rule for all formats.

A string is a text whose role is its field's name; a list of strings is several. `caption`, `captions`, `text` and
`texts` are captions; `roles_of` reads what a user says otherwise. A whole or decimal number is a label, a list of
numbers an array, and `boxes` a list of `{"name": …, "box": [x, y, w, h]}`. Everything else is left alone.
"""

import codecs
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Box, Field, Sample, Schema, Source, Text
from diptych.errors import InputError

CAPTIONS = ("caption", "captions", "text", "texts")
_LOOKED_AT = 1000  # samples that a schema is read from


def roles_of(text: str | None) -> dict[str, str]:
    """The role of each field that the option `:text=` names: `FIELD+FIELD` are captions, `ROLE=FIELD+FIELD` are of
    another role, and `;` stands between them. Raises InputError where it does not read or names a field twice.

    >>> roles_of("raw;long=longIB+longSV")
    {'raw': 'caption', 'longIB': 'long', 'longSV': 'long'}
    """
    roles: dict[str, str] = {}
    for part in text.split(";") if text is not None else ():
        role, equals, fields = part.rpartition("=")
        for name in fields.split("+"):
            if not name or (equals and not role) or "=" in role:
                raise InputError(f":text={text} does not read; write FIELD+FIELD;ROLE=FIELD+FIELD")
            if name in roles:
                raise InputError(f":text={text} names the field {name!r} twice; a field has one role")
            roles[name] = role or "caption"
    return roles


@dataclass
class Parts:
    """What one record, or several about one picture, gave."""

    texts: list[Text] = field(default_factory=list)
    labels: dict[str, int | float] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)

    def add_text(self, text: str, role: str) -> None:
        """Append a text unless it is blank or there already (the .txt beside a .json often repeats it)."""
        text = text.strip()
        if text and (text, role) not in self._told:
            self._told.add((text, role))
            self.texts.append(Text(text=text, role=role))

    def add(self, record: Mapping[str, Any], roles: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add the fields of a record, `roles` being those of `roles_of`; of labels and arrays the first stays."""
        chosen = "caption" in roles.values()
        for name, value in record.items():
            if name not in roles and name in CAPTIONS:
                if chosen:
                    continue  # other fields were chosen to hold the captions
                role = "caption"
            else:
                role = roles.get(name, name)
            if isinstance(value, str):
                self.add_text(value, role)
            elif isinstance(value, bool | int | float):
                self.labels.setdefault(name, int(value) if isinstance(value, bool) else value)
            elif name == "boxes":
                self.boxes += [_box(entry) for entry in value or ()]
            elif isinstance(value, list) and value:
                if all(isinstance(entry, str) for entry in value):
                    for entry in value:
                        self.add_text(entry, role)
                elif all(isinstance(entry, int | float) for entry in value):
                    self.arrays.setdefault(name, np.asarray(value))


def _box(entry: Any) -> Box:
    try:
        x, y, w, h = (float(value) for value in entry["box"])
        return Box(xyxy=(x, y, x + w, y + h), text=str(entry.get("name", "")), label=int(entry.get("label", -1)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadSample("box", f"{entry!r} is not {{'name': …, 'box': [x, y, w, h]}}") from error


def schema_of(source: Source, classes: Mapping[str, Sequence[str]]) -> Schema:
    """The fields of a source as up to 1,000 of its samples, evenly spread, show them; `classes` names label values."""
    seen: dict[str, str] = {}
    count: dict[str, int] = {}
    looked = 0
    for index in dict.fromkeys(np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(int).tolist()):
        try:
            sample = source[index]
        except BadSample:
            continue
        looked += 1
        for name, kind in _fields(sample):
            count[name] = count.get(name, 0) + 1
            if seen.get(name) != "float":  # one decimal number makes a label a float
                seen[name] = kind
    return {
        name: Field(kind=kind, optional=count[name] < looked, classes=tuple(classes.get(name[7:], ())))
        for name, kind in seen.items()
    }


def _fields(sample: Sample) -> Iterable[tuple[str, str]]:
    yield from ((f"images.{role}", "image") for role in sample.images)
    yield from ((f"texts.{role}", "text") for role in dict.fromkeys(text.role for text in sample.texts))
    yield from (
        (f"labels.{name}", "float" if isinstance(value, float) else "int") for name, value in sample.labels.items()
    )
    yield from ((f"masks.{name}", "mask") for name in sample.masks)
    yield from ((f"arrays.{name}", "array") for name in sample.arrays)
    if sample.boxes:
        yield "boxes", "box"


def class_names(source: Source, roles: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[str]]:
    """Names of the integer labels that come with a text: `label` with `name`, `x_id` with `x`, `x` with `x_name`.

    `roles` are those that fields were given (`roles_of`). Only pairs where each number has one name count. Reads every
    sample's texts once, and only where the first samples show such a pair.
    """
    if not _pairs(source, range(min(len(source), 100)), roles):
        return {}
    return _pairs(source, range(len(source)), roles)


def _pairs(source: Source, indices: Iterable[int], roles: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, dict[int, str]] = {}
    refused: set[str] = set()
    for index in indices:
        try:
            sample = source[index]
        except BadSample:
            continue
        for label, value in sample.labels.items():
            if label in refused or not isinstance(value, int):
                continue
            held = (sample.captions(roles.get(name, name))[:1] for name in _partners(label))
            text = next((text for texts in held for text in texts), None)
            if text is None or names.setdefault(label, {}).setdefault(value, text) != text:
                refused.add(label)
    found = {}
    for label, table in names.items():
        if label not in refused and min(table) >= 0 and max(table) < 100_000:
            found[label] = [table.get(number, str(number)) for number in range(max(table) + 1)]
    return found


def _partners(label: str) -> tuple[str, ...]:
    if label.endswith("_id"):
        return (label[:-3],)
    return ("name", "label_name", "class_name") if label in {"label", "class"} else (f"{label}_name",)


def labels_of(source: Source, name: str) -> np.ndarray:
    """One label of every sample (N,), -1 where it is missing or the sample is damaged; reads texts, not pictures."""
    values = []
    for index in range(len(source)):
        try:
            values.append(source[index].labels.get(name, -1))
        except BadSample:
            values.append(-1)
    return np.array(values)


def read_text(data: bytes) -> str:
    """UTF-8, with or without a byte-order mark. Raises BadSample("utf8")."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()  # six times as fast as the codec utf-8-sig
    except UnicodeDecodeError as error:
        raise BadSample("utf8", str(error)) from error


def read_json(data: bytes) -> dict:
    """A JSON object. Raises BadSample: utf8, or json."""
    try:
        record = json.loads(read_text(data))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadSample("json", str(error)) from error
    if not isinstance(record, dict):
        raise BadSample("json", f"a {type(record).__name__}, not an object")
    return record


def json_of(path: Path) -> Any:
    """What a JSON file that is a source of its own holds. Raises InputError where it is not there, or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); check where it came from") from error


def read_npy(data: bytes) -> np.ndarray:
    """A plain NumPy array. Raises BadSample: pickled (object arrays, which would run code), or npy."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise BadSample("pickled" if "pickle" in str(error) else "npy", str(error)) from error
    except (EOFError, OSError, SyntaxError) as error:
        raise BadSample("npy", str(error)) from error
