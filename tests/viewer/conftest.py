import pytest
from tests.viewer.helpers import make_table


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """The messy table, and its validation."""
    return make_table(tmp_path_factory.mktemp("viewer") / "pets")
