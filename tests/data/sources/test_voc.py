"""PASCAL VOC's segmentation: images with masks in colours of a palette, on a fixture of its true form."""

import numpy as np
import pytest
from PIL import Image

from diptych.data.sources import open_source
from diptych.data.sources.voc import CONTEXT
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


@pytest.fixture
def context(tmp_path):
    """Images of 2010 without masks of context."""
    for folder in ("JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("2008_000002", "2008_000003"):
        Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    main = tmp_path / "ImageSets" / "Main"
    (main / "val.txt").write_text("2008_000003\n2008_000002\n")
    (main / "aeroplane_val.txt").write_text("2008_000003  1\n2008_000002 -1\n")
    return tmp_path


def masks(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(np.array([[0, 1, 3], [59, 2, 40]], np.uint8)).save(folder / f"{name}.png")


# The published list has the 20 classes of VOC first, under other names than the list of all 459.
PUBLISHED = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]
PUBLISHED += [name for name in CONTEXT[1:] if name not in {*PUBLISHED, "table", "potted plant"}]
PUBLISHED.remove("tv monitor")


def test_published_masks_of_context_have_the_order_of_their_list(context):
    masks(context / "59_context_labels", "2008_000002", "2008_000003")
    lines = [f"{number}: {name}\n" for number, name in enumerate(PUBLISHED, start=1)]
    (context / "59_labels.txt").write_text("".join(lines))
    source = open_source(f"{context}:masks=context:split=val")
    assert list(source.keys()) == ["2008_000003", "2008_000002"]
    classes = source.schema()["masks.class"].classes
    plane = np.asarray(source[0].masks["class"].decode())
    assert [classes[at] for at in plane.ravel()] == [
        *("background", "aeroplane", "bird"),
        *("wood", "bicycle", PUBLISHED[39]),
    ]
    assert classes[11] == "dining table"
    (context / "59_labels.txt").write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="'2: bicycle' is not class 1 as in '1: aeroplane'"):
        open_source(f"{context}:masks=context:split=val")
    (context / "59_labels.txt").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="lists 58 classes, not 59"):
        open_source(f"{context}:masks=context:split=val")
    (context / "59_labels.txt").unlink()
    with pytest.raises(InputError, match="59_labels.txt: no such file; it comes with the masks"):
        open_source(f"{context}:masks=context:split=val")


def test_converted_masks_of_context_are_in_alphabetical_order(context):
    masks(context / "SegmentationClassContext", "2008_000002")
    lists = context / "ImageSets" / "SegmentationContext"
    lists.mkdir()
    (lists / "val.txt").write_text("2008_000002\n2008_000003\n")
    source = open_source(f"{context}:masks=context:split=val")
    assert list(source.keys()) == ["2008_000002"]
    assert source.damage == {"2008_000003": "no-mask"}
    classes = source.schema()["masks.class"].classes
    plane = np.asarray(source[0].masks["class"].decode())
    assert [classes[at] for at in plane.ravel()] == [
        *("background", "aeroplane", "bed"),
        *("wood", "bag", "potted plant"),
    ]
    assert len(classes) == 60
    with pytest.raises(InputError, match="no folder SegmentationClass; .* of :masks=context"):
        open_source(f"{context}:split=val")


def test_masks_of_context_that_are_not_there_are_named(root):
    with pytest.raises(InputError, match="no masks of PASCAL Context; unpack 59_context_labels"):
        open_source(f"{root}:masks=context:split=val")
