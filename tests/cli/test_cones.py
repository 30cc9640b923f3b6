"""Concepts from the command line: named, found and drawn by runs that hold no text tower."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source

NEW, OLD = "scenes:number=1:split=novel:count=24", "scenes:number=1-2:count=24"
FEW = ("--steps", "3", "--batch-size", "8", "--quiet")
BASE = "{steps: 2, batch_size: 8}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes of two things that the model has never seen, a folder a thing."""
    place = tmp_path_factory.mktemp("things")
    source = open_source(f"{NEW}:seed=9")
    names = source.schema()["labels.object"].classes
    for sample in source:
        if (name := names[sample.labels["object"]]) in ("owl", "snake", "violin"):
            (place / name).mkdir(exist_ok=True)
            sample.images["main"].decode().save(place / name / f"{sample.key}.png")
    return place


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_becomes_concepts_that_need_no_text_tower(
    keep, folder, diptych, refused, tmp_path
):
    run = tmp_path / "run"
    words = (
        "--init",
        "tiny",
        "--data",
        folder,
        "--val",
        folder,
        "--steps",
        "20",
        "--batch-size",
        "4",
        "--quiet",
    )
    called = diptych(
        "train", "cones", *words, *(("--method.keep_text", "true") if keep else ()), "--out", run
    )
    assert called.code == 0, called.err
    assert "validation: top1 " in called.err
    assert f"diptych classify {run} IMAGES" in called.out
    reported = json.loads(diptych("classify", run, folder, "--json").out)
    right = [
        each["classes"][0]["name"] == each["path"].split("/")[-2] for each in reported["images"]
    ]
    assert sum(right) > 0.7 * len(right)
    fewer = json.loads(diptych("classify", run, folder, "--names", "violin,owl", "--json").out)
    assert fewer["names"] == ["violin", "owl"]
    stored = json.loads((run / "model.json").read_text())
    assert (stored["tokenizer"] is None, stored["dual"]["text"] is None) == (not keep, not keep)
    other = ("classify", run, folder, "--names", "violin,tree")
    if keep:
        assert json.loads(diptych(*other, "--json").out)["names"] == ["violin", "tree"]
    else:
        assert "'tree' is no concept that was learnt (owl, snake, violin)" in refused(*other)


def test_boxes_become_a_detector(diptych, refused, tmp_path):
    run, image = tmp_path / "run", tmp_path / "one.png"
    words = (
        "--init",
        "tiny",
        "--data",
        f"train={NEW},base={OLD}",
        "--val",
        NEW,
        *FEW,
        "--method.base",
        BASE,
    )
    called = diptych("train", "cones", "--preset", "detect", *words, "--out", run)
    assert called.code == 0, called.err
    assert "validation: ap50 " in called.err
    assert f"diptych detect {run} IMAGES" in called.out
    open_source(NEW)[0].images["main"].decode().resize((128, 96)).save(image)
    reported = json.loads(diptych("detect", run, image, "--score-threshold", "0", "--json").out)
    assert reported["names"][:2] == ["rabbit", "owl"]
    assert len(reported["boxes"]) > 1
    for each in reported["boxes"]:
        left, top, right, bottom = each["box"]
        assert 0 <= left <= right <= 128
        assert 0 <= top <= bottom <= 96
    scores = [each["score"] for each in reported["boxes"]]
    assert scores == sorted(scores, reverse=True)
    shown = diptych("detect", run, tmp_path, "--names", "owl", "--score-threshold", "0")
    assert shown.code == 0, shown.err
    assert "owl" in shown.out
    assert "'tree' is no concept" in refused("detect", run, tmp_path, "--names", "tree")
    assert "--score-threshold is 2" in refused("detect", run, tmp_path, "--score-threshold", "2")
    assert (
        "diptych detect needs a model with detect, which tiny has not; train one with"
        in refused("detect", "tiny", tmp_path)
    )
    assert "use detect" in refused("classify", run, tmp_path)


