"""Small methods of Hydra, and a slow reference of its loss."""

import math

import numpy as np
from tests.factories import make_method

from diptych.data.columns import WithColumns
from diptych.methods.make import NO_TOWER
from diptych.testing import Toy

NARROW = {
    "projector": "mlp:hidden=16:last_norm=layer",
    "predictor": "mlp:hidden=16",
    "gate_width": 8,
    "gate_hidden": 8,
}


def toy(labels=(4, 7, 4, 9, 7, 9, 4, 7) * 3, **columns):
    columns = {"class": labels, **columns}
    fields = ["images.main", *(f"labels.{name}" for name in columns)]
    return WithColumns(Toy(len(labels), fields), {k: np.array(v) for k, v in columns.items()})


def held(sources=None, **config):
    """A method that knows its classes."""
    made = make_method("hydra", text=NO_TOWER, embed_dim=16, **{**NARROW, **config})
    made.setup({"train": sources or toy()})
    return made


def slow(z, keys, gate, y, p, tau, form="filtered", key_y=None):
    """The loss, and the mean of the means of the anchors, in loops."""
    key_y = y if key_y is None else key_y
    z, keys, gate = (np.asarray(x) for x in (z, keys, gate))
    total, count, means = 0.0, 0, []
    for i in range(len(z)):
        row = []
        for j in range(len(keys)):
            a, b = z[i], keys[j]
            if form == "fast":
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
            a, b = a * gate[i], b * gate[i]
            if form == "filtered":
                a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
            row.append(float(a @ b) / (1 if form == "raw" else tau))
        row = [s - sum(row) / len(row) for s in row]
        others = [math.exp(s) for s, c in zip(row, key_y, strict=True) if c not in (y[i], p[i])]
        own = [
            math.log(math.exp(s) + sum(others)) - s
            for s, c in zip(row, key_y, strict=True)
            if c == p[i]
        ]
        total += sum(own)
        count += len(own)
        if own:
            means.append(sum(own) / len(own))
    return total / max(count, 1), sum(means) / max(len(means), 1)
