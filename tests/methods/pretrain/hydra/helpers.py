"""A slow reference of Hydra's loss."""

import math

import numpy as np


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
