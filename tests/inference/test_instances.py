"""Masks in a folder: COCO's format, which the reader of COCO reads, and drawings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.data.images import Preprocess
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.inference.detect import detect_images
from diptych.inference.instances import FILE
from diptych.inference.segment import palette
from diptych.models.detection import Found


class Halves:
    """Finds the class `left` in the left half of each image, with the upper half of it as its mask."""

    name = "halves"
    classes = ("right", "left")
    preprocess = Preprocess(size=4, resize="squash")

    def __init__(self, finds_masks=True):
        self.finds_masks = finds_masks

    def require_masks(self):
        if not self.finds_masks:
            raise InputError("halves finds boxes and no masks")

    def detect(self, images, *, masks=False, **options):
        plane = torch.zeros(1, 28, 28)
        plane[:, :14] = 1.0
        box = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
        found = Found(box, torch.tensor([1]), torch.tensor([0.9]), plane if masks else None)
        return [found] * (1 if isinstance(images, str) else len(images))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("a/cat.png", "b/cat.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 20), (200, 200, 200)).save(path)
    (folder / "b/broken.png").write_bytes(b"none")
    return folder


def test_masks_of_a_folder_are_read_as_cocos(photos, tmp_path):
    out = tmp_path / "found"
    found, bad = detect_images(Halves(), photos, masks=out)
    assert len(found) == 2
    assert sum(bad.values()) == 1
    assert sorted(path.name for path in out.iterdir()) == ["cat-2.png", "cat.png", FILE]
    [score] = {each["score"] for each in json.loads((out / FILE).read_text())["annotations"]}
    assert score == pytest.approx(0.9)
    source = open_source(f"{out / FILE}:images={photos}")
    assert source.schema()["boxes"].classes == ("right", "left")
    assert source.damage == {}
    wanted = np.zeros((20, 40), bool)
    wanted[:10, :20] = True
    for sample in source:
        [box] = sample.boxes
        assert (box.text, box.xyxy) == ("left", (0, 0, 20, 20))
        assert np.array_equal(np.asarray(box.mask.decode()) > 0, wanted)
        assert sample.images["main"].decode().size == (40, 20)


def test_masks_are_drawn_in_the_colours_of_their_classes(photos, tmp_path):
    image = photos / "a/cat.png"
    found, bad = detect_images(Halves(), image, masks=tmp_path / "one")
    assert [each.box for each in found] == [(0, 0, 20, 20)]
    assert not bad
    drawn = np.asarray(Image.open(tmp_path / "one/cat.png"))
    assert drawn.shape == (20, 40, 3)
    colour = palette()[1]
    assert drawn[9, 12].tolist() == colour.tolist()  # an edge
    assert drawn[15, 30].tolist() == [200, 200, 200]
    assert np.abs(drawn[15, 12].astype(int) - 200).max() == 0  # in the box, not in the mask


def test_what_cannot_be_written_is_refused_before_anything_is_found(photos, tmp_path):
    with pytest.raises(InputError, match="name a new one with --masks"):
        detect_images(Halves(), photos, masks=photos)
    with pytest.raises(InputError, match="no masks"):
        detect_images(Halves(finds_masks=False), photos, masks=tmp_path / "none")
    assert not (tmp_path / "none").exists()
