"""Cityscapes and COCO-Stuff: the numbers of their masks as classes, on fixtures of their true form."""

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError

PLANE = np.array([[0, 7, 8], [33, 9, 26]], np.uint8)
LABELS = "0: unlabeled\n1: person\n2: bicycle\n11: fire hydrant\n12: street sign\n13: stop sign\n92: banner\n"
STUFF = np.array([[0, 1, 255], [10, 91, 12]], np.uint8)


def image(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.new("RGB", (3, 2)) if pixels is None else Image.fromarray(pixels)).save(path)


@pytest.fixture
def streets(tmp_path):
    for split, city, number in (("train", "aachen", 0), ("val", "munster", 1), ("val", "ulm", 2)):
        stem = f"{city}_00000{number}_000019"
        image(tmp_path / f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png")
        image(tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png", PLANE)
        image(tmp_path / f"gtFine/{split}/{city}/{stem}_gtFine_color.png")
    return tmp_path


@pytest.fixture
def stuff(tmp_path):
    (tmp_path / "labels.txt").write_text(LABELS)
    for split, name in (("train2017", "000000000009"), ("val2017", "000000000139")):
        image(tmp_path / split / f"{name}.jpg")
        image(tmp_path / "stuffthingmaps_trainval2017" / split / f"{name}.png", STUFF)
    return tmp_path


def test_streets_have_the_classes_that_are_evaluated(streets):
    source = open_source(f"{streets}:split=val")
    assert list(source.keys()) == ["munster/munster_000001_000019", "ulm/ulm_000002_000019"]
    sample = source[-1]
    assert sample.images["main"].decode().size == (3, 2)
    assert np.asarray(sample.masks["class"].decode()).tolist() == [[255, 0, 1], [18, 255, 13]]
    classes = source.schema()["masks.class"].classes
    assert len(classes) == 19
    assert (classes[0], classes[13], classes[18]) == ("road", "car", "bicycle")


def test_streets_without_a_mask_are_counted(streets):
    (streets / "gtFine/val/ulm/ulm_000002_000019_gtFine_labelIds.png").unlink()
    source = open_source(f"{streets}:split=val")
    assert source.damage == {"ulm/ulm_000002_000019": "no-mask"}
    assert len(source) == 1


def test_classes_of_stuff_are_numbered_without_those_that_do_not_occur(stuff):
    source = open_source(f"{stuff}:split=val2017")
    assert list(source.keys()) == ["000000000139"]
    classes = source.schema()["masks.class"].classes
    assert classes == ("person", "bicycle", "fire hydrant", "stop sign", "banner")
    plane = np.asarray(source[0].masks["class"].decode())
    assert plane.tolist() == [[0, 1, 255], [2, 4, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [("person\n", "'person' is no line such as"), ("0: unlabeled\n", "lists 0 classes")],
)
def test_a_damaged_list_of_stuff_is_refused(stuff, text, message):
    (stuff / "labels.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(f"{stuff}:split=val2017")


def test_a_split_is_named_and_there(streets, tmp_path_factory):
    with pytest.raises(InputError, match="holds the splits train, val; choose one"):
        open_source(str(streets))
    with pytest.raises(InputError, match="unknown split of .*'test'"):
        open_source(f"{streets}:split=test")
    empty = tmp_path_factory.mktemp("empty")
    (empty / "leftImg8bit").mkdir()
    (empty / "gtFine").mkdir()
    with pytest.raises(InputError, match="no folders such as val"):
        open_source(f"{empty}:split=val")
    (empty / "gtFine" / "val").mkdir()
    with pytest.raises(InputError, match="none of 0 names has both"):
        open_source(f"{empty}:split=val")
