"""The map, near-duplicates and outliers of a collection, as the server answers them."""

import numpy as np
import pytest
from tests.serve.helpers import SOURCE, client

import diptych
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.map import Map, build_map


@pytest.fixture(scope="module")
def mapped(mapped_emb):
    with client(mapped_emb) as found:
        yield found


def of(folder):
    return "/api/v1/collections/" + folder.name


def answer(served, path, **parameters):
    reply = served.get(path, params=parameters)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_map_holds_every_row_or_some_from_all_over(mapped, mapped_emb):
    made = Map.open(Index.open(mapped_emb))
    count = len(made.index)
    every = answer(mapped, of(mapped_emb) + "/map")
    assert every["total"] == count
    assert sorted(every["rows"]) == list(range(count))
    places = np.stack([every["x"], every["y"]], axis=1)
    np.testing.assert_allclose(places, made.places(np.array(every["rows"])), atol=1e-5)
    some = answer(mapped, of(mapped_emb) + "/map", limit=7)
    assert some["rows"] == every["rows"][:7]
    assert some["total"] == count
    chosen = answer(mapped, of(mapped_emb) + "/map", where="group = 'people-body'")
    assert 0 < chosen["total"] == len(chosen["rows"]) < count


def test_rows_and_hits_say_where_they_lie(mapped, mapped_emb):
    made = Map.open(Index.open(mapped_emb))
    row = answer(mapped, of(mapped_emb) + "/rows/4")
    assert row["place"] == pytest.approx(made.place(4))
    hits = answer(mapped, "/api/v1/search", plus="a dog")["results"][0]["hits"]
    assert all(hit["place"] == pytest.approx(made.place(hit["row"])) for hit in hits)
    (about,) = answer(mapped, "/api/v1/collections")["collections"]
    assert about["map"] == "pca"


def test_duplicates_are_groups_by_a_cosine(mapped, mapped_emb):
    made = Map.open(Index.open(mapped_emb))
    groups = made.duplicates(0.8)
    reply = answer(mapped, of(mapped_emb) + "/duplicates", cosine=0.8, k=1, offset=1)
    assert reply["total"] == len(groups)
    for found, group in zip(reply["groups"], groups[1:2], strict=True):
        assert [row["row"] for row in found["rows"]] == list(group.rows)
        assert found["count"] == len(group.rows)
        assert found["cosine"] == pytest.approx(group.cosine)
    path = of(mapped_emb) + "/duplicates"
    none = answer(mapped, path, cosine=0.8, where="group = 'no such'")
    assert none == {"collection": mapped_emb.name, "total": 0, "groups": []}


def test_a_large_group_is_cut_at_the_size_of_a_page(mapped_emb):
    largest = Map.open(Index.open(mapped_emb)).duplicates(0.5)[0]
    with client(mapped_emb, k=3) as served:
        path = of(mapped_emb) + "/duplicates"
        first = answer(served, path, cosine=0.5, k=1)["groups"][0]
    assert first["count"] == len(largest.rows) > 3
    assert [row["row"] for row in first["rows"]] == list(largest.rows[:3])


def test_outliers_are_paged(mapped, mapped_emb):
    rows, means = Map.open(Index.open(mapped_emb)).outliers()
    pages = [answer(mapped, of(mapped_emb) + "/outliers", k=4, offset=at) for at in (0, 4)]
    found = [row for page in pages for row in page["rows"]]
    assert [row["row"] for row in found] == list(rows[:8])
    assert [row["rank"] for row in found] == list(range(1, 9))
    assert [row["score"] for row in found] == pytest.approx(list(means[:8]), abs=1e-6)
    assert pages[0]["total"] == len(rows)


def test_removed_rows_are_left_out(tmp_path):
    folder = tmp_path / "emb"
    diptych.embed("tiny", SOURCE, folder)
    build_index(folder, k=5, lists=2)
    build_map(folder)
    made = Map.open(Index.open(folder))
    gone = int(made.outliers()[0][0])
    with client(folder) as served:
        key = answer(served, f"{of(folder)}/rows/{gone}")["key"]
    build_index(folder, remove=[key])
    with client(folder) as served:
        assert gone not in answer(served, of(folder) + "/map")["rows"]
        rows = answer(served, of(folder) + "/outliers", k=100)["rows"]
        assert gone not in [row["row"] for row in rows]


def test_a_collection_without_a_map_says_how_to_make_one(served, emb):
    (about,) = answer(served, "/api/v1/collections")["collections"]
    assert about["map"] is None
    assert answer(served, of(emb) + "/rows/4")["place"] is None
    for what in ("map", "duplicates", "outliers"):
        reply = served.get(f"{of(emb)}/{what}")
        assert reply.status_code == 404
        assert "diptych index EMB --map" in reply.json()["error"]


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("map", {"limit": 100_001}),
        ("map", {"limit": 0}),
        ("map", {"where": "colour = 1"}),
        ("duplicates", {"cosine": 1.5}),
        ("duplicates", {"cosine": "nan"}),
        ("duplicates", {"k": 201}),
        ("duplicates", {"k": 2, "size": 3}),
        ("outliers", {"k": 201}),
        ("outliers", {"offset": -1}),
    ],
)
def test_wrong_fields_are_refused(mapped, mapped_emb, path, parameters):
    reply = mapped.get(f"{of(mapped_emb)}/{path}", params=parameters)
    assert reply.status_code == 422
    assert "\n" not in reply.json()["error"]
