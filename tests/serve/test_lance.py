"""A LanceDB table behind `diptych search`, its Python function and the server: what the folder
answers, the table answers."""

import json

import pytest
from tests.embeddings.helpers import toy_model
from tests.serve.helpers import client

import diptych
from diptych.cli import main
from diptych.embeddings.lance.build import change_store, write_store
from diptych.errors import InputError


@pytest.fixture(scope="module")
def shop(kept, tmp_path_factory):
    """A table of 29 drawings with the column `group`, by its address; with an index."""
    return write_store(kept, f"lancedb:{tmp_path_factory.mktemp('lance') / 'shop'}", lists=2).name


WHERE = "`group` = 'objects' or key like '%1%'"


@pytest.mark.parametrize("where", [None, WHERE])
def test_a_search_finds_the_same(kept, shop, where):
    tiny = diptych.load("tiny")
    found = [
        diptych.search(place, "a red circle", minus="blue", where=where, k=5, model=tiny).records()
        for place in (kept, shop)
    ]
    for theirs, ours in zip(*found, strict=True):
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), abs=1e-6)
        assert ours == theirs


def test_the_command_shows_the_same(kept, shop, capsys):
    shown = []
    for place in (str(kept), shop):
        assert main(["search", place, "a red circle", "-k", "3", "--where", WHERE, "--json"]) == 0
        hits = json.loads(capsys.readouterr().out)
        shown.append([{**hit, "score": round(hit["score"], 5)} for hit in hits])
    assert shown[0] == shown[1]
    assert main(["search", shop, "a red circle"]) == 0
    assert "in 29 images" in capsys.readouterr().out


def test_the_server_replies_the_same(kept, shop):
    version = change_store(shop, recall=0.9).version
    with client(kept, f"{shop}:version={version}") as served:
        names = [each["name"] for each in served.get("/api/v1/collections").json()["collections"]]
        assert names == ["grouped", "shop"]
        for path, asked in (
            ("search", {"plus": "a red circle", "k": 4, "offset": 2}),
            ("search", {"plus": "a red circle", "row": 7, "where": WHERE}),
            ("search", {"row": 3, "k": 12}),
            ("collections/{}/rows", {"k": 9, "offset": 3, "where": WHERE}),
            ("collections/{}/rows/5", {}),
        ):
            replies = [
                served.get(f"/api/v1/{path.format(name)}", params={"collection": name, **asked})
                if path == "search"
                else served.get(f"/api/v1/{path.format(name)}", params=asked)
                for name in names
            ]
            assert [reply.status_code for reply in replies] == [200, 200]
            assert _plain(replies[1].json()) == _plain(replies[0].json())
        pictures = [
            served.get(f"/api/v1/collections/{name}/rows/5/image").content for name in names
        ]
        assert pictures[0] == pictures[1]
        about = served.get("/api/v1/collections").json()["collections"][1]
        assert (about["count"], about["pictures"], about["map"]) == (29, True, None)
        refused = served.get("/api/v1/collections/shop/outliers")
        assert (refused.status_code, "is a store" in refused.json()["error"]) == (404, True)
        wrong = served.get(
            "/api/v1/search", params={"plus": "a", "collection": "shop", "where": "x < 1"}
        )
        assert (wrong.status_code, "column of shop 'x'" in wrong.json()["error"]) == (422, True)
        assert served.get("/api/v1/collections/shop/rows/29").status_code == 404


def _plain(reply):
    """A reply without what names the collection, and with rounded scores."""
    if isinstance(reply, dict):
        names = ("collection", "image")
        return {name: _plain(value) for name, value in reply.items() if name not in names}
    if isinstance(reply, list):
        return [_plain(value) for value in reply]
    return round(reply, 5) if isinstance(reply, float) else reply


def test_another_model_is_refused(shop):
    with pytest.raises(InputError, match="lancedb:.* was embedded with tiny"):
        diptych.search(shop, "a", model=toy_model())


def test_a_store_is_served_once(shop):
    with pytest.raises(InputError, match="is named twice"), client(shop, shop):
        pass
