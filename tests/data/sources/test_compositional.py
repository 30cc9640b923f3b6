"""Winoground, ARO, SugarCrepe and MMVP, on fixtures of the true form."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych
from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate

WINOGROUND = {
    "id": 7, "image_0": "ex_7_img_0", "image_1": "ex_7_img_1", "tag": "Adjective-Size",
    "caption_0": "a big cat is next to a small dog", "caption_1": "a small cat is next to a big dog",
    "num_main_preds": 1, "collapsed_tag": "Object", "secondary_tag": "",
}  # fmt: skip
ARO = {
    "image_id": "2", "image_path": "2.jpg", "bbox_x": 4, "bbox_y": 2, "bbox_w": 10, "bbox_h": 8,
    "relation_name": "on", "true_caption": "the cat is on the mat", "false_caption": "the mat is on the cat",
}  # fmt: skip
ATTRIBUTION = {
    **{name: value for name, value in ARO.items() if name != "relation_name"},
    "attributes": ["red", "old"],
}
SUGARCREPE = {"filename": "0002.jpg", "caption": "A cat.", "negative_caption": "A red cat."}
NAMES = ("ex_7_img_0.png", "ex_7_img_1.png", "2.jpg", "0002.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The images of all four."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        pixels = rng.integers(0, 255, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name, quality=100)
    return tmp_path


def written(root: Path, name: str, content: Any) -> Any:
    lines = "".join(json.dumps(row) + "\n" for row in content) if name.endswith("l") else None
    (root / name).write_text(lines or json.dumps(content))
    return open_source(str(root / name))


def test_winoground_is_two_images_with_two_captions(root: Path):
    source = written(root, "examples.jsonl", [WINOGROUND])
    [sample] = list(source)
    assert (sample.key, sample.captions()) == ("7", [WINOGROUND["caption_0"]])
    [edit] = sample.edits
    assert (edit.kind, edit.captions()) == ("Object", [WINOGROUND["caption_1"]])
    first, second = (np.asarray(each.images["main"].decode()) for each in (sample, edit))
    assert (first != second).any()
    found = evaluate(diptych.load("tiny"), source, ["composition"])["composition"]
    assert found["pairs"] == 1
    assert {"text", "image", "group"} <= found.keys()
    assert pickle.loads(pickle.dumps(source))[0].captions() == sample.captions()


@pytest.mark.parametrize(
    ("name", "row", "kind"),
    [
        ("visual_genome_relation.json", ARO, "on"),
        ("visual_genome_attribution.json", ATTRIBUTION, "red_old"),
    ],
)
def test_aro_is_a_region_with_a_true_and_a_false_caption(
    root: Path, name: str, row: Any, kind: str
):
    source = written(root, name, [row, row])
    sample = source[1]
    region = np.asarray(sample.images["main"].decode())
    whole = np.asarray(Image.open(root / "images/2.jpg").convert("RGB"))
    assert (region == whole[2:10, 4:14]).all()
    [edit] = sample.edits
    assert (edit.kind, edit.images) == (kind, {})
    assert (sample.captions(), edit.captions()) == ([row["true_caption"]], [row["false_caption"]])
    found = evaluate(diptych.load("tiny"), source, ["composition"])["composition"]
    assert found["pairs"] == 2
    assert "t2i_2way" not in found


MMVP = """Question ID,Type,Statement
1,Orientation and Direction,a dog facing left
2,Orientation and Direction,"a dog, facing right"
3,Quantity and Count,one ear of a cat
4,Quantity and Count,two ears of a cat
5,Quantity and Count,a last line alone
"""


def test_mmvp_is_two_images_with_two_statements(root: Path):
    images = root / "MLLM_VLM Images"
    for number, kind in ((1, "Orientation and Direction"), (3, "Quantity and Count")):
        (images / kind).mkdir(parents=True)
        for at in (number, number + 1):
            Image.new("RGB", (8, 8), (9 * at, 0, 0)).save(images / kind / f"{at}.jpg")
    (root / "Questions.csv").write_text(MMVP)
    source = open_source(str(root / "Questions.csv"))
    assert list(source.keys()) == ["1", "3"]
    assert list(source.damage.values()) == ["columns"]
    [edit] = source[0].edits
    assert source[0].captions() == ["a photo of a dog facing left"]
    assert edit.captions() == ["a photo of a dog, facing right"]
    assert edit.kind == "Orientation and Direction"
    assert edit.images["main"].decode().getpixel((0, 0))[0] in range(15, 22)
    found = evaluate(diptych.load("tiny"), source, ["composition"])["composition"]
    assert set(found["by_kind"]) == {"Orientation and Direction", "Quantity and Count"}
    assert found["chance_image"] == 0.25


def test_sugarcrepe_is_a_caption_and_a_negative_one(root: Path):
    source = written(root, "add_att.json", {"0": SUGARCREPE, "5": SUGARCREPE})
    assert list(source.keys()) == ["add_att-0", "add_att-5"]
    assert source[0].edits[0].kind == "add_att"
    assert source[0].edits[0].captions() == ["A red cat."]


def test_rows_that_do_not_fit_are_counted(root: Path):
    bad = [{**ARO, "bbox_w": 0}, {**ARO, "image_path": "../2.jpg"}, {**ARO, "true_caption": ""}, 3]
    source = written(root, "visual_genome_relation.json", [ARO, *bad])
    assert len(source) == 1
    assert list(source.damage.values()) == ["columns"] * 4
    outside = written(root, "visual_genome_relation.json", [{**ARO, "bbox_x": 24}])
    with pytest.raises(BadSample, match="has 24 x 16 pixels"):
        outside[0].images["main"].decode()


def test_bad_files_are_one_line(root: Path):
    with pytest.raises(InputError, match="no row has its captions and images"):
        written(root, "swap_obj.json", {"0": {"caption": "a"}})
    with pytest.raises(InputError, match="no row has its captions"):
        written(root, "add_obj.json", 3)
    with pytest.raises(InputError, match=r"its first image, 9\.jpg, is not near it"):
        written(root, "visual_genome_relation.json", [{**ARO, "image_path": "9.jpg"}])
    with pytest.raises(InputError, match="no such file"):
        open_source(str(root / "swap_att.json"))
    named = open_source(
        f"{written(root, 'add_att.json', {'0': SUGARCREPE}).name}:images={root / 'images'}"
    )
    assert len(named) == 1
