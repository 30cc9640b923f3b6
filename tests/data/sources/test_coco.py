"""COCO captions and Karpathy's splits, on fixtures of their true forms."""

import io
import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import coco, open_source
from diptych.errors import InputError

COCO = {
    "info": {"description": "COCO 2017 Dataset"},
    "licenses": [],
    "images": [
        {"id": 397133, "file_name": "000000397133.jpg", "height": 427, "width": 640},
        {"id": 37777, "file_name": "000000037777.jpg", "height": 230, "width": 352},
    ],
    "annotations": [
        {
            "image_id": 37777,
            "id": 2,
            "caption": "The dining table near the kitchen has a bowl of fruit on it.",
        },
        {"image_id": 397133, "id": 1, "caption": "A man is in a kitchen making pizzas.\n"},
        {
            "image_id": 37777,
            "id": 3,
            "caption": "A small kitchen has various appliances and a table.",
        },
        {"image_id": 99, "id": 4, "caption": "A caption whose image is not listed."},
    ],
}
INSTANCES = {
    "info": {"description": "COCO 2017 Dataset"},
    "images": COCO["images"],
    "annotations": [
        {
            "segmentation": [],
            "area": 702.1,
            "iscrowd": 0,
            "image_id": 37777,
            "bbox": [10.5, 20, 30, 40],
            "category_id": 18,
            "id": 1768,
        },
        {"iscrowd": 0, "image_id": 397133, "bbox": [0, 0, 5, 6.5], "category_id": 1, "id": 2},
        {"iscrowd": 0, "image_id": 37777, "bbox": [1, 2, 3, 4], "category_id": 1, "id": 3},
        {"iscrowd": 1, "image_id": 37777, "bbox": [0, 0, 100, 100], "category_id": 1, "id": 4},
        {"iscrowd": 0, "image_id": 37777, "bbox": [1, 2, 0, 4], "category_id": 1, "id": 5},
        {"iscrowd": 0, "image_id": 37777, "bbox": [1, 2, 3, 4], "category_id": 99, "id": 6},
        {"iscrowd": 0, "image_id": 99, "bbox": [1, 2, 3, 4], "category_id": 1, "id": 7},
    ],
    "categories": [
        {"supercategory": "animal", "id": 18, "name": "dog"},
        {"supercategory": "person", "id": 1, "name": "person"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014",
            "filename": "a.jpg",
            "split": "test",
            "sentences": [{"raw": "one"}, {"raw": "two"}],
        },
        {
            "filepath": "train2014",
            "filename": "b.jpg",
            "split": "restval",
            "sentences": [{"raw": "three"}],
        },
    ],
}


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


@pytest.mark.parametrize("folder", ["val2017", "../val2017", "images/val2017"])
def test_coco_captions_find_their_images(tmp_path, folder):
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


def test_coco_boxes_with_their_categories(tmp_path):
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps(INSTANCES))
    put(tmp_path / "val2017", "000000397133.jpg", "000000037777.jpg")
    source = open_source(str(path))
    assert source.schema()["boxes"].classes == ("person", "dog")  # in the order of their ids
    assert "texts.caption" not in source.schema()
    assert [[(box.xyxy, box.text, box.label) for box in sample.boxes] for sample in source] == [
        [((0, 0, 5, 6.5), "person", 0)],
        [((10.5, 20, 40.5, 60), "dog", 1), ((1, 2, 4, 6), "person", 0)],
    ]
    assert Counter(source.damage.values()) == {"missing": 1, "box": 2}


def test_boxes_with_the_captions_of_another_file(tmp_path):
    """Images are matched by their ids: LVIS lists them in its own order, and by their addresses alone."""
    put(tmp_path, "val2017/000000037777.jpg", "val2017/000000397133.jpg", "val2017/3.jpg")
    place = "http://images.cocodataset.org/val2017/{}"
    images = [
        {"id": number, "coco_url": place.format(name), "height": 4, "width": 4}
        for number, name in (
            (37777, "000000037777.jpg"),
            (3, "3.jpg"),
            (397133, "000000397133.jpg"),
        )
    ]
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(INSTANCES | {"images": images}))
    captions = tmp_path / "captions_val2017.json"
    captions.write_text(json.dumps(COCO))
    assert "texts.caption" not in open_source(str(path)).schema()
    source = open_source(f"{path}:image_captions={captions}")
    assert source[0].key == "val2017/000000037777.jpg"
    assert source[0].images["main"].decode().size == (4, 4)
    assert [len(sample.captions()) for sample in source] == [2, 0, 1]
    assert [len(sample.boxes) for sample in source] == [2, 0, 1]
    assert source.schema()["texts.caption"].optional
    assert source.schema()["boxes"].classes == ("person", "dog")


