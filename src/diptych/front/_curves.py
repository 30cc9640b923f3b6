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
    """The loss of each step, and beside it the numbers of the validation, over the steps; shares
    alone if there are any, since ranks and counts have other scales."""
    names = _shares(validations) or _measured(validations)
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


def _measured(validations: Sequence[Line]) -> list[str]:
    names = (name for line in validations for name in line if name.startswith("val/"))
    return list(dict.fromkeys(names))


def _shares(validations: Sequence[Line]) -> list[str]:
    """The numbers between 0 and 1, but for ranks, which may be 1 too."""
    return [
        name
        for name in _measured(validations)
        if not name.endswith("_rank")
        and all(0 <= line[name] <= 1 for line in validations if name in line)
    ]


def _draw(axes: Any, name: str, lines: Sequence[Line]) -> None:
    points = [(line["done"] + 1, float(line[name])) for line in lines if name in line]
    axes.plot([x for x, _ in points], [y for _, y in points], label=name.removeprefix("val/"))
