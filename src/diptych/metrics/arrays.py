"""What all metrics share: arrays that are checked, the tolerance of ties, and optional packages."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from diptych.errors import InputError

Array = Tensor | np.ndarray

TIE = 1e-6
"""Scores of unit vectors that differ by less than this are equal."""


@contextmanager
def lab(what: str) -> Iterator[None]:
    """Context for imports of scipy and scikit-learn: a missing package raises InputError with the
    remedy.

    >>> with lab("this example"):
    ...     import nothing_of_the_kind
    Traceback (most recent call last):
    diptych.errors.InputError: this example needs nothing_of_the_kind; install it with: pip install 'diptych[lab]'
    """
    try:
        yield
    except ImportError as error:
        name = (error.name or "scikit-learn").partition(".")[0].replace("sklearn", "scikit-learn")
        raise InputError(
            f"{what} needs {name}; install it with: pip install 'diptych[lab]'"
        ) from None


def finite(name: str, array: Array, dimensions: tuple[int, ...] = (2,)) -> Tensor:
    values = torch.as_tensor(array)
    values = values if values.dtype == torch.float64 else values.float()
    if values.dim() not in dimensions or not len(values):
        wanted = " or ".join(("two", "three")[each - 2] for each in dimensions)
        raise InputError(
            f"{name} has shape {tuple(values.shape)}; {wanted} dimensions and at least one row are needed"
        )
    # All values are finite if the extremes are, which need no memory; any NaN is both.
    if values.numel() and not torch.stack(values.aminmax()).isfinite().all():
        raise InputError(
            f"{name} holds values that are not finite; the model that made them is broken"
        )
    return values
