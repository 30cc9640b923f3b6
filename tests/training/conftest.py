"""Ranks that all tests of training share: starting them costs more than most tests do."""

import pytest

from diptych.testing import Ranks


@pytest.fixture(scope="session")
def two():
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def four():
    with Ranks(4) as ranks:
        yield ranks
