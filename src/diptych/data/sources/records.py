"""Convert a record (a JSON object, a table's row) to the parts of a sample, by one rule for all
formats.

A string is a text whose role is the field's name; a list of strings is several texts. `caption`,
`captions`, `text` and `texts` are captions, and words in `labels` have the role `label`; users set
other roles by `roles_of`. An integer or float is a label; a list of numbers, or of equally long lists
of numbers, is an array.

    boxes               [{"name": …, "box": [x, y, w, h]}, …], with "image": ROLE if not of the image main, and
                        "segmentation": {"size": [H, W], "counts": …}, the mask of the object, as of COCO
    edits               [{"kind": …, and any of these fields}, …]
    lines, words        [{"text": …, "box": …}, …], text written in the image: boxes, and one text of role `ocr`
    segments            [{"index": …, "name": …}, …], names of the numbers of the mask `seg` in this image
    mask_classes        {MASK: {NUMBER: NAME}}, names of the numbers of a mask in all images

Other mappings of names to numbers, or to equally long lists of numbers, are arrays with a row per
name (NaN for null), and the names are texts. All other fields are ignored.
"""

import codecs
import io
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from diptych.data.emotions import EMOTION, EXPLANATION
from diptych.data.outlines import from_rle
from diptych.data.sample import BadSample, Box, Field, Sample, Schema, Source, Text, whole
from diptych.errors import InputError, brief

CAPTIONS = ("caption", "captions", "text", "texts")
LABELS = "labels"
"""The field whose words are texts of role `label`."""
_SAMPLED = 1000  # samples from which a schema is inferred


def roles_of(text: str | None) -> dict[str, str]:
    """The role of each field named by the option `:text=`.

    `FIELD+FIELD` are captions, `ROLE=FIELD+FIELD` are of another role, separated by `;`. Raises
    InputError for invalid syntax and a field that is named twice.

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
                raise InputError(
                    f":text={text} names the field {name!r} twice; a field has one role"
                )
            roles[name] = role or "caption"
    return roles


@dataclass
class Parts:
    """The parts of a sample, from one or several records of one image."""

    texts: list[Text] = field(default_factory=list)
    labels: dict[str, int | float] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)  # of the mask `seg`
    mask_classes: dict[str, dict[int, str]] = field(default_factory=dict)
    edits: list[tuple[str, "Parts"]] = field(default_factory=list)  # each with its kind
    _noted: set[tuple[str, str]] = field(default_factory=set)

    def add_text(self, text: str, role: str) -> None:
        """Append a text unless it is blank or a duplicate (a .txt often repeats the text of its
        .json). Several people may feel the same emotion, for the same reason."""
        text = text.strip()
        if text and (role in (EMOTION, EXPLANATION) or (text, role) not in self._noted):
            self._noted.add((text, role))
            self.texts.append(Text(text=text, role=role))

    def add(
        self, record: Mapping[str, Any], roles: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Add the fields of a record, with `roles` from `roles_of`; the first value of a label or
        array is kept."""
        chosen = "caption" in roles.values()
        for name, value in record.items():
            if name not in roles and name in CAPTIONS:
                if chosen:
                    continue  # other fields were chosen to hold the captions
                role = "caption"
            else:
                role = roles.get(name, "label" if name == LABELS else name)
            if isinstance(value, str):
                self.add_text(value, role)
            elif isinstance(value, bool | int | float):
                self.labels.setdefault(name, number(value, name))
            elif name == "boxes":
                self.boxes += [_box(entry) for entry in value or ()]
            elif name == "segments":
                self.segments |= _segments(value)
            elif name == "mask_classes":
                self.mask_classes |= _mask_classes(value)
            elif name == "edits" and _mappings(value):
                self.edits += [_edit(entry, roles) for entry in value]
            elif name in _WRITTEN and _mappings(value):
                self._add_written(value, _WRITTEN[name])
            elif isinstance(value, Mapping):
                self._add_named(name, value, role)
            elif isinstance(value, list) and value:
                if all(isinstance(entry, str) for entry in value):
                    for entry in value:
                        self.add_text(entry, role)
                elif role == "label" and any(isinstance(entry, str) for entry in value):
                    raise BadSample("label", f"{brief(repr(value))} in {name} are not all words")
                else:
                    self._add_numbers(name, value)

    def edited(
        self, key: str, source: str, images: MutableMapping[str, Any] | None = None
    ) -> list[Sample]:
        """The edits of the sample `key`, which take theirs out of `images`: NAME, and NAME.ROLE.

        A name is the edit's kind in lower case, numbered from the second of a kind.
        """
        found = []
        for name, (kind, parts) in zip(
            edit_names([kind for kind, _ in self.edits]), self.edits, strict=True
        ):
            own = [role for role in images or () if role == name or role.startswith(f"{name}.")]
            edit = Sample(
                key=f"{key}/{name}",
                source=source,
                images={role[len(name) + 1 :] or "main": images.pop(role) for role in own},  # type: ignore[union-attr]
                texts=parts.texts,
                labels=parts.labels,
                boxes=parts.boxes,
                arrays=parts.arrays,
                kind=kind,
            )
            found.append(edit)
        return found

    def _add_written(self, entries: Sequence[Mapping[str, Any]], between: str) -> None:
        """Add the text written in an image: a box per entry, and all entries as one text."""
        reported = [str(entry.get("text") or "").strip() for entry in entries]
        self.boxes += [
            _box({**entry, "name": text}) for entry, text in zip(entries, reported, strict=True)
        ]
        self.add_text(between.join(text for text in reported if text), "ocr")

    def _add_named(self, name: str, rows: Mapping[str, Any], role: str) -> None:
        """Add numbers by name as an array, and the names as texts in the same order."""
        if self._add_numbers(name, [math.nan if row is None else row for row in rows.values()]):
            for text in rows:
                self.add_text(str(text), role)

    def _add_numbers(self, name: str, values: Sequence[Any]) -> bool:
        """Add numbers, or equally long rows of them, as an array; False if they are something
        else."""
        rows = values if all(isinstance(each, list) for each in values) else [values]
        if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
            return False
        if not all(isinstance(value, int | float) for row in rows for value in row):
            return False
        for row in rows:
            for value in row:
                number(value, name)  # rejects numbers that would give an array of objects
        self.arrays.setdefault(name, np.asarray(values))
        return True


