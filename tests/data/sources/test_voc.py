"""PASCAL VOC's segmentation: images with masks in colours of a palette, on a fixture of its true form."""

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.inference.segment import palette

PLANE = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)


@pytest.fixture
def root(tmp_path):
    for folder in (
        "JPEGImages",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Segmentation",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("2007_000033", "2007_000042", "2007_000061"):
        Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    for name in ("2007_000033", "2007_000042"):
        mask = Image.fromarray(PLANE)
        mask.putpalette(palette().tobytes())
        mask.save(tmp_path / "SegmentationClass" / f"{name}.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("2007_000033\n")
    (lists / "val.txt").write_text("2007_000042\n2007_000033\n")
    return tmp_path


def test_numbers_are_classes_and_edges_are_void(root):
    source = open_source(f"{root}:split=val")
    assert list(source.keys()) == ["2007_000042", "2007_000033"]
    sample = source[-1]
    assert sample.key == "2007_000033"
    assert sample.images["main"].decode().size == (3, 2)
    assert np.asarray(sample.masks["class"].decode()).tolist() == PLANE.tolist()
    classes = source.schema()["masks.class"].classes
    assert len(classes) == 21
    assert [classes[at] for at in (0, 1, 15, 20)] == [
        "background",
        "aeroplane",
        "person",
        "tv monitor",
    ]
    assert len(open_source(f"{root}:split=train")) == 1


def test_images_without_a_mask_or_a_picture_are_counted(root):
    (root / "ImageSets/Segmentation/all.txt").write_text("2007_000033\n2007_000061\n2008_000001\n")
    source = open_source(f"{root}:split=all")
    assert list(source.keys()) == ["2007_000033"]
    assert source.damage == {"2007_000061": "no-mask", "2008_000001": "no-image"}
    (root / "ImageSets/Segmentation/all.txt").write_text("2007_000061\n")
    with pytest.raises(InputError, match=r"none of 1 names has both JPEGImages/NAME\.jpg"):
        open_source(f"{root}:split=all")


def test_a_split_is_named(root):
    with pytest.raises(InputError, match="holds the splits train, val; choose one"):
        open_source(str(root))
    with pytest.raises(InputError, match="unknown split of .*'test'"):
        open_source(f"{root}:split=test")
    for path in (root / "ImageSets/Segmentation").glob("*.txt"):
        path.unlink()
    with pytest.raises(InputError, match=r"no lists such as val\.txt"):
        open_source(f"{root}:split=val")
