"""Records of entities, and models that know them, for tests of links and clusters."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from tests.evaluation.helpers import Fake, Rows, row

from diptych.data.sample import Field
from diptych.towers.nn.parts import Temperature


class Named(Rows):
    """Rows with the label entity, of whole numbers."""

    def __init__(self, rows):
        numbered = [
            replace(each, labels={"entity": next(iter(each.labels.values()))}) for each in rows
        ]
        super().__init__(numbered)

    def schema(self):
        fields = {name: each for name, each in super().schema().items() if name != "labels.class"}
        return {**fields, "labels.entity": Field(kind="int")}


class Linked(Fake):
    """A fake with a scale."""

    def __init__(self, vectors):
        super().__init__(vectors)
        self.encoder = SimpleNamespace(logit_scale=Temperature(10.0))


def three_each(shift: int = 0) -> Named:
    """Three records of four entities and two of one record; each record is a dot of its own."""
    entities = [at // 3 for at in range(12)] + [10, 11]
    return Named(
        [
            row(f"{shift}/{at}", at, f"text {at}", label=entity + 100 * shift)
            for at, entity in enumerate(entities)
        ]
    )


def known_model() -> Linked:
    table = np.eye(6)[[at // 3 for at in range(12)] + [4, 5]]
    return Linked(table + 0.01 * np.random.default_rng(0).normal(size=table.shape))