def test_captions_of_other_images_are_refused(tmp_path):
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps(INSTANCES))
    put(tmp_path / "val2017", "000000397133.jpg", "000000037777.jpg")
    other = tmp_path / "captions_other.json"
    other.write_text(json.dumps({"images": [{"id": 5, "file_name": "5.jpg"}], "annotations": []}))
    with pytest.raises(InputError, match="no captions of the images in .*same images"):
        open_source(f"{path}:image_captions={other}")
    other.write_text(json.dumps({"images": [{"file_name": "5.jpg"}]}))
    with pytest.raises(InputError, match="captions_other.json: .* lacks 'id'"):
        open_source(f"{path}:image_captions={other}")
    karpathy = tmp_path / "dataset_coco.json"
    karpathy.write_text(json.dumps(KARPATHY))
    with pytest.raises(InputError, match="has captions itself"):
        open_source(f"{karpathy}:split=test:image_captions={other}")


def test_a_file_with_boxes_and_captions_has_both(tmp_path):
    images = [
        {"id": 37777, "file_name": "a.jpg", "captions": ["A dog and a person."]},
        {"id": 397133, "file_name": "b.jpg", "captions": ["A person."]},
    ]
    source = _written(tmp_path, "both.json", INSTANCES | {"images": images})
    assert [sample.captions() for sample in source] == [["A dog and a person."], ["A person."]]
    assert {"boxes", "texts.caption"} <= {*source.schema()}
    assert not source.schema()["texts.caption"].optional


SIZED = [{**image, "width": 4, "height": 2} for image in COCO["images"]]
UNSIZED = [{"id": 397133, "file_name": "000000397133.jpg"}]
SQUARE = [0, 0, 2, 0, 2, 2, 0, 2]


def annotation(segmentation, **more):
    return {"image_id": 397133, "category_id": 18, "segmentation": segmentation, "id": 1} | more


def outlined(tmp_path, *annotations):
    path = tmp_path / "instances_val2017.json"
    path.write_text(json.dumps(INSTANCES | {"images": SIZED, "annotations": annotations}))
    put(tmp_path / "val2017", "000000397133.jpg", "000000037777.jpg")
    return open_source(str(path))


def test_outlines_are_a_class_mask(tmp_path):
    runs = {"counts": [0, 8], "size": [2, 4]}
    source = outlined(
        tmp_path,
        annotation([[1, 0, 2, 0, 2, 1, 1, 1], [3, 1, 4, 1, 4, 2, 3, 2]], area=2.0),
        annotation([SQUARE], category_id=1, area=4.0),
        annotation(runs, iscrowd=1, area=1.0),
        annotation([SQUARE], image_id=37777, category_id=1),
    )
    assert source.schema()["masks.class"].classes == ("person", "dog")
    by_key = {sample.key: np.asarray(sample.masks["class"].decode()).tolist() for sample in source}
    assert by_key == {
        "000000397133.jpg": [[0, 1, 1, 1], [0, 0, 1, 1]],  # the crowd, the square, the small one
        "000000037777.jpg": [[0, 0, 255, 255], [0, 0, 255, 255]],
    }
    assert source.damage == {}


