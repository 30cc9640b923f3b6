"""Tables of images and texts: CSV, TSV, JSON lines (also gzipped), Parquet; images as paths or as bytes.

Rows with the same image are one sample with several texts: those of several roles stay together by
their places, and of one role each text is kept once. Columns are found by their usual names, or given:
`table.csv:image=file:text=caption:label=kind:key=id`. With several columns of images,
`image=left+right`, each row is a sample with the images `main`, `page2`, …. `split=train+val` selects
rows by the column `split`. Texts may have several columns and roles, `text=raw;long=longSV`, and an
image may be in a zip archive, `12/345.zip/678.jpg`. A label column with lists of words gives texts of
role `label`.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.clips import check_frames, images_of_any, images_of_file
from diptych.data.compact import Groups, Strings, hash64, is_folder
from diptych.data.endings import TABLES
from diptych.data.held import encoded
from diptych.data.images import FileImage, ZipImage
from diptych.data.sample import BadSample, EncodedImage, Sample, Schema, image_of
from diptych.data.sources.records import (
    CAPTIONS,
    Parts,
    class_names,
    joined,
    labels_of,
    roles_of,
    schema_of,
)
from diptych.data.sources.rows import CsvRows, Rows, open_rows
from diptych.errors import InputError, brief, unknown
from diptych.spec import Spec, configure, several

FORMAT = "table"
ANY = True
_IMAGES = (
    *(
        "image",
        "image_path",
        "img_path",
        "filepath",
        "file_path",
        "file_name",
        "filename",
        "file",
        "path",
    ),
    *("img", "picture", "photo", "image_name", "image_file", "jpg", "png", "image_bytes", "bytes"),
    *("video", "video_path", "clip"),
)
_TEXTS = (*CAPTIONS, "title", "description", "sentence", "comment", "alt_text", "alt")
_LABELS = ("class", "label", "category", "labels")
_SPLIT = "split"
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})(?P<rest>(\.[0-9]*)?([eE][-+]?[0-9]+)?)")
_WHOLE = re.compile(r"-?[0-9]+")


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by its suffix."""
    return spec.name.lower().endswith(TABLES) and not is_folder(spec)


