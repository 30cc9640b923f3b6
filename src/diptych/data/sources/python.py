"""Data of a Python program: a list of pairs, a torch Dataset, a pandas or a `datasets` table.

Only Python gives such a source, in place of a spec. What a run or a folder of embeddings keeps of
it is its name, `python:NAME`, which cannot be opened again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from diptych.data.clips import images_of_any
from diptych.data.held import encoded
from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text
from diptych.data.sources.datasets import table_of
from diptych.data.sources.table import Table, TableOptions
from diptych.errors import InputError
from diptych.spec import Spec

FORMAT = "python"
PREFIX = "python:"
_ITEMS = "(image, text), (image, [texts]) or (image, class number)"


def claims(spec: Spec) -> bool:
    """Whether a spec names data that Python gave: by the prefix."""
    return spec.name.startswith(PREFIX)


def open(spec: Spec) -> NoReturn:
    """Raise InputError: what Python gave is not kept."""
    raise InputError(
        f"{spec.name} was given by a Python program and is not kept; go on from Python with the same data"
    )


def source_of(data: Any) -> Source:
    """The source of a list of pairs, a torch Dataset, a pandas table, or a `datasets` table.

    Items of a list and of a Dataset are (image, text), (image, [texts]) or (image, class number);
    the names of the classes are the Dataset's attribute `classes`, if it has one. Images are those
    of `held.encoded`. Columns of a table are those of CSV files; relative paths start at the working
    directory. Raises InputError for other data, and if the first item is wrong; later items that
    are wrong count as damaged ("wrong-type").

    >>> from PIL import Image
    >>> source = source_of([(Image.new("RGB", (4, 4)), "a black square")])
    >>> source[0].captions(), sorted(source.schema())
    (['a black square'], ['images.main', 'texts.caption'])
    """
    if _is_a(data, "pandas", "DataFrame"):
        rows = FrameRows(data)
        return Table(rows.path, rows, TableOptions(root="."))
    if _is_a(data, "datasets", "Dataset"):
        return table_of(f"datasets table of {len(data)} rows", data, TableOptions(root="."))
    if isinstance(data, Mapping):
        raise InputError(
            f"a {type(data).__name__} holds several data sets ({', '.join(map(str, data))}); give one of them"
        )
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return Pairs(data)
    raise InputError(
        f"a {type(data).__name__} is no data; give a spec such as 'photos/', a list of {_ITEMS}, a pandas or "
        "datasets table, or a Dataset with len() and [i]"
    )


def _is_a(data: Any, package: str, name: str) -> bool:
    """Whether `data` is of a class of a package; one that nobody imported made nothing."""
    module = sys.modules.get(package)
    return module is not None and isinstance(data, getattr(module, name))


class Pairs:
    """The samples of a sequence of pairs, read when asked for, by several threads at once. Keys are
    positions."""

    def __init__(self, items: Any):
        self.name = f"{type(items).__name__} of {len(items)} pairs"
        self.items = items
        if not len(items):
            raise InputError(f"{self.name}: it is empty; give items {_ITEMS}")
        first = self._read(0)
        self._schema = {f"images.{role}": Field(kind="image") for role in first.images}
        if first.texts:
            self._schema["texts.caption"] = Field(kind="text")
        else:
            classes = tuple(map(str, getattr(items, "classes", ())))
            self._schema["labels.class"] = Field(kind="int", classes=classes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        try:
            sample = self._read(index)
        except InputError as error:
            raise BadSample("wrong-type", str(error)) from error
        if bool(sample.texts) != ("texts.caption" in self._schema):
            raise BadSample("wrong-type", f"item {index} of {self.name} is unlike the first one")
        return sample

    def _read(self, index: int) -> Sample:
        item = self.items[index]
        if isinstance(item, Sample):
            lacking = [part for part in ("name", "keys", "schema") if not hasattr(self.items, part)]
            raise InputError(
                f"a {type(self.items).__name__} of Samples has no {' and no '.join(lacking)}; a source has name, "
                "keys() and schema() beside len() and [i] (diptych.data.sample.Source)"
            )
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise self._wrong(index, f"is a {_shown(item)}")
        image, other = item
        try:
            images = images_of_any(encoded(image))
        except InputError as error:
            raise InputError(f"item {index} of {self.name}: {error}") from None
        texts = [other] if isinstance(other, str) else other
        if isinstance(texts, tuple | list) and texts and all(isinstance(t, str) for t in texts):
            said = tuple(Text(text=text) for text in texts)
            return Sample(key=str(index), source=self.name, images=images, texts=said)
        label = _number(other)
        if label is None:
            raise self._wrong(index, f"has a {_shown(other)} beside its image")
        return Sample(key=str(index), source=self.name, images=images, labels={"class": label})

    def _wrong(self, index: int, what: str) -> InputError:
        return InputError(f"item {index} of {self.name} {what}; give {_ITEMS}")

    def keys(self) -> Sequence[str]:
        """The positions, as text."""
        return [str(index) for index in range(len(self))]

    def labels(self, name: str) -> np.ndarray:
        """The class of each sample (N,), from the attribute `targets` of torchvision's data sets,
        else by reading every item."""
        targets = getattr(self.items, "targets", None)
        if targets is None or len(targets) != len(self):
            targets = [self[index].labels[name] for index in range(len(self))]
        return np.asarray(targets, np.int64)

    def schema(self) -> Schema:
        """The image, and the captions or the label `class`, as in the first item."""
        return self._schema


def _shown(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{size}"


def _number(value: Any) -> int | None:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    return int(value) if isinstance(value, int | np.integer) else None


class FrameRows:
    """The rows of a pandas table."""

    def __init__(self, frame: Any):
        self.path = f"pandas table of {len(frame)} rows"
        self.columns: Sequence[str] = [str(name) for name in frame.columns]
        if not len(frame):
            raise InputError(f"{self.path}: it is empty; give one with rows")
        if len(set(self.columns)) < len(self.columns):
            raise InputError(f"{self.path}: two columns have one name; name each column once")
        there = [frame.iloc[:, at].notna().tolist() for at in range(len(self.columns))]
        cells = [frame.iloc[:, at].tolist() for at in range(len(self.columns))]
        self._columns = list(zip(self.columns, there, cells, strict=True))

    def __len__(self) -> int:
        return len(self._columns[0][1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: _plain(cells[index]) for name, there, cells in self._columns if there[index]}

    def scan(self) -> Iterator[dict[str, Any] | BadSample]:
        """Every row in order."""
        return (self[index] for index in range(len(self)))

    def classes(self) -> Mapping[str, Sequence[str]]:
        """None: words of a label column are its classes."""
        return {}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
