"""Siblings as edits: samples that share a label become one sample, with the others as its edits."""

from dataclasses import replace

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


class Siblings(Wrapped):
    """A source with one sample for each value of `label`: the first sample that has it, with the
    others as its `edits`, in order.

    Samples without the label, or the only ones with their value, are left out. Raises InputError if
    no two samples share a value.
    """

    def __init__(self, source: Source, label: str):
        values = labels_of(source, label)
        order = np.flatnonzero(values >= 0)
        groups: dict[int, list[int]] = {}
        for index in order.tolist():
            groups.setdefault(int(values[index]), []).append(index)
        self.groups = [members for members in groups.values() if len(members) > 1]
        if not self.groups:
            raise InputError(
                f"no two samples of {source.name!r} share a value of label {label!r}; name another group"
            )
        super().__init__(source, np.array([members[0] for members in self.groups]))

    def __getitem__(self, index: int) -> Sample:
        first, *others = (self.source[each] for each in self.groups[index])
        return replace(first, edits=others)

    def schema(self) -> Schema:
        return {**super().schema(), "edits": Field(kind="edit")}
