import pytest
from tests.serve.helpers import SOURCE, client

import diptych
from diptych.embeddings.map import build_map


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


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """The same embeddings with the column `group`."""
    folder = tmp_path_factory.mktemp("serve-columns") / "grouped"
    diptych.embed("tiny", SOURCE, folder, columns=["group"])
    return folder


@pytest.fixture(scope="session")
def mapped_emb(tmp_path_factory):
    """The same with a map."""
    folder = tmp_path_factory.mktemp("serve-map") / "mapped"
    diptych.embed("tiny", SOURCE, folder, columns=["group"])
    build_map(folder)
    return folder
