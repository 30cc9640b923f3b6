"""What the server answers is what the command line and Python find."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.data.helpers import greys, video
from tests.serve.helpers import SOURCE, client, png, service

import diptych
from diptych.data.images import on_ground
from diptych.data.sources import open_source
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.front.loading import load
from diptych.serve.app import PAGE

ROWS = len(open_source(SOURCE))


def keys(found):
    return [hit["key"] for hit in found["hits"]]


def first(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["results"][0]


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def drawing():
    return open_source(SOURCE)[3].images["main"].decode()


@pytest.mark.parametrize("minus", [None, "a face"])
def test_words_find_what_python_finds(served, emb, tiny, minus):
    found = first(
        served.get("/api/v1/search", params={"plus": "a dog", "minus": minus or [], "k": 7})
    )
    hits = diptych.search(emb, "a dog", minus=minus, k=7, model=tiny)
    assert keys(found) == [hit.key for hit in hits]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in hits])
    assert [hit["caption"] for hit in found["hits"]] == [hit.caption for hit in hits]
    assert found["query"] == hits.title


def test_an_uploaded_image_finds_what_python_finds(served, emb, tiny, drawing, tmp_path):
    path = tmp_path / "query.png"
    path.write_bytes(png(drawing))
    hits = diptych.search(emb, "red", image=path, minus="blue", k=5, model=tiny)
    fields = {"plus": "red", "minus": "blue", "k": "5"}
    files = {"image": ("query.png", png(drawing))}
    uploaded = first(served.post("/api/v1/search/image", files=files, data=fields))
    query = {
        "images": [base64.b64encode(png(drawing)).decode()],
        "plus": ["red"],
        "minus": ["blue"],
    }
    encoded = first(served.post("/api/v1/search", json={"queries": [query], "k": 5}))
    assert keys(uploaded) == keys(encoded) == [hit.key for hit in hits]
    assert uploaded["query"] == hits.title


def test_an_uploaded_video_finds_what_python_finds(served, emb, tiny, drawing, tmp_path):
    frames = [on_ground(drawing), *greys(20, 60, 100, size=drawing.size)]
    path = tmp_path / "query.mp4"
    path.write_bytes(video(frames))
    hits = diptych.search(emb, image=path, k=5, model=tiny)
    files = {"image": ("query.mp4", path.read_bytes())}
    found = first(served.post("/api/v1/search/image", files=files, data={"k": "5"}))
    assert keys(found) == [hit.key for hit in hits]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in hits])


def test_queries_at_once_are_those_one_by_one(served):
    queries = [{"plus": ["a cat"]}, {"rows": [2], "minus": ["green"]}, {"plus": ["sun", "rain"]}]
    together = served.post("/api/v1/search", json={"queries": queries, "k": 6}).json()["results"]
    for query, found in zip(queries, together, strict=True):
        alone = first(served.post("/api/v1/search", json={"queries": [query], "k": 6}))
        assert keys(alone) == keys(found)


def test_a_row_finds_its_neighbours_and_not_itself(served, emb):
    found = first(served.get("/api/v1/search", params={"row": 4, "k": 3}))
    vectors = Index.open(emb).rows(np.arange(ROWS))
    cosines = vectors @ vectors[4]
    cosines[4] = -2
    assert [hit["row"] for hit in found["hits"]] == np.argsort(-cosines)[:3].tolist()


def test_pages_are_parts_of_the_whole(served):
    whole = first(served.get("/api/v1/search", params={"row": 1, "plus": "a hat", "k": 30}))
    parts = []
    for offset in range(0, 30, 8):
        asked = {"row": 1, "plus": "a hat", "k": 8, "offset": offset}
        parts += first(served.get("/api/v1/search", params=asked))["hits"]
    assert parts == whole["hits"]
    assert len(parts) == ROWS - 1
    assert [hit["rank"] for hit in parts] == list(range(1, ROWS))


def test_browsing_visits_all_rows_once(served):
    rows = []
    for offset in range(0, 40, 7):
        asked = {"k": 7, "offset": offset}
        rows += served.get("/api/v1/collections/drawings/rows", params=asked).json()["rows"]
    assert sorted(row["row"] for row in rows) == list(range(ROWS))


def test_the_image_of_a_row_is_that_of_its_source(served):
    [row] = served.get("/api/v1/collections/drawings/rows?k=1&offset=3").json()["rows"]
    reply = served.get(row["image"], params={"size": 160})
    image = Image.open(io.BytesIO(reply.content))
    assert reply.headers["content-type"] == "image/png"
    own = open_source(SOURCE)[row["row"]]
    assert own.key == row["key"]
    assert max(image.size) <= 160
    np.testing.assert_array_equal(image, on_ground(own.images["main"].decode()))


def test_large_images_are_made_small(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (900, 600), "red").save(folder / "a.jpg")
    diptych.embed("tiny", str(folder), tmp_path / "emb")
    with client(tmp_path / "emb") as served:
        for size, width in ((100, 160), (320, 320), (1280, 900)):
            reply = served.get("/api/v1/collections/emb/rows/0/image", params={"size": size})
            assert Image.open(io.BytesIO(reply.content)).width == width
            assert reply.headers["content-type"] == "image/jpeg"


def test_similarity_and_classes_are_those_of_the_model(served, tiny, emb, drawing):
    things = {"texts": ["a dog", "a cat"]}
    b = {"images": [base64.b64encode(png(drawing)).decode()], "rows": [5]}
    cosines = served.post("/api/v1/similarity", json={"a": things, "b": b}).json()["cosines"]
    vectors = [tiny.embed_images([drawing])[0].numpy(), Index.open(emb).rows(np.array([5]))[0]]
    expected = tiny.embed_texts(["a dog", "a cat"]).numpy() @ np.array(vectors).T
    np.testing.assert_allclose(cosines, expected, atol=1e-5)

    names = ["dog", "cat", "hat"]
    asked = {"names": names, "rows": [0, 3], "k": 2}
    found = served.post("/api/v1/classify", json=asked).json()["images"]
    named = diptych.classify(tiny, SOURCE, names, k=2)
    for classes, row in zip(found, (0, 3), strict=True):
        assert [each["name"] for each in classes] == [name for name, _ in named[row].classes]
        probabilities = [share for _, share in named[row].classes]
        assert [each["probability"] for each in classes] == pytest.approx(probabilities, abs=1e-4)


def test_collections_share_a_model_and_an_index_of_several_folders_shows_all_images(emb, tmp_path):
    added = open_source("glyphs:split=val:design=twemoji:part=2/6")
    more = tmp_path / "more"
    diptych.embed("tiny", "glyphs:split=val:design=twemoji:part=2/6", more, columns=["group"])
    own = tmp_path / "drawings"
    shutil.copytree(emb, own)
    gone = open_source(SOURCE)[0].key
    build_index(own, add=[more], remove=[gone], lists=1)
    with client(own, more) as served:
        about = served.get("/api/v1/collections").json()["collections"]
        assert [(each["name"], each["count"]) for each in about] == [
            ("drawings", ROWS - 1 + len(added)),
            ("more", len(added)),
        ]
        reply = served.get(f"/api/v1/collections/drawings/rows/{ROWS + 2}/image")
        expected = on_ground(added[2].images["main"].decode())
        np.testing.assert_array_equal(Image.open(io.BytesIO(reply.content)), expected)
        assert served.get("/api/v1/collections/drawings/rows/0").status_code == 404
        assert served.get("/api/v1/search?row=0").status_code == 404
        assert [each["columns"] for each in about] == [{"group": "text"}, {"group": "text"}]
        ungrouped = served.get(
            "/api/v1/collections/drawings/rows", params={"where": "group is null"}
        ).json()
        assert ungrouped["total"] == ROWS - 1
        found = first(served.get("/api/v1/search?plus=sun&k=100&collection=drawings"))
        assert sorted(hit["row"] for hit in found["hits"]) == list(range(1, ROWS + len(added)))


def test_texts_are_searched_too(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a red house\na blue bird\n")
    diptych.embed("tiny", str(path), tmp_path / "emb")
    with client(tmp_path / "emb") as served:
        [about] = served.get("/api/v1/collections").json()["collections"]
        assert (about["rows"], about["pictures"]) == ("texts", False)
        [hit] = first(served.get("/api/v1/search?plus=a blue bird&k=1"))["hits"]
        assert (hit["caption"], hit["image"]) == ("a blue bird", None)
        assert served.get("/api/v1/collections/emb/rows/0/image").status_code == 404


def test_without_its_data_a_collection_is_searched_without_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    diptych.embed("tiny", str(folder), tmp_path / "emb")
    folder.rename(tmp_path / "moved")
    with client(tmp_path / "emb") as served:
        [about] = served.get("/api/v1/collections").json()["collections"]
        assert not about["pictures"]
        assert str(tmp_path) not in about["problem"]
        assert len(first(served.get("/api/v1/search?plus=red"))["hits"]) == 2
    with client(tmp_path / "emb", source=str(tmp_path / "moved")) as served:
        assert served.get("/api/v1/collections").json()["collections"][0]["pictures"]
    (tmp_path / "moved" / "0.png").write_bytes((tmp_path / "moved" / "a.png").read_bytes())
    with client(tmp_path / "emb", source=str(tmp_path / "moved")) as served:
        assert not served.get("/api/v1/collections").json()["collections"][0]["pictures"]
        assert served.get("/api/v1/collections/emb/rows/0/image").status_code == 404


def test_a_collection_names_its_source_without_the_folder_of_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    diptych.embed("tiny", f"{folder}:part=1/2", tmp_path / "emb")
    with client(tmp_path / "emb") as served:
        [about] = served.get("/api/v1/collections").json()["collections"]
        assert about["source"] == "photos:part=1/2"


def test_a_token_is_asked_for_once(emb):
    with client(emb, token="open sesame") as served:
        assert served.get("/api/v1/health").json()["token"]
        assert served.get("/").status_code == 200
        reply = served.get("/api/v1/collections")
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        for wrong in ("Bearer open", "Bearer", "Basic open sesame", "open sesame"):
            headers = {"authorization": wrong}
            assert served.get("/api/v1/metrics", headers=headers).status_code == 401
        headers = {"authorization": "Bearer open sesame"}
        assert served.get("/api/v1/collections", headers=headers).status_code == 200
        assert served.post("/api/v1/session", json={"token": "guess"}).status_code == 401
        reply = served.post("/api/v1/session", json={"token": "open sesame"})
        assert "HttpOnly" in reply.headers["set-cookie"]
        assert "SameSite=strict" in reply.headers["set-cookie"]
        assert "sesame" not in reply.headers["set-cookie"]
        assert served.get("/api/v1/collections").status_code == 200


def test_the_api_describes_itself_and_counts(served):
    described = served.get("/api/v1/openapi.json").json()["paths"]
    for path in ("search", "search/image", "similarity", "classify", "collections", "health"):
        assert f"/api/v1/{path}" in described
    served.get("/api/v1/search?plus=cat")
    text = served.get("/api/v1/metrics").text
    assert re.search(
        r'^diptych_requests_total\{route="/api/v1/search",method="GET",status="200"\} \d+$',
        text,
        re.MULTILINE,
    )
    assert f'diptych_rows{{collection="drawings"}} {ROWS}' in text
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_the_page_comes_from_the_package_alone(served):
    assert served.get("/").headers["content-type"].startswith("text/html")
    for path in PAGE.rglob("*.*"):
        text = path.read_text("utf-8")
        assert not re.search(r"""(src|href|from|import|url)\s*[=(]?\s*["']?(https?:)?//""", text)
        name = path.relative_to(PAGE).as_posix()
        assert served.get(f"/page/{name}").content == path.read_bytes()


def test_a_filter_finds_what_python_finds(kept, tiny):
    where = "group = 'people-body' or caption like '%face%'"
    hits = diptych.search(kept, "a dog", where=where, k=6, model=tiny)
    everything = diptych.search(kept, "a dog", where=where, k=ROWS, model=tiny)
    assert 6 < len(everything) < ROWS
    with client(kept) as served:
        [about] = served.get("/api/v1/collections").json()["collections"]
        assert about["columns"] == {"group": "text"}
        reply = served.get("/api/v1/search", params={"plus": "a dog", "where": where, "k": 6})
        assert keys(first(reply)) == [hit.key for hit in hits]
        assert reply.json()["total"] == len(everything)
        assert [hit["columns"] for hit in first(reply)["hits"]] == [
            dict(hit.columns) for hit in hits
        ]
        second = {"plus": "a dog", "where": where, "k": 6, "offset": 6}
        found = first(served.get("/api/v1/search", params=second))
        assert keys(found) == [hit.key for hit in everything[6:12]]
        posted = {"queries": [{"plus": ["a dog"]}], "k": 6, "where": where}
        assert keys(first(served.post("/api/v1/search", json=posted))) == keys(first(reply))
        rows = served.get(
            "/api/v1/collections/grouped/rows", params={"where": where, "k": 200}
        ).json()
        assert rows["total"] == len(everything)
        assert {row["key"] for row in rows["rows"]} == {hit.key for hit in everything}


def test_queries_with_different_filters_do_not_disturb_each_other(kept):
    running = service(kept)
    chosen = running.collections["grouped"]
    [query] = chosen.vectors_of([0])
    wheres = [None, "position < 10", "position >= 10", "position < 10"]
    found = chosen.top.ask([(query, 5, where) for where in wheres], 30.0)
    running.close()
    for (_, rows), where in zip(found, wheres, strict=True):
        _, alone = chosen.index.top(query[None], 5, chosen.passing(where))
        assert rows.tolist() == alone[0].tolist()


def test_a_filter_that_nothing_passes_finds_nothing(kept):
    with client(kept) as served:
        reply = served.get("/api/v1/search", params={"plus": "a dog", "where": "position > 1000"})
        assert first(reply)["hits"] == []
        assert reply.json()["total"] == 0


def test_a_row_that_is_a_region_shows_its_box(tmp_path):
    data = "scenes:split=val:number=2:count=2"
    for name, regions in (("regions", True), ("images", False)):
        diptych.embed("tiny", data, tmp_path / name, regions=regions)
    with client(tmp_path / "regions", tmp_path / "images") as served:
        about = served.get("/api/v1/collections").json()["collections"]
        assert [(each["rows"], each["count"], each["pictures"]) for each in about] == [
            ("regions", 4, True),
            ("images", 2, True),
        ]
        parameters = {"plus": "a dog", "k": 4, "where": "right > 0"}
        hits = first(served.get("/api/v1/search", params=parameters))["hits"]
        boxes = {tuple(box.xyxy) for at in range(2) for box in open_source(data)[at].boxes}
        assert {tuple(hit["box"]) for hit in hits} == boxes
        assert len({served.get(hit["image"]).content for hit in hits}) == 4
        whole = served.get("/api/v1/collections/images/rows").json()["rows"]
        assert [row["box"] for row in whole] == [None, None]
        plain = {row["key"]: np.asarray(_image(served, row)) for row in whole}
        for hit in hits:
            drawn = np.asarray(_image(served, hit))
            left, top, right, bottom = map(round, hit["box"])
            changed = (drawn != plain[hit["key"]]).any(2)
            assert changed.any()
            assert not changed[top:bottom, left:right].any()
        refused = served.post("/api/v1/classify", json={"names": ["a", "b"], "rows": [0]})
        assert refused.status_code == 422
        assert "regions" in refused.text


def _image(served, row):
    return Image.open(io.BytesIO(served.get(row["image"]).content)).convert("RGB")