def test_what_no_outline_holds_can_be_background(tmp_path):
    outlined(tmp_path, annotation([SQUARE]))
    path = tmp_path / "instances_val2017.json"
    source = open_source(f"{path}:background=true")
    assert source.schema()["masks.class"].classes == ("person", "dog", "background")
    plane = np.asarray(source[0].masks["class"].decode())
    assert plane.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert source.schema()["boxes"].classes == ("person", "dog")
    path.write_text(json.dumps(INSTANCES | {"annotations": INSTANCES["annotations"][1:]}))
    with pytest.raises(InputError, match="no mask `class` to have a background"):
        open_source(f"{path}:background=true")


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 4]],
        [SQUARE, [1, 2, 3, 4, 5, None]],
        [SQUARE, [1, 2, 3, 4, 5, 1e12]],
        {"counts": [3, 4], "size": [2, 4]},
        {"counts": [-1, 9], "size": [2, 4]},
        {"counts": [], "size": [2, 4]},
        {"counts": "PPYo1", "size": [2, 4]},
        {"size": [2, 4]},
        5,
    ],
)
def test_outlines_that_are_none_are_counted(tmp_path, segmentation):
    source = outlined(tmp_path, annotation(segmentation, id=9), annotation([SQUARE]))
    assert list(source.damage.values()) == ["segment"]
    assert "annotation 9" in next(iter(source.damage))
    [mask] = [sample.masks["class"] for sample in source if sample.key == "000000397133.jpg"]
    assert np.asarray(mask.decode()).tolist() == [[1, 1, 255, 255], [1, 1, 255, 255]]


def masks_of(sample):
    return [box.mask and np.asarray(box.mask.decode()).tolist() for box in sample.boxes]


def test_boxes_have_the_masks_of_their_objects(tmp_path):
    """Smaller ones do not hide parts of larger ones, and a crowd is no object."""
    compressed = {"counts": "062", "size": [2, 4]}  # 0 outside, 6 inside, 2 outside
    source = outlined(
        tmp_path,
        annotation([[1, 0, 2, 0, 2, 1, 1, 1], [3, 1, 4, 1, 4, 2, 3, 2]], area=2, bbox=[1, 0, 3, 2]),
        annotation({"counts": [0, 8], "size": [2, 4]}, iscrowd=1, bbox=[0, 0, 4, 2]),
        annotation(compressed, area=6, bbox=[0, 0, 3, 2]),
        annotation([[1, 2, 3, 4]], bbox=[0, 0, 1, 1]),
        annotation([SQUARE], image_id=37777, bbox=[0, 0, 2, 2]),
    )
    assert source.schema()["boxes.mask"].kind == "mask"
    by_key = {sample.key: masks_of(sample) for sample in source}
    assert by_key == {
        "000000397133.jpg": [
            [[0, 1, 0, 0], [0, 0, 0, 1]],
            [[1, 1, 1, 0], [1, 1, 1, 0]],
            None,  # of the polygon of two points, which is counted
        ],
        "000000037777.jpg": [[[1, 1, 0, 0], [1, 1, 0, 0]]],
    }
    assert list(source.damage.values()) == ["segment"]


def test_a_mask_cannot_have_more_classes_than_numbers(tmp_path):
    path = tmp_path / "lvis.json"
    categories = [{"id": at, "name": str(at)} for at in range(300)]
    path.write_text(
        json.dumps(
            {"images": SIZED, "annotations": [annotation([SQUARE])], "categories": categories}
        )
    )
    put(tmp_path, "000000397133.jpg", "000000037777.jpg")
    source = open_source(str(path))
    assert set(source.schema()) == {"images.main", "boxes", "boxes.mask"}
    assert source[0].masks == {}


def test_karpathys_splits(tmp_path):
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps(KARPATHY))
    put(tmp_path, "val2014/a.jpg", "train2014/b.jpg")
    assert open_source(f"{path}:split=test")[0].captions() == ["one", "two"]
    assert open_source(f"{path}:split=restval").keys()[0] == "train2014/b.jpg"
    for spec, message in [
        (str(path), ":split=restval"),
        (f"{path}:split=tset", "did you mean 'test'"),
    ]:
        with pytest.raises(InputError, match=message):
            open_source(spec)


FLICKR30K = {
    "images": [
        {
            "sentids": [5 * at, 5 * at + 1],
            "imgid": at,
            "sentences": [
                {"tokens": ["one"], "raw": f"one {at}.", "imgid": at, "sentid": 5 * at},
                {"tokens": ["two"], "raw": f"two {at}.", "imgid": at, "sentid": 5 * at + 1},
            ],
            "split": ["train", "test", "train", "val", "train", "train"][at % 6],
            "filename": f"{1000092795 + at}.jpg",
        }
        for at in range(18)
    ],
    "dataset": "flickr30k",
}