def open(spec: Spec) -> "Table":
    """`table.csv[:image=COLUMN+COLUMN][:text=COLUMN+COLUMN;ROLE=COLUMN][:label=COLUMN][:key=COLUMN]
    [:split=A+B][:root=FOLDER][:frames=N][:delimiter=tab|comma|semicolon|pipe|SIGN]`."""
    options = configure(FileOptions, spec.options, f"source {spec.name!r}")
    if not Path(spec.name).is_file():
        raise InputError(f"{spec.name}: no such file; check the path")
    return Table(spec.name, open_rows(spec.name, options.delimiter), options)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of a table.

    They are the columns, the values of column `split` whose rows are used (default: all), the root
    of relative paths (default: the table's folder), and how many frames of a clip are read.
    """

    image: str | None = None
    text: str | None = None
    label: str | None = None
    key: str | None = None
    split: str | None = None
    root: str | None = None
    frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class FileOptions(TableOptions):
    """Options of a table, and the delimiter of a text file: tab, comma, semicolon, pipe or a
    character."""

    delimiter: str | None = None


@dataclass(frozen=True)
class _Columns:
    image: str | None
    roles: Mapping[str, str]  # of text columns whose name is not their role
    label: str | None
    key: str | None
    aside: frozenset[str] = field(
        default_factory=frozenset
    )  # columns that are no text, label or array of a sample
    pages: tuple[str, ...] = ()  # further columns of images


class _Numbers:
    """The numeric columns of a text file, and their types.

    A column is numeric if it is no image, text, label or key and all its cells are numbers. Digits
    with a leading 0 (article numbers, postal codes) and more than 18 digits (serial numbers) are
    text.
    """

    def __init__(self, rows: Rows, columns: _Columns):
        taken = {*columns.aside, *columns.roles, *CAPTIONS}
        free = (
            [name for name in rows.columns if name not in taken]
            if isinstance(rows, CsvRows)
            else []
        )
        self._kinds: dict[str, type[int] | type[float] | None] = dict.fromkeys(free)

    def add(self, row: Mapping[str, str]) -> None:
        """Update the types with one more row."""
        for name in [name for name in self._kinds if name in row]:
            found = _NUMBER.fullmatch(row[name])
            if found is None:
                del self._kinds[name]
            elif self._kinds[name] is not float:
                self._kinds[name] = float if found["rest"] else int

    @property
    def found(self) -> dict[str, type[int] | type[float]]:
        """The type of each numeric column."""
        return {name: kind for name, kind in self._kinds.items() if kind is not None}


class Table:
    """The samples of a table, in the order of each image's first row.

    Rows that cannot be read are counted in `damage` (row -> columns, json, utf8, number, label). Raises
    InputError for missing columns, web addresses instead of paths, and a table without a readable
    row.
    """

    def __init__(self, name: str, rows: Rows, options: TableOptions | None = None):
        options = options or TableOptions()
        self.name = name
        self.rows = rows
        check_frames(options.frames, name)
        self.frames = options.frames
        self.root = options.root or str(Path(rows.path).parent)
        self._columns = _find_columns(rows, options)
        self.damage: Mapping[str, str] = {}
        self._classes: dict[str, Sequence[str]] = {}
        self._index(options.split)
        self._schema: Schema | None = None

    def _index(self, split: str | None) -> None:
        """Index image, key and label of each row in one pass; only rows of `split` are kept."""
        columns = self._columns
        damage = {}
        last = None
        ids = []
        good = []
        keys = []
        labels = []
        splits = []
        numbers = _Numbers(self.rows, columns)
        listed = False
        for number, row in enumerate(self.rows.scan()):
            if isinstance(row, BadSample):
                damage[f"{self.rows.path}:{number + 1}"] = row.reason
                last = row
                continue
            path = _path(row.get(columns.image)) if columns.image else None
            if path and number < 100 and path.startswith(("http://", "https://")):
                raise InputError(
                    f"{self.rows.path}: column {columns.image!r} holds web addresses; download the images first "
                    "(img2dataset makes tar shards of such a table)"
                )
            value = row.get(columns.label, "") if columns.label else ""
            if isinstance(value, list):
                listed = True
                if _mixed(value):
                    damage[f"{self.rows.path}:{number + 1}"] = "label"
                    last = BadSample("label", f"{brief(repr(value))} are not all words")
                    continue
                value = ""
            label = str(value)
            if _WHOLE.fullmatch(label) and not -(2**63) <= int(label[:30]) < 2**63:
                damage[f"{self.rows.path}:{number + 1}"] = "number"
                continue
            numbers.add(row)
            good.append(number)
            alone = not path or columns.pages
            ids.append(number if alone else hash64(path.encode("utf-8", "replace")))  # type: ignore[union-attr]
            keys.append(str(row[columns.key]) if columns.key in row else path or str(number))
            labels.append(label)
            splits.append(str(row.get(_SPLIT, "")))
        if not good:
            raise InputError(
                f"{self.rows.path}: none of its {len(self.rows)} rows can be read (the last: {last}); save it as "
                "UTF-8, cells that hold the delimiter in quotes"
            )
        self._numbers = numbers.found
        if listed:
            self._columns = _without_label(columns)
        named = set(labels)  # of all splits, so that a class has the same number in each
        if split is not None:
            wanted = several(f"split of {self.rows.path}", split, sorted(set(splits)))
            rows = [at for at, name in enumerate(splits) if name in wanted]
            ids, good, keys, labels = (
                [values[at] for at in rows] for values in (ids, good, keys, labels)
            )
        self.damage = damage
        self._good = np.array(good, np.int64)
        self._groups = Groups(np.array(ids, np.uint64))
        firsts = [int(self._groups[at][0]) for at in range(len(self._groups))]
        keys = [keys[at] for at in firsts]
        if len(set(keys)) < len(keys):
            keys = [f"{key}#{good[at] + 1}" for key, at in zip(keys, firsts, strict=True)]
        self._keys = Strings(keys)
        self._number_classes([labels[at] for at in firsts], named)

    def _number_classes(self, values: Sequence[str], named: Set[str]) -> None:
        """Number labels that are words in the alphabetical order of `named`; numeric labels are
        kept."""
        self._label = None
        if not self._columns.label:
            return
        present = sorted(named - {""})
        if all(map(_WHOLE.fullmatch, present)):
            self._label = np.array([int(value or -1) for value in values], np.int64)
        elif all(map(_is_number, present)):
            self._label = np.array([float(value or "nan") for value in values])
        else:
            number = {value: at for at, value in enumerate(present)}
            self._label = np.array([number.get(value, -1) for value in values], np.int64)
            self._classes[self._columns.label] = present

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        columns = self._columns
        parts = Parts()
        images: dict[str, EncodedImage] = {}
        for number in self._good[self._groups[index]].tolist():
            row = self.rows[number]
            if columns.image and not images:
                images = self._images(row.get(columns.image))
                for page, column in enumerate(columns.pages, 1):
                    found = self._images(row.get(column))
                    images |= {image_of(page): found["main"]} if found else {}
            fields = {name: row[name] for name in row if name not in columns.aside}
            fields |= {name: kind(row[name]) for name, kind in self._numbers.items() if name in row}
            parts.add(fields, columns.roles)
        if self._label is not None and columns.label:
            parts.labels[columns.label] = self._label[index].item()
        return Sample(
            key=self._keys[index],
            source=self.name,
            images=images,
            texts=joined(parts.texts),
            labels=parts.labels,
            boxes=parts.boxes,
            arrays=parts.arrays,
            edits=parts.edited(self._keys[index], self.name),
        )

    def _images(self, value: Any) -> dict[str, EncodedImage]:
        if isinstance(value, Mapping):  # the form in which Hugging Face's `datasets` stores images
            value = value.get("bytes") or value.get("path")
        if value is None or (isinstance(value, str | bytes) and not value):
            return {}
        if not isinstance(value, str):
            try:
                return images_of_any(encoded(value))
            except InputError as error:
                raise BadSample("columns", str(error)) from error
        archive, inside, member = value.partition(".zip/")
        path = str(Path(self.root, archive + inside.rstrip("/")))
        image = ZipImage(path, member) if inside else FileImage(path)
        return images_of_file(value, image, self.frames)

    def keys(self) -> Sequence[str]:
        """The unique keys: the key column, or the images' paths, or row numbers."""
        return self._keys

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), -1 (NaN of floats) if missing; reads no images."""
        if self._label is not None and name == self._columns.label:
            return self._label
        return labels_of(self, name)

    def schema(self) -> Schema:
        """The fields, inferred from up to 1,000 samples; class names come from words, metadata or
        paired columns."""
        if self._schema is None:
            self._schema = schema_of(
                self,
                {**class_names(self, self._columns.roles), **self.rows.classes(), **self._classes},
            )
        return self._schema


def _path(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return None if value.get("bytes") else value.get("path")
    return value if isinstance(value, str) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mixed(values: list[Any]) -> bool:
    """Whether some entries of a list are words, and others not."""
    words = [isinstance(each, str) for each in values]
    return any(words) and not all(words)


def _without_label(columns: _Columns) -> _Columns:
    """The columns where the label has several values a row: words are texts of role `label`, and
    numbers an array."""
    assert columns.label is not None
    return replace(
        columns,
        label=None,
        roles={**columns.roles, columns.label: "label"},
        aside=columns.aside - {columns.label},
    )


def _find_columns(rows: Rows, options: TableOptions) -> _Columns:
    columns = list(rows.columns)
    roles = roles_of(options.text)
    images = _image_columns(options.image, columns)
    for wanted in (
        *images,
        *roles,
        options.label,
        options.key,
        _SPLIT if options.split else None,
    ):
        if wanted is not None and wanted not in columns:
            raise unknown(f"column of {rows.path}", wanted, columns)
    by_name = {name.lower(): name for name in reversed(columns)}
    image = next(iter(images), None) or next(
        (by_name[name] for name in _IMAGES if name in by_name), None
    )
    if image is None and (address := by_name.get("url")):
        raise InputError(
            f"{rows.path}: column {address!r} holds web addresses; download the images first "
            "(img2dataset makes tar shards of such a table)"
        )
    if "caption" not in roles.values():
        roles |= {found: "caption" for found in _first(by_name, _TEXTS, roles)}
    if image is None and not roles:
        raise InputError(
            f"{rows.path}: no column of images or texts among {', '.join(columns)}; name them with "
            ":image=COLUMN:text=COLUMN, or rename them to image and caption"
        )
    label = options.label or next(iter(_first(by_name, _LABELS, roles)), None)
    key = options.key or by_name.get("key")
    aside = frozenset(
        name for name in (image, *images, label, key, _SPLIT if options.split else None) if name
    )
    return _Columns(image, roles, label, key, aside, tuple(images[1:]))


def _image_columns(given: str | None, columns: Sequence[str]) -> list[str]:
    """The columns of images that an option names, several joined by `+`."""
    if given is None or given in columns:
        return [] if given is None else [given]
    return given.split("+")


def _first(by_name: Mapping[str, str], usual: Sequence[str], taken: Mapping[str, str]) -> list[str]:
    """The first free column with a usual name, as a list of at most one."""
    return [by_name[name] for name in usual if name in by_name and by_name[name] not in taken][:1]
