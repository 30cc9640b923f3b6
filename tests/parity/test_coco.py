"""Run lengths, and the average precision of boxes and masks, against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pycocotools.mask as theirs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diptych.data.images import Preprocess
from diptych.data.outlines import from_rle, inside, to_rle
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.models.detection import Found
from diptych.models.two_stage.masks import pasted

CLASSES = ("cat", "owl", "bat")
WIDTH, HEIGHT = 40, 30


@given(st.integers(0, 2**35 - 1))
def test_run_lengths_are_pycocotools(bits):
    plane = np.array([bits >> at & 1 for at in range(35)], bool).reshape(5, 7)
    rle = to_rle(plane)
    wanted = theirs.encode(np.asfortranarray(plane.astype(np.uint8)))
    assert rle == {"size": wanted["size"], "counts": wanted["counts"].decode()}
    assert np.array_equal(theirs.decode(rle), np.asarray(from_rle(wanted | rle).decode()))


def test_polygons_are_nearly_pycocotools():
    """A pixel is in ours if its centre is; theirs follow the edge in fifths of a pixel."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    corners = np.stack([100 + 60 * np.cos(angle), 80 + 50 * np.sin(3 * angle)], axis=1)
    ours = inside(corners, (160, 200))
    [rle] = theirs.frPyObjects([corners.ravel().tolist()], 160, 200)
    other = theirs.decode(rle).astype(bool)
    assert (ours & other).sum() / (ours | other).sum() > 0.97


class Answers:
    """A detector that answers image by image, in order."""

    name, identity = "answers", "answers"
    preprocess = Preprocess(size=4, resize="squash")
    finds_masks = True

    def __init__(self, found):
        self.found = found
        self.classes = ()
        self.next = 0

    def set_classes(self, names):
        self.classes = tuple(names)

    def detect(self, images, *, batch_size, masks):
        own = self.found[self.next : self.next + len(images)]
        self.next += len(images)
        return own


def drawn(rng):
    """A box in pixels, and a random object that fills it."""
    x, y = rng.integers(0, WIDTH - 16), rng.integers(0, HEIGHT - 14)
    w, h = rng.integers(8, 16), rng.integers(8, 14)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    centre = x + w / 2, y + h / 2
    disc = ((u + 0.5 - centre[0]) / w * 2) ** 2 + ((v + 0.5 - centre[1]) / h * 2) ** 2 <= 1
    return (int(x), int(y), int(w), int(h)), disc


def moved(rng, box):
    """A box near another, as shares of the image, and the mask of a disc in it."""
    x, y, w, h = box + rng.normal(0, 1.2, 4)
    v, u = (np.mgrid[:28, :28] + 0.5) / 14 - 1
    shares = np.array([x, y, x + w, y + h]) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    return shares.clip(0, 1), (u**2 + v**2 <= 1).astype(np.float32)


def scene(rng, number, data):
    """Add an image and its objects to COCO's `data`; return what is found in it."""
    data["images"].append(
        {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
    )
    rows = []
    for _ in range(rng.integers(1, 6)):
        (x, y, w, h), plane = drawn(rng)
        kind = int(rng.integers(3))
        data["annotations"].append(
            {
                "id": len(data["annotations"]) + 1,
                "image_id": number,
                "category_id": kind + 1,
                "bbox": [x, y, w, h],
                "area": int(plane.sum()),
                "iscrowd": 0,
                "segmentation": to_rle(plane),
            }
        )
        for _ in range(rng.integers(0, 3)):
            seen = kind if rng.uniform() < 0.8 else int(rng.integers(3))
            rows.append((*moved(rng, (x, y, w, h)), seen, rng.uniform()))
    boxes = torch.tensor(np.array([row[0] for row in rows]).reshape(-1, 4)).float()
    masks = torch.tensor(np.array([row[1] for row in rows]).reshape(-1, 28, 28))
    kinds = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    return Found(boxes, kinds, torch.tensor([row[3] for row in rows]), masks)


def results(found):
    """What was found, as COCO's list of results."""
    rows = []
    for number, each in enumerate(found, 1):
        masks = pasted(each.masks, each.boxes, (WIDTH, HEIGHT)).numpy()
        for box, kind, score, mask in zip(
            each.boxes, each.classes, each.scores, masks, strict=True
        ):
            x0, y0, x1, y1 = (box.numpy().astype(float) * (WIDTH, HEIGHT, WIDTH, HEIGHT)).tolist()
            rows.append(
                {
                    "image_id": number,
                    "category_id": int(kind) + 1,
                    "score": float(score),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": to_rle(mask),
                }
            )
    return rows


@pytest.mark.parametrize("seed", [0, 1])
def test_the_precision_of_boxes_and_masks_is_pycocotools(tmp_path, seed):
    rng = np.random.default_rng(seed)
    categories = [{"id": at, "name": name} for at, name in enumerate(CLASSES, 1)]
    data = {"images": [], "annotations": [], "categories": categories}
    found = [scene(rng, number, data) for number in range(1, 13)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data))
    for number in range(1, 13):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{number}.png")
    ours = evaluate(Answers(found), open_source(str(path)), ["detection"])["detection"]
    assert 0.1 < ours["mask_ap"] < ours["mask_ap50"] < 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        rows = results(found)
        for kind, prefix in (("bbox", ""), ("segm", "mask_")):
            judge = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            assert ours[f"{prefix}ap"] == pytest.approx(judge.stats[0], abs=1e-6)
            assert ours[f"{prefix}ap50"] == pytest.approx(judge.stats[1], abs=1e-6)
