"""Columns: values computed for every sample of a source (clusters, cached features), added as
fields."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


class MappedColumn:
    """A column in a .npy file, whose rows are read where they are asked for: it may be larger than the
    memory.

    It is pickled as its path, so that the workers of a loader read the same file. Raises OSError or
    ValueError for a file that is missing or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._rows = np.load(path, mmap_mode="r", allow_pickle=False)
        self.ndim: int = self._rows.ndim
        self.dtype: np.dtype = self._rows.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedColumn, (self.path,)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self._rows[index])


Column = np.ndarray | MappedColumn


def write_rows(path: Path, count: int, parts: Iterator[np.ndarray]) -> None:
    """Write a .npy file of `count` rows, which come in parts.

    It uses plain writes and not a writable memory map, which would end the process by a signal on a
    full disk.
    """
    with path.open("wb") as file:
        for number, part in enumerate(parts):
            if number == 0:
                descr = np.lib.format.dtype_to_descr(part.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (count, *part.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part).data)


class WithColumns(Wrapped):
    """A source with additional columns, whose row i belongs to sample i.

    A column of integers or floats of one dimension becomes `labels.NAME`, any other `arrays.NAME`.
    """

    def __init__(self, source: Source, columns: Mapping[str, Column]):
        for name, values in columns.items():
            if len(values) != len(source):
                raise InputError(
                    f"column {name!r} has {len(values)} rows, {source.name} has {len(source)} samples"
                )
        super().__init__(source)
        self.columns = dict(columns)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        labels = {
            name: values[index].item() for name, values in self.columns.items() if values.ndim == 1
        }
        arrays = {name: values[index] for name, values in self.columns.items() if values.ndim > 1}
        return replace(
            sample, labels={**sample.labels, **labels}, arrays={**sample.arrays, **arrays}
        )

    @property
    def added(self) -> Schema:
        """The fields of the columns."""
        fields: dict[str, Field] = {}
        for name, values in self.columns.items():
            kind = "array" if values.ndim > 1 else "int" if values.dtype.kind in "iu" else "float"
            fields[f"{'arrays' if values.ndim > 1 else 'labels'}.{name}"] = Field(kind=kind)
        return fields

    def schema(self) -> Schema:
        return {**super().schema(), **self.added}

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples."""
        return self.columns[name][:] if name in self.columns else super().labels(name)
