"""Columns: values computed for every sample of a source (clusters, cached features), added as
fields."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


class WithColumns(Wrapped):
    """A source with additional columns, whose row i belongs to sample i.

    A column of integers or floats of one dimension becomes `labels.NAME`, any other `arrays.NAME`.
    """

    def __init__(self, source: Source, columns: Mapping[str, np.ndarray]):
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
        return self.columns[name] if name in self.columns else super().labels(name)
