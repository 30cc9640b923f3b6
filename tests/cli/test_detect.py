"""`diptych detect --masks`: a run that learnt masks, and runs and data that have none."""

import json

import pytest
from PIL import Image

from diptych.data.sources import open_source

SCENES = "scenes:number=2:count=8:size=32"
FEW = ("--steps", "2", "--batch-size", "4", "--method.max_boxes", "20")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for at, sample in enumerate(open_source(f"{SCENES}:seed=7")):
        if at < 2:
            sample.images["main"].decode().resize((48, 32)).save(folder / f"{at}.png")
    return folder


def test_a_run_of_instances_writes_and_draws_masks(diptych, refused, photos, tmp_path):
    run = tmp_path / "run"
    words = ("--init", "tiny", "--data", SCENES, "--val", SCENES, *FEW)
    called = diptych(
        "train", "denseclip", *words, "--method.task", "instances", "--method.proposals", '{"post_nms_top_n": 9}',
        "--out", run,
    )  # fmt: skip
    assert called.code == 0, called.err
    assert "mask_ap50" in called.err
    assert f"diptych detect {run} IMAGES --masks DIR" in called.out
    out = tmp_path / "found"
    shown = diptych("detect", run, photos, "--score-threshold", "0", "--masks", out)
    assert shown.code == 0, shown.err
    assert f"{out} holds instances.json and a drawing of each image" in shown.out
    data = json.loads((out / "instances.json").read_text())
    assert [each["width"] for each in data["images"]] == [48, 48]
    assert data["annotations"]
    assert Image.open(out / "0.png").size == (48, 32)
    assert "name a new one with --masks" in refused("detect", run, photos, "--masks", out)
    told = refused("detect", run, photos, "--least", "0")
    assert "--least is called --score-threshold now" in told


def test_masks_are_refused_where_there_are_none(diptych, refused, photos, tmp_path):
    run = tmp_path / "run"
    words = ("--init", "tiny", "--data", SCENES, *FEW, "--method.size", "32")
    called = diptych("train", "denseclip", *words, "--method.task", "detect", "--out", run)
    assert called.code == 0, called.err
    out = tmp_path / "found"
    assert "finds boxes and no masks; train it on" in refused("detect", run, photos, "--masks", out)
    assert not out.exists()
    boxes = tmp_path / "boxes.jsonl"
    image = photos / "0.png"
    rows = [{"image": str(image), "boxes": [{"name": "owl", "box": [1, 1, 9, 9]}]}]
    boxes.write_text("\n".join(json.dumps(row) for row in rows))
    words = ("--init", "tiny", "--data", boxes, *FEW, "--out", tmp_path / "none")
    told = refused("train", "denseclip", *words, "--method.task", "instances")
    assert "boxes.mask" in told
    assert not (tmp_path / "none").exists()