@pytest.mark.parametrize("folder", [".", "flickr30k-images", "flickr30k_images", "images"])
def test_splits_are_joined_and_cut_into_phases(tmp_path, folder):
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps(FLICKR30K))
    put(tmp_path / folder, *(image["filename"] for image in FLICKR30K["images"]))
    wanted = [image["filename"] for image in FLICKR30K["images"] if image["split"] != "test"]
    whole = open_source(f"{path}:split=train+val")
    assert list(whole.keys()) == wanted
    assert list(open_source(f"{path}:split=val+train").keys()) == wanted
    phases = [open_source(f"{path}:split=train+val:part={at}/5") for at in range(1, 6)]
    assert list(chain.from_iterable(phase.keys() for phase in phases)) == wanted
    assert [len(phase) for phase in phases] == [3, 3, 3, 3, 3]
    assert phases[1][0].captions() == whole[3].captions()
    assert phases[1][0].images["main"].decode().size == (4, 4)
    with pytest.raises(InputError, match="'vall'; did you mean 'val'"):
        open_source(f"{path}:split=train+vall")


def test_captions_that_are_no_text_are_counted(tmp_path):
    coco = {
        **COCO,
        "annotations": [*COCO["annotations"][:2], {"image_id": 37777, "id": 9, "caption": None}],
    }
    (tmp_path / "captions_val2017.json").write_text(json.dumps(coco))
    put(tmp_path, "000000397133.jpg", "000000037777.jpg")
    source = open_source(str(tmp_path / "captions_val2017.json"))
    assert list(source.damage.values()) == ["columns"]
    assert "annotation 9" in next(iter(source.damage))
    assert len(source[1].captions()) == 1
    images = [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": 5}, {"raw": "two"}]}]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    put(tmp_path, "a.jpg")
    source = open_source(f"{tmp_path / 'dataset_coco.json'}:split=test")
    assert list(source.damage.values()) == ["columns"]
    assert source[0].captions() == ["two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": []}', "no list 'images'"),
        ('{"images": [{"id": 1}]}', "lacks 'file_name'"),
        ('{"images": [{"id": 1, "file_name": 5}]}', "is 5, no name"),
        ('{"images": [{"sentences": [], "split": "a"}, 5]}', "compare it with COCO"),
        (json.dumps(COCO), ":images=FOLDER"),
        (json.dumps({**INSTANCES, "categories": [{"id": 1}]}), "lacks 'name'"),
        (
            json.dumps(
                {**INSTANCES, "images": UNSIZED, "annotations": [annotation([SQUARE])]},
            ),
            "lacks 'width'",
        ),
        (json.dumps({**INSTANCES, "annotations": [{"image_id": 37777, "bbox": [1]}]}), "lacks"),
        (json.dumps({**COCO, "images": COCO["images"][:1] * 2, "annotations": []}), "FOLDER|twice"),
    ],
)
def test_other_json_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path / "x.json"))


def _written(tmp_path, name, data):
    for image in data["images"]:
        Image.new("RGB", (8, 8)).save(tmp_path / image["file_name"])
    (tmp_path / name).write_text(json.dumps(data))
    return open_source(str(tmp_path / name))


def test_captions_in_the_list_of_images_are_read(tmp_path):
    images = [
        {"id": 1, "file_name": "1.jpg", "captions": ["A red cup.", "A cup"]},
        {"id": 2, "file_name": "2.jpg", "captions": ["A dog.", 3]},
        {"id": 3, "file_name": "3.jpg", "captions": "A cat."},
    ]
    source = _written(tmp_path, "pairs.json", {"images": images})
    assert [source[at].captions() for at in range(3)] == [["A red cup.", "A cup"], ["A dog."], []]
    assert list(source.schema()) == ["images.main", "texts.caption"]
    assert Counter(source.damage.values()) == {"columns": 2}


