"""COCO captions and Karpathy's splits, on fixtures of their true forms."""

import json
from collections import Counter

import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

COCO = {
    "info": {"description": "COCO 2017 Dataset"},
    "licenses": [],
    "images": [
        {"id": 397133, "file_name": "000000397133.jpg", "height": 427, "width": 640},
        {"id": 37777, "file_name": "000000037777.jpg", "height": 230, "width": 352},
    ],
    "annotations": [
        {"image_id": 37777, "id": 2, "caption": "The dining table near the kitchen has a bowl of fruit on it."},
        {"image_id": 397133, "id": 1, "caption": "A man is in a kitchen making pizzas.\n"},
        {"image_id": 37777, "id": 3, "caption": "A small kitchen has various appliances and a table."},
        {"image_id": 99, "id": 4, "caption": "A caption whose picture is not listed."},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filepath": "train2014", "filename": "b.jpg", "split": "restval", "sentences": [{"raw": "three"}]},
    ],
}


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


@pytest.mark.parametrize("folder", ["val2017", "../val2017", "images/val2017"])
def test_coco_captions_find_their_pictures(tmp_path, folder):
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps(COCO))
    put(path.parent / folder, "000000397133.jpg", "000000037777.jpg")
    source = open_source(str(path))
    assert list(source.keys()) == ["000000397133.jpg", "000000037777.jpg"]
    assert [len(sample.captions()) for sample in source] == [1, 2]
    assert source[0].captions() == ["A man is in a kitchen making pizzas."]
    assert source[1].images["main"].decode().size == (4, 4)
    assert Counter(source.damage.values()) == {"missing": 1}
    assert not source.schema()["texts.caption"].optional


def test_karpathys_splits(tmp_path):
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps(KARPATHY))
    put(tmp_path, "val2014/a.jpg", "train2014/b.jpg")
    assert open_source(f"{path}:split=test")[0].captions() == ["one", "two"]
    assert open_source(f"{path}:split=restval").keys()[0] == "train2014/b.jpg"
    for spec, message in [(str(path), ":split=restval"), (f"{path}:split=tset", "did you mean 'test'")]:
        with pytest.raises(InputError, match=message):
            open_source(spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": []}', "no list 'images'"),
        ('{"images": [{"id": 1}]}', "lacks 'file_name'"),
        (json.dumps(COCO), ":images=FOLDER"),
        (json.dumps({**COCO, "images": COCO["images"][:1] * 2, "annotations": []}), "FOLDER|twice"),
    ],
)
def test_other_json_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "x.json"))
