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
    box_classes         {NUMBER: NAME}, names of the labels of boxes in all images

Other mappings of names to numbers, or to equally long lists of numbers, are arrays with a row per
name (NaN for null), and the names are texts. All other fields are ignored.

Texts of a record are kept in its order, also those that repeat, since texts of several roles may belong
together by their places. Answers come after the question of their record. Texts of role `label` are the
classes of a sample, each once.
"""

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from diptych.data.outlines import from_rle
from diptych.data.sample import (
    BadSample,
    Box,
    Field,
    Sample,
    Schema,
    Source,
    Text,
    missing,
    whole,
)
from diptych.errors import InputError, brief

CAPTIONS = ("caption", "captions", "text", "texts")
LABELS = "labels"
"""The field whose words are texts of role `label`."""
_ROLES = {**dict.fromkeys(CAPTIONS, "caption"), LABELS: "label"}
"""The roles of fields whose name is not their role."""
_SAMPLED = 1000  # samples from which a schema is inferred
MOST_CLASSES = 100_000  # with names


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
    box_classes: dict[int, str] = field(default_factory=dict)
    edits: list[tuple[str, "Parts"]] = field(default_factory=list)  # each with its kind
    _noted: set[tuple[str, str]] = field(default_factory=set)
    _filed: set[tuple[str, str]] = field(default_factory=set)  # those that are files

    def add_text(self, text: str, role: str) -> None:
        """Append the text of a file, or a line of it, unless the sample has it (a .txt often repeats
        the text of its .json)."""
        text = text.strip()
        if (text, role) not in self._noted:
            self._append(text, role)
        self._filed.add((text, role))

    def _append(self, text: str, role: str) -> None:
        """Append a text of a record, repeated or not, unless it is blank, the text of a file, or a
        label that the sample has."""
        text = text.strip()
        found = (text, role)
        if not text or found in self._filed or (role == "label" and found in self._noted):
            return
        self._noted.add(found)
        self.texts.append(Text(text=text, role=role))

    def add(
        self, record: Mapping[str, Any], roles: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Add the fields of a record, with `roles` from `roles_of`; the first value of a label or
        array is kept."""
        chosen = "caption" in roles.values()
        role_of = {name: roles.get(name, _ROLES.get(name, name)) for name in record}
        for name, role in _answers_last(role_of).items():
            if chosen and name in CAPTIONS and name not in roles:
                continue  # other fields were chosen to hold the captions
            value = record[name]
            if isinstance(value, str):
                self._append(value, role)
            elif isinstance(value, bool | int | float):
                self.labels.setdefault(name, number(value, name))
            elif name == "boxes":
                self.boxes += [_box(entry) for entry in value or ()]
            elif name == "segments":
                self.segments |= _segments(value)
            elif name == "mask_classes":
                self.mask_classes |= _mask_classes(value)
            elif name == "box_classes":
                self.box_classes |= _names(value, name, "{NUMBER: NAME}")
            elif name == "edits" and _mappings(value):
                self.edits += [_edit(entry, roles) for entry in value]
            elif name in _WRITTEN and _mappings(value):
                self._add_written(value, _WRITTEN[name])
            elif isinstance(value, Mapping):
                self._add_named(name, value, role)
            elif isinstance(value, list) and value:
                if all(isinstance(entry, str) for entry in value):
                    for entry in value:
                        self._append(entry, role)
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
        self._append(between.join(text for text in reported if text), "ocr")

    def _add_named(self, name: str, rows: Mapping[str, Any], role: str) -> None:
        """Add numbers by name as an array, and the names as texts in the same order, unless the
        sample has an array of this name."""
        values = [math.nan if row is None else row for row in rows.values()]
        if name not in self.arrays and self._add_numbers(name, values):
            for text in rows:
                self._append(str(text), role)

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


def _answers_last(roles: Mapping[str, str]) -> Mapping[str, str]:
    """The roles of fields in their order, but with the answers last if one stands before the first
    question: answers are those of the question before them."""
    order = [role for role in roles.values() if role in ("question", "answer")]
    if not order or order[0] == "question":
        return roles
    return dict(sorted(roles.items(), key=lambda field: field[1] == "answer"))


def joined(texts: Sequence[Text]) -> list[Text]:
    """The texts of a table's rows of one image: of several roles, beside labels, all of them, so that
    texts of one row have the same place among those of their roles; of one role, each text once.

    >>> pairs = [("caption", "a cat"), ("de", "eine Katze"), ("caption", "a cat"), ("de", "ein Kater")]
    >>> [text.text for text in joined([Text(text=text, role=role) for role, text in pairs])]
    ['a cat', 'eine Katze', 'a cat', 'ein Kater']
    >>> [text.text for text in joined([Text(text=text) for text in ("a cat", "a pet", "a cat")])]
    ['a cat', 'a pet']
    """
    if len({text.role for text in texts} - {"label"}) > 1:
        return list(texts)
    return list({(text.role, text.text): text for text in texts}.values())


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
    form = "{MASK: {NUMBER: NAME}}"
    if not isinstance(value, dict):
        raise BadSample("mask_classes", f"{brief(str(value))} is not {form}")
    return {mask: _names(names, "mask_classes", form) for mask, names in value.items()}


def _names(value: Any, field: str, form: str) -> dict[int, str]:
    """Names by number. Raises BadSample(field) for what is not of the form."""
    try:
        return {int(number): str(name) for number, name in value.items()}
    except (AttributeError, ValueError) as error:
        raise BadSample(field, f"{brief(str(value))} is not {form}") from error


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
        if label not in refused and min(table) >= 0 and max(table) < MOST_CLASSES:
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
    """One label of all samples (N,), -1 (NaN of floats) if it is missing or the sample is damaged;
    reads texts, not images."""
    values = []
    none = missing(source.schema().get(f"labels.{name}"))
    for index in range(len(source)):
        try:
            values.append(source[index].labels.get(name, none))
        except BadSample:
            values.append(none)
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