def test_boxes_of_panoptic_segments_are_read(tmp_path):
    segments = [
        {"id": 7, "category_id": 199, "iscrowd": 0, "bbox": [0, 0, 8, 4], "area": 32},
        {"id": 8, "category_id": 1, "iscrowd": 0, "bbox": [2, 2, 3, 4], "area": 12},
        {"id": 9, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 8, 8], "area": 64},
    ]
    data = {
        "images": [{"id": 5, "file_name": "5.jpg", "width": 8, "height": 8}],
        "annotations": [{"image_id": 5, "file_name": "5.png", "segments_info": segments}],
        "categories": [
            {"id": 1, "isthing": 1, "name": "person"},
            {"id": 199, "isthing": 0, "name": "wall-other-merged"},
        ],
    }
    source = _written(tmp_path, "panoptic_val2017.json", data)
    assert source.schema()["boxes"].classes == ("person", "wall-other-merged")
    assert [(box.label, box.xyxy) for box in source[0].boxes] == [
        (1, (0, 0, 8, 4)),
        (0, (2, 2, 5, 6)),
    ]
    assert source.schema()["boxes"].stuff == ("wall-other-merged",)
    assert "boxes.mask" not in source.schema()
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4] = (7, 0, 0)
    colours[4:6, 2:5] = (8, 1, 2)
    (tmp_path / "panoptic_val2017").mkdir()
    Image.fromarray(colours).save(tmp_path / "panoptic_val2017" / "5.png")
    segments[1]["id"] = 8 + 256 + 2 * 65536
    (tmp_path / "panoptic_val2017.json").write_text(json.dumps(data))
    source = open_source(str(tmp_path / "panoptic_val2017.json"))
    assert {*source.schema()} == {"images.main", "boxes", "boxes.mask"}
    wall, person = (np.asarray(box.mask.decode()) for box in source[0].boxes)
    assert (wall == (colours[..., 0] == 7)).all()
    assert (person == (colours[..., 0] == 8)).all()
    assert Image.open(io.BytesIO(source[0].boxes[1].mask.read())).size == (8, 8)


def boxed(tmp_path, categories):
    """A file with an image, which has a box of each of the categories."""
    put(tmp_path, "a.png")
    path = tmp_path / "instances.json"
    annotations = [
        {
            "image_id": 1,
            "category_id": each["id"],
            "bbox": [1, 1, each["id"], 3],
            "segmentation": [[0, 0, 4, 0, 4, 4]],
        }
        for each in categories
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}]
    path.write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    return path


def held(path, which):
    source = open_source(f"{path}:vocabulary={which}")
    [sample] = source
    assert "masks.class" not in source.schema()
    assert all(mask[2][2] == 1 and mask[3][8] == 0 for mask in masks_of(sample))
    found = [source.schema()["boxes"].classes[box.label] for box in sample.boxes]
    assert found == [box.text for box in sample.boxes]
    return found


def test_rare_classes_of_lvis_are_the_novel_ones(tmp_path):
    names = {"ant": "r", "bee": "c", "cow": "f", "doe": "r"}
    path = boxed(
        tmp_path,
        [
            {"id": at, "name": name, "frequency": each}
            for at, (name, each) in enumerate(names.items(), 1)
        ],
    )
    assert held(path, "base") == ["bee", "cow"]
    assert held(path, "novel") == ["ant", "doe"]


def test_novel_classes_of_coco_are_listed(tmp_path):
    assert (len(coco.BASE), len(coco.NOVEL)) == (48, 17)
    assert len({*coco.BASE, *coco.NOVEL}) == 65
    names = [*coco.BASE, *coco.NOVEL, "parking meter"]  # one of the 15 that are neither
    path = boxed(tmp_path, [{"id": at, "name": name} for at, name in enumerate(names, 1)])
    assert held(path, "base") == list(coco.BASE)
    assert held(path, "novel") == list(coco.NOVEL)


def test_other_classes_have_no_split(tmp_path):
    path = boxed(tmp_path, [{"id": 1, "name": "bee"}])
    with pytest.raises(InputError, match="vocabulary=base is known of LVIS"):
        open_source(f"{path}:vocabulary=base")
