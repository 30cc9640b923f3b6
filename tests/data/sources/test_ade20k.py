"""ADE20K's challenge: images with annotations whose 0 is no class, on a fixture of its true form."""

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

LIST = """Idx\tRatio\tTrain\tVal\tName
1\t0.1576\t11664\t1172\twall
2\t0.1072\t6046\t612\tbuilding, edifice
3\t0.0878\t8265\t796\tsky
4\t0.0621\t9336\t917\tscreen, silver screen
5\t0.0480\t6678\t641\tscreen, crt screen
"""
PLANE = np.array([[0, 1, 2], [5, 3, 0]], np.uint8)


@pytest.fixture
def root(tmp_path):
    given = {
        "training": ["ADE_train_00000001", "ADE_train_00000002"],
        "validation": ["ADE_val_00000001"],
    }
    for split, names in given.items():
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (3, 2)).save(tmp_path / "images" / split / f"{name}.jpg")
            Image.fromarray(PLANE).save(tmp_path / "annotations" / split / f"{name}.png")
    (tmp_path / "objectInfo150.txt").write_text(LIST)
    (tmp_path / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")
    return tmp_path


def test_classes_begin_at_zero_and_other_things_have_none(root):
    source = open_source(f"{root}:split=training")
    assert list(source.keys()) == ["ADE_train_00000001.jpg", "ADE_train_00000002.jpg"]
    sample = source[1]
    assert sample.images["main"].decode().size == (3, 2)
    assert np.asarray(sample.masks["class"].decode()).tolist() == [[255, 0, 1], [4, 2, 255]]
    field = source.schema()["masks.class"]
    assert field.classes[:3] == ("wall", "building", "sky")
    assert field.classes[3:] == ("screen, silver screen", "screen, crt screen")
    assert source.damage == {}
    assert len(open_source(f"{root}:split=validation")) == 1


def test_images_without_an_annotation_are_counted(root):
    (root / "annotations/training/ADE_train_00000001.png").unlink()
    source = open_source(f"{root}:split=training")
    assert list(source.keys()) == ["ADE_train_00000002.jpg"]
    assert list(source.damage.values()) == ["no-mask"]
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(InputError, match="none of the 2 images of training has an annotation"):
        open_source(f"{root}:split=training")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("", "choose one, such as :split=training"), (":split=test", "unknown split of .*'test'")],
)
def test_a_split_is_named(root, spec, message):
    with pytest.raises(InputError, match=message):
        open_source(f"{root}{spec}")


@pytest.mark.parametrize(
    ("text", "message"),
    [("Idx\tName\n", "lists 0 classes"), (LIST.replace("3\t0", "7\t0"), "line 4 is not class 3")],
)
def test_a_damaged_list_of_classes_is_refused(root, text, message):
    (root / "objectInfo150.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(f"{root}:split=training")
