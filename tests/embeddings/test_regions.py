"""Folders whose rows are regions: which boxes, their vectors, parts, filters, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.embeddings.helpers import Noises, contents, toy_model

import diptych
from diptych.data.images import FileImage, file_of
from diptych.data.sample import Box, Field
from diptych.data.sources import open_source
from diptych.embeddings import regions, writer
from diptych.embeddings.embed import embed_source
from diptych.embeddings.hits import fitted
from diptych.embeddings.index import Index
from diptych.embeddings.layout import Manifest
from diptych.embeddings.parts import merge
from diptych.embeddings.regions import Regions
from diptych.errors import InputError
from diptych.models.regions import squashed

CLASSES = ("cup", "plate")


class Boxed(Noises):
    """Images of noise, 48 x 40; image i has i % 4 boxes, and one more of another image."""

    name = "boxed"

    def __getitem__(self, i):
        own = [
            Box(xyxy=(4.0 * n, i % 7, 4.0 * n + 20, 30), label=(i + n) % 3 - 1)
            for n in range(i % 4)
        ]
        other = Box(xyxy=(0, 0, 9, 9), label=0, image="page2")
        return replace(super().__getitem__(i), boxes=(*own, other), labels={"price": i / 2})

    def schema(self):
        return {
            **super().schema(),
            "boxes": Field(kind="box", classes=CLASSES),
            "labels.price": Field(kind="float"),
        }


ROWS = [(i, n) for i in range(50) for n in range(i % 4) if i % 9 != 8]


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Files of 10 rows, which end between two regions of an image; progress is always saved."""
    monkeypatch.setattr(writer, "PART_ROWS", 10)
    monkeypatch.setattr(writer, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(regions, "MOST", 4)


def embed(model, out, source=None, given=None, **options):
    settings = {"batch_size": 6, "max_bad": 0.5, "regions": given or Regions(), **options}
    return embed_source(model, source or Boxed(), out, **settings)


@pytest.fixture
def emb(model, tmp_path):
    embed(model, tmp_path / "emb", columns=["price"])
    return tmp_path / "emb"


def all_hits(folder):
    index = Index.open(folder)
    return index.hits(torch.zeros(len(index)), torch.arange(len(index)))


def test_a_row_is_a_box_with_its_vector(model, emb):
    index = Index.open(emb)
    manifest = index.manifest
    assert (manifest.rows, manifest.count, len(index)) == ("regions", len(ROWS), len(ROWS))
    assert list(manifest.columns) == ["left", "top", "right", "bottom", "price"]
    hits = all_hits(emb)
    source = Boxed()
    for (i, n), hit in zip(ROWS, hits, strict=True):
        box = source[i].boxes[n]
        name = CLASSES[box.label] if box.label >= 0 else None
        assert (hit.key, hit.position, hit.box) == (f"n{i}", i, box.xyxy)
        assert (hit.caption, hit.columns) == (name, {"price": i / 2})
    assert manifest.texts == sum(hit.caption is not None for hit in hits) > 0
    whole = squashed(model.preprocess)
    for row in (0, 17, len(ROWS) - 1):
        i, n = ROWS[row]
        sample = source[i]
        shares = np.array(sample.boxes[n].xyxy) / (48, 40, 48, 40)
        pixels = whole.read(sample.images["main"], exact=False)[None]
        wanted = model.embed_regions(pixels, [[shares]]).vectors[0, 0]
        found = torch.from_numpy(index.rows(np.array([row])))[0]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    texts = np.concatenate([np.load(path) for path in sorted((emb / "text_emb").iterdir())])
    row = next(at for at, hit in enumerate(hits) if hit.caption == "plate")
    np.testing.assert_allclose(texts[row], model.embed_texts(["plate"])[0], atol=1e-5)
    assert not texts[next(at for at, hit in enumerate(hits) if hit.caption is None)].any()


def test_regions_are_filtered_by_their_box_and_the_columns_of_their_image(model, emb):
    where = "left >= 4 and price < 9 and caption = 'plate'"
    hits = diptych.search(emb, "plate", where=where, k=99, model=model)
    wanted = {(f"n{i}", 4.0 * n) for i, n in ROWS if n >= 1 and i / 2 < 9 and (i + n) % 3 - 1 == 1}
    assert {(hit.key, hit.box[0]) for hit in hits} == wanted
    record = hits.records()[0]
    names = ("rank", "score", "key", "position", "image_path", "caption", "box", "price")
    assert tuple(record) == names
    assert json.loads(json.dumps(record["box"])) == list(hits[0].box)


class Stop(BaseException):
    pass


def stop_after(batches):
    def progress(done, total):
        if done >= 6 * batches:
            raise Stop

    return progress


@pytest.mark.parametrize("batches", [2, 5])
def test_what_was_killed_has_the_same_bytes(model, tmp_path, batches):
    embed(model, tmp_path / "unbroken")
    with pytest.raises(Stop):
        embed(model, tmp_path / "killed", progress=stop_after(batches))
    embed(model, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")


def test_what_was_made_in_parts_has_the_same_bytes(model, tmp_path):
    embed(model, tmp_path / "unbroken")
    for number in (1, 2, 3):
        embed(model, tmp_path / "emb", part=f"{number}/3")
    merge(tmp_path / "emb", max_bad=0.5)
    assert contents(tmp_path / "emb") == contents(tmp_path / "unbroken")


def test_a_run_begun_with_other_regions_is_refused(model, tmp_path):
    with pytest.raises(Stop):
        embed(model, tmp_path / "emb", progress=stop_after(1))
    with pytest.raises(InputError, match=r"other settings .*regions .*None}, now .*32}"):
        embed(model, tmp_path / "emb", given=Regions(size=32))


@pytest.fixture
def photos(tmp_path):
    """Two photographs in a folder."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, (width, height) in {"a.png": (80, 40), "b.png": (40, 40)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return open_source(str(tmp_path / "photos"))


def boxes_of(tmp_path, *rows):
    """A file as `diptych detect --json` prints it, of image, box and name."""
    path = tmp_path / "boxes.json"
    listed = [{"image": image, "box": box, "name": name} for image, box, name in rows]
    path.write_text(json.dumps({"boxes": listed}))
    return path


def test_boxes_of_a_file_are_found_by_the_key_or_the_file_of_an_image(model, photos, tmp_path):
    key = photos.keys()[1]
    path = boxes_of(
        tmp_path,
        (key, [0, 0, 20, 40], ""),
        (file_of(photos[0].images["main"]), [10, 0, 80.4, 40], "a cup"),
        (key, [5, 5, 9, 9], "a plate"),
    )
    out = tmp_path / "emb"
    manifest = diptych.embed(model, photos, out, regions=True, boxes=path, size=40)
    hits = all_hits(out)
    assert [(hit.position, hit.box, hit.caption) for hit in hits] == [
        (0, (10.0, 0.0, 80.4, 40.0), "a cup"),
        (1, (0.0, 0.0, 20.0, 40.0), None),
        (1, (5.0, 5.0, 9.0, 9.0), "a plate"),
    ]
    assert manifest.texts == 2
    shown = hits._repr_html_()
    assert shown.count("data:image/jpeg") == 3
    assert len({part.split('"')[0] for part in shown.split("base64,")[1:]}) == 3


def test_regions_of_scenes_are_found_by_what_is_in_them(tmp_path):
    model = diptych.load("tiny")
    data = "scenes:split=val:number=2:same=0:count=12"
    diptych.embed(model, data, tmp_path / "emb", regions=True)
    names = {hit.caption for hit in all_hits(tmp_path / "emb")}
    assert len(names) > 6
    right = 0
    for name in names:
        [hit] = diptych.search(tmp_path / "emb", f"a photo of a {name}", k=1, model=model)
        right += hit.caption == name
    assert right > 0.4 * len(names)  # by chance one or two of them


def test_a_table_holds_the_boxes_as_the_folder_does(model, emb, tmp_path):
    pytest.importorskip("lance")
    address = f"lancedb:{tmp_path / 'shop'}"
    diptych.index(emb, to=address)
    where = "left >= 4"
    wanted = diptych.search(emb, "plate", where=where, k=5, model=model).records()
    found = diptych.search(address, "plate", where=where, k=5, model=model).records()
    places = [[(row["key"], row["box"]) for row in rows] for rows in (found, wanted)]
    assert places[0] == places[1]


def test_a_box_is_outlined_and_what_is_in_it_stays(tmp_path):
    path = tmp_path / "grey.png"
    Image.new("RGB", (200, 100), (128, 128, 128)).save(path)
    plain = np.asarray(fitted(FileImage(str(path)), 100))
    drawn = np.asarray(fitted(FileImage(str(path)), 100, (40, 40, 120, 80)))
    assert plain.shape == drawn.shape == (50, 100, 3)
    assert (plain == 128).all()
    assert (drawn[20:40, 20:60] == 128).all()
    changed = (drawn != 128).any(2)
    assert changed[17:20, 20:60].all()
    assert {0, 255} <= set(drawn[changed].ravel().tolist())
    changed[16:44, 16:64] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0, 0, 81, 40], r"box \(0, 0, 81, 40\) .* lies outside the image of 80 x 40 pixels"),
        ([9, 0, 9, 40], "or has no area.*mend the boxes"),
        ([-20, 0, 0, 40], "lies outside"),
        ([float("nan"), 0, 9, 9], "lies outside"),
    ],
)
def test_boxes_outside_their_image_or_without_area_are_refused(
    model, photos, tmp_path, box, message
):
    path = boxes_of(tmp_path, (photos.keys()[0], box, "a cup"))
    with pytest.raises(InputError, match=message):
        diptych.embed(model, photos, tmp_path / "emb", regions=True, boxes=path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["boxes.json", "photos"]


def test_what_gives_no_regions_is_refused(model, photos, tmp_path):
    out = tmp_path / "emb"
    with pytest.raises(
        InputError, match=r"has no boxes; name data that have some, or give .*--boxes"
    ):
        diptych.embed(model, photos, out, regions=True)
    with pytest.raises(InputError, match="none of the 1 images of boxed has a box; name data"):
        embed(model, out, Boxed(1))
    for number in (1, 2):
        embed(model, out, Boxed(1), part=f"{number}/2")
    with pytest.raises(InputError, match=r"no image of .*emb\.parts has a box; name data"):
        merge(out)
    with pytest.raises(InputError, match="--boxes is about regions; embed them with --regions"):
        diptych.embed(model, photos, out, boxes="x.json")
    path = boxes_of(tmp_path, ("c.png", [0, 0, 1, 1], ""))
    with pytest.raises(InputError, match=r"has boxes of c\.png, which .*photos does not hold"):
        diptych.embed(model, photos, tmp_path / "b", regions=True, boxes=path)
    with pytest.raises(InputError, match="'left' is a column that every search shows"):
        embed(model, out, columns=["left"])
    texts = type("Texts", (), {"name": "texts", "tokenizer": None})()
    with pytest.raises(InputError, match="embed --regions needs a model with embed_regions"):
        embed(texts, out)
    many = boxes_of(tmp_path, *[(photos.keys()[0], [0, 0, 9, 9], "")] * 5)
    with pytest.raises(InputError, match="1 more-than-4-regions"):
        diptych.embed(model, photos, tmp_path / "b", regions=True, boxes=many)


def test_a_tower_without_positions_is_refused(tmp_path):
    other = toy_model()
    tower = other.encoder.image

    class Pooled(type(tower)):
        def forward(self, *given, **options):
            return replace(super().forward(*given, **options), grid=None)

    tower.__class__ = Pooled
    with pytest.raises(InputError, match="pools its positions away.*choose vit or conv"):
        embed(other, tmp_path / "emb")
    assert not list(tmp_path.iterdir())


def test_folders_of_regions_and_of_images_are_not_searched_together(model, emb, tmp_path):
    embed_source(model, Boxed(), tmp_path / "images", batch_size=6, max_bad=0.5)
    with pytest.raises(InputError, match=r"holds images, .* regions; what is searched together"):
        diptych.index(emb, add=[tmp_path / "images"])
    assert Manifest.read(tmp_path / "images").rows == "images"