@pytest.fixture(scope="module")
def outlined(tmp_path_factory):
    """Eight scenes in COCO's format, with polygons and with run lengths."""
    folder = tmp_path_factory.mktemp("outlined")
    square = [2, 2, 30, 2, 30, 30, 2, 30]
    runs = {"size": [64, 64], "counts": [64 * 10, 64 * 20, 64 * 34]}
    images, annotations = [], []
    for at in range(8):
        outline = runs if at % 2 else [square]
        name = f"{at}.png"
        open_source(NEW)[at].images["main"].decode().resize((64, 64)).save(folder / name)
        images.append({"id": at, "file_name": name, "width": 64, "height": 64})
        box = [10, 0, 20, 64] if at % 2 else [2, 2, 28, 28]
        row = {"id": at, "image_id": at, "category_id": at % 2, "bbox": box, "iscrowd": 0}
        annotations.append({**row, "segmentation": outline, "area": 1.0})
    names = [{"id": 0, "name": "cell"}, {"id": 1, "name": "nucleus"}]
    data = {"images": images, "annotations": annotations, "categories": names}
    path = folder / "instances_cells.json"
    path.write_text(json.dumps(data))
    return path


def test_outlines_become_a_segmentor(outlined, diptych, refused, tmp_path):
    run = tmp_path / "run"
    small = ("--preset", "segment", "--init", "tiny", "--method.head", "{width: 8, depth: 1}")
    words = (*small, *FEW, "--method.base", BASE)
    data = ("--data", f"train={outlined},base={OLD}", "--val", outlined)
    called = diptych("train", "cones", *words, *data, "--out", run)
    assert called.code == 0, called.err
    assert "mask_ap50 " in called.err
    assert f"diptych detect {run} IMAGES --masks DIR" in called.out
    out = tmp_path / "found"
    shown = diptych("detect", run, outlined.parent, "--score-threshold", "0", "--masks", out)
    assert shown.code == 0, shown.err
    found = json.loads((out / "instances.json").read_text())
    assert [each["name"] for each in found["categories"]] == ["cell", "nucleus"]
    assert found["annotations"]
    assert Image.open(out / "0.png").size == (64, 64)
    measured = diptych("evaluate", run, "--data", outlined, "--suite", "detection", "--json")
    assert '"mask_ap"' in measured.out
    boxes = tmp_path / "boxes.jsonl"
    image = str(outlined.parent / "0.png")
    boxes.write_text(json.dumps({"image": image, "boxes": [{"name": "cell", "box": [1, 1, 9, 9]}]}))
    none = tmp_path / "none"
    for bare in (f"base={boxes}", f"train={boxes},base={OLD}"):
        said = refused("train", "cones", *words, "--data", bare, "--out", none)
        assert "boxes.jsonl has no boxes.mask, which ConES needs" in said
        assert "name a source" in said
        assert not none.exists()


def test_a_denoiser_draws_a_concept_into_a_folder(diptych, refused, tmp_path):
    run, out = tmp_path / "run", tmp_path / "drawn"
    head = (
        "--method.head",
        "{size: 16, width: 32, depth: 1}",
        "--method.base",
        BASE,
        "--method.label",
        "object",
    )
    words = ("--init", "tiny", "--data", f"train={NEW},base={OLD}", *FEW, *head)
    called = diptych("train", "cones", "--preset", "generate", *words, "--out", run)
    assert called.code == 0, called.err
    assert f"diptych draw {run} NAME" in called.out
    called = diptych("draw", run, "owl", "--count", "2", "--steps", "3", "--out", out)
    assert called.code == 0, called.err
    assert "2 images of 'owl'" in called.out
    assert [Image.open(path).size for path in sorted(out.iterdir())] == [(16, 16), (16, 16)]
    for words, said in (
        (("owl",), "--out FOLDER"),
        (("tree", "--out", out), "'tree' is no concept"),
        (("owl", "--words", "on grass", "--out", out), "keep_text true"),
        (("owl", "--count", "0", "--out", out), "--count is 0"),
        (("owl", "--out", run / "model.json"), "is a file"),
    ):
        assert said in refused("draw", run, *words)
    assert "train cones --preset generate" in refused("draw", "tiny", "owl", "--out", out)