_WRITTEN = {
    "lines": "\n",
    "words": " ",
}  # fields with the text written in an image, and the separator of entries


def _mappings(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, Mapping) for entry in value)
    )


def edit_names(kinds: Sequence[str]) -> list[str]:
    """The names of edits of these kinds: in lower case, numbered from the second of a kind.

    >>> edit_names(["swap", "add", "swap"])
    ['swap', 'add', 'swap2']
    """
    seen: Counter[str] = Counter()
    names = []
    for kind in map(str.lower, kinds):
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}{seen[kind]}")
    return names


def _edit(entry: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[str, Parts]:
    kind = entry.get("kind")
    if not isinstance(kind, str) or not kind.strip():
        raise BadSample("edit", f"{brief(repr(entry))} has no kind; write {{'kind': 'swap', …}}")
    parts = Parts()
    parts.add({name: value for name, value in entry.items() if name != "kind"}, roles)
    return kind, parts


def _segments(value: Any) -> dict[int, str]:
    try:
        return {int(entry["index"]): str(entry["name"]) for entry in value or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise BadSample(
            "segments", f"{str(value)[:80]} is not [{{'index': …, 'name': …}}, …]"
        ) from error


def _mask_classes(value: Any) -> dict[str, dict[int, str]]:
    try:
        return {
            mask: {int(number): str(name) for number, name in names.items()}
            for mask, names in value.items()
        }
    except (AttributeError, ValueError) as error:
        raise BadSample(
            "mask_classes", f"{str(value)[:80]} is not {{MASK: {{NUMBER: NAME}}}}"
        ) from error


def number(value: bool | int | float, name: str) -> int | float:
    """A label or entry of an array as a number. Raises BadSample("number") for integers beyond 64
    bits.

    >>> number(True, "seen"), number(0.5, "score")
    (1, 0.5)
    """
    if isinstance(value, float):
        return value
    if not -(2**63) <= value < 2**63:
        raise BadSample("number", f"{name} is a whole number beyond 64 bits")
    return int(value)


def whole_number(text: str, name: str) -> int:
    """Parse a label. Raises BadSample: label (not an integer), or number (beyond 64 bits)."""
    if not re.fullmatch(r"-?[0-9]+", text):
        raise BadSample("label", f"{text[:40]!r} in {name} is not a whole number")
    if len(text.lstrip("-0")) > 19:
        raise BadSample("number", f"{name} is a whole number beyond 64 bits")
    return int(number(int(text), name))


def _box(entry: Any) -> Box:
    try:
        x, y, w, h = (float(value) for value in entry["box"])
        rle = entry.get("segmentation")
        return Box(
            xyxy=(x, y, x + w, y + h),
            text=str(entry.get("name", "")),
            label=int(entry.get("label", -1)),
            image=str(entry.get("image", "main")),
            mask=from_rle(rle) if rle else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadSample(
            "box", f"{brief(repr(entry))} is not {{'name': …, 'box': [x, y, w, h]}}"
        ) from error


def schema_of(source: Source, classes: Mapping[str, Sequence[str]]) -> Schema:
    """Infer the fields of a source from up to 1,000 evenly spaced samples; `classes` are class
    names of labels."""
    seen: dict[str, str] = {}
    count: dict[str, int] = {}
    looked = 0
    for index in dict.fromkeys(
        np.linspace(0, len(source) - 1, min(len(source), _SAMPLED)).astype(int).tolist()
    ):
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
        name: Field(
            kind=kind,
            optional=count[name] < looked,
            classes=tuple(classes.get(name.removeprefix("labels."), ())),
        )
        for name, kind in seen.items()
    }


def _fields(sample: Sample) -> Iterable[tuple[str, str]]:
    yield from ((f"images.{role}", "image") for role in sample.images)
    yield from (
        (f"texts.{role}", "text") for role in dict.fromkeys(text.role for text in sample.texts)
    )
    yield from (
        (f"labels.{name}", "float" if isinstance(value, float) else "int")
        for name, value in sample.labels.items()
    )
    yield from ((f"masks.{name}", "mask") for name in sample.masks)
    yield from ((f"arrays.{name}", "array") for name in sample.arrays)
    if sample.boxes:
        yield "boxes", "box"
    if any(box.mask is not None for box in sample.boxes):
        yield "boxes.mask", "mask"
    if sample.edits:
        yield "edits", "edit"


def class_names(
    source: Source, roles: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[str]]:
    """Class names of integer labels from paired texts: `label` with `name`, `x_id` with `x`, `x`
    with `x_name`.

    `roles` are those of fields (`roles_of`). A pair counts only if each number has one name. All
    samples' texts are read once, but only if the first samples have such a pair.
    """
    if not _pairs(source, range(min(len(source), 100)), roles):
        return {}
    return _pairs(source, range(len(source)), roles)


def _pairs(
    source: Source, indices: Iterable[int], roles: Mapping[str, str]
) -> dict[str, list[str]]:
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
            text = _name_of(sample, label, roles)
            if text is None or names.setdefault(label, {}).setdefault(value, text) != text:
                refused.add(label)
        for edit in sample.edits:  # may have classes that no sample has
            for label in names.keys() & edit.labels.keys():
                value = edit.labels[label]
                text = _name_of(edit, label, roles)
                if text is not None and names[label].setdefault(int(value), text) != text:
                    refused.add(label)
    found = {}
    for label, table in names.items():
        if label not in refused and min(table) >= 0 and max(table) < 100_000:
            found[label] = [table.get(number, str(number)) for number in range(max(table) + 1)]
    return found


def _name_of(sample: Sample, label: str, roles: Mapping[str, str]) -> str | None:
    held = (sample.captions(roles.get(name, name))[:1] for name in _partners(label))
    return next((text for texts in held for text in texts), None)


def _partners(label: str) -> tuple[str, ...]:
    if label.endswith("_id"):
        return (label[:-3],)
    return (
        ("name", "label_name", "class_name") if label in {"label", "class"} else (f"{label}_name",)
    )


def labels_of(source: Source, name: str) -> np.ndarray:
    """One label of all samples (N,), -1 if it is missing or the sample is damaged; reads texts, not
    images."""
    values = []
    for index in range(len(source)):
        try:
            values.append(source[index].labels.get(name, -1))
        except BadSample:
            values.append(-1)
    return np.array(values)


def read_text(data: bytes) -> str:
    """Decode UTF-8, with or without a byte-order mark. Raises BadSample("utf8")."""
    try:
        return data.removeprefix(
            codecs.BOM_UTF8
        ).decode()  # six times as fast as the codec utf-8-sig
    except UnicodeDecodeError as error:
        raise BadSample("utf8", str(error)) from error


def read_json(data: bytes) -> dict:
    """Parse a JSON object, with lone surrogates in its texts replaced. Raises BadSample: utf8, or
    json."""
    text = read_text(data)
    try:
        record = _loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: also of numbers with thousands of digits
        raise BadSample("json", brief(error)) from error
    if not isinstance(record, dict):
        raise BadSample("json", f"a {type(record).__name__}, not an object")
    return record


def json_of(path: Path) -> Any:
    """The content of a JSON file that is a source. Raises InputError if it does not exist or is not
    JSON."""
    try:
        return _loads(_decoded(path.read_bytes()))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({brief(error)}); check where it came from") from error


def _decoded(data: bytes) -> str:
    return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")


def _loads(text: str) -> Any:
    value = json.loads(text)
    return (
        _whole(value) if "\\ud" in text or "\\uD" in text else value
    )  # a text may be cut inside a surrogate pair


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_whole(entry) for entry in value]
    return (
        {whole(name): _whole(entry) for name, entry in value.items()}
        if isinstance(value, dict)
        else value
    )


def read_npy(data: bytes) -> np.ndarray:
    """Read a NumPy array of numbers. Raises BadSample: pickled (object arrays, which would run
    code), or npy."""
    try:
        head = _npy_head(data)
        shape, by_columns, kind = _npy_header(head)
    except Exception as error:  # damaged headers raise many kinds of exceptions
        raise BadSample("npy", brief(error)) from error
    if kind.hasobject:
        raise BadSample("pickled", "an array of objects, which would have to be unpickled")
    if kind.kind not in "biufc":
        raise BadSample("npy", f"an array of {brief(str(kind), 40)}, not of numbers")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * kind.itemsize > len(data) - len(head):
        raise BadSample("npy", f"an array of shape {brief(str(shape), 40)} in {len(data):,} bytes")
    order = "F" if by_columns else "C"
    try:
        if not count:
            return np.empty(shape, kind, order)
        values = np.frombuffer(data, kind, count, offset=len(head))
        return values.reshape(shape, order=order).copy(order)
    except (ValueError, OverflowError, MemoryError) as error:  # a shape such as (0, 10**30)
        raise BadSample("npy", brief(error)) from error


def _npy_head(data: bytes) -> bytes:
    """The part of an array's file in front of its values."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    start = file.tell() + (2 if version == (1, 0) else 4)
    return data[: start + int.from_bytes(data[file.tell() : start], "little")]


_PARSING = threading.Lock()
"""NumPy parses a header by `ast`, which fails at random in two threads at once, in some versions of
Python 3.11 and 3.12."""


@lru_cache(maxsize=1024)  # the samples of a source have few different headers
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, the order and the type of the values behind a header."""
    file = io.BytesIO(head)
    first = np.lib.format.read_magic(file) == (1, 0)
    with _PARSING:
        if first:
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)
