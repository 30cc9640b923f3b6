"""The curves of a run; importing this needs matplotlib."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

Line = Mapping[str, Any]


class Curves(Figure):
    """A figure that a notebook shows, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=100)
        return data.getvalue()


def curves(steps: Sequence[Line], validations: Sequence[Line]) -> Curves:
    """The loss of each step, and beside it the numbers of the validation, over the steps."""
    names = dict.fromkeys(name for line in validations for name in line if name.startswith("val/"))
    figure = Curves(figsize=(9, 3), layout="constrained")
    left, *right = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    _draw(left, "loss", steps)
    for axes in right:
        for name in names:
            _draw(axes, name, validations)
    for axes in (left, *right):
        axes.set_xlabel("step")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    return figure


def _draw(axes: Any, name: str, lines: Sequence[Line]) -> None:
    points = [(line["done"] + 1, float(line[name])) for line in lines if name in line]
    axes.plot([x for x, _ in points], [y for _, y in points], label=name)
