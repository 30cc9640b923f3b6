"""Several findings of an image: a label for each, and the label `class`, their combination.

Dimensions: N samples, F findings.
"""

from collections.abc import Sequence

import numpy as np

from diptych.data.sample import Field, Schema

ABSENT, PRESENT, UNCERTAIN = range(3)
VALUES = ("absent", "present", "uncertain")
"""The classes of a finding's label; -1 where it is not mentioned."""


class Findings:
    """Values (N, F) of named findings.

    The class of a sample names those that are present, in order: `A`, or `A|B`. A sample without any
    is of the class `normal`, or of none (-1). With `combined=False` there is no class.

    >>> found = Findings(("effusion", "mass"), np.array([[1, 1], [0, 0], [0, 1]]), normal="healthy")
    >>> found.classes, found.labels("class").tolist()
    (('effusion|mass', 'healthy', 'mass'), [0, 1, 2])
    """

    def __init__(
        self, names: Sequence[str], values: np.ndarray, normal: str = "", combined: bool = True
    ):
        self.names = tuple(names)
        self.values = np.asarray(values, np.int8)
        self.combined = combined
        if not combined:
            return
        patterns, rows = np.unique(self.values == PRESENT, axis=0, return_inverse=True)
        named = ["|".join(np.array(self.names)[pattern]) or normal for pattern in patterns]
        self.classes = tuple(sorted(set(named) - {""}))
        number = {name: at for at, name in enumerate(self.classes)}
        self._class = np.array([number.get(name, -1) for name in named])[rows.ravel()]

    def of(self, index: int) -> dict[str, int | float]:
        """The labels of a sample."""
        values = dict(zip(self.names, self.values[index].tolist(), strict=True))
        return {"class": int(self._class[index]), **values} if self.combined else values

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        if name == "class":
            return self._class
        return self.values[:, self.names.index(name)].astype(np.int64)

    def schema(self) -> Schema:
        """The fields of the labels."""
        named = {"labels.class": Field(kind="int", classes=self.classes)} if self.combined else {}
        return {
            **named,
            **{f"labels.{name}": Field(kind="int", classes=VALUES) for name in self.names},
        }
