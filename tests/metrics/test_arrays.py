"""What all metrics share."""

import sys

import numpy as np
import pytest

from diptych.errors import InputError
from diptych.metrics import (
    correlation,
)


def test_a_library_of_the_lab_that_is_missing_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        InputError, match=r"needs scipy; install it with: pip install 'diptych\[lab\]'"
    ):
        correlation(np.arange(5), np.arange(5))
