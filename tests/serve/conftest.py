import pytest
from tests.serve.helpers import SOURCE, client

import diptych


@pytest.fixture(scope="session")
def emb(tmp_path_factory):
    """Embeddings of 30 drawings by `tiny`."""
    folder = tmp_path_factory.mktemp("serve") / "drawings"
    diptych.embed("tiny", SOURCE, folder)
    return folder


@pytest.fixture(scope="module")
def served(emb):
    with client(emb) as found:
        yield found
