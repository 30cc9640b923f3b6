"""What tests of regions share: an image of four quarters, and a model that sees their colours."""

import numpy as np
import torch
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS, Seer

from diptych.data.sample import Box, Field, Sample
from diptych.models.regions import RegionVectors

NAMES = ("background", "red", "green", "blue")
QUARTERS = ((0, 0, 4, 4), (4, 0, 8, 4), (0, 4, 4, 8), (4, 4, 8, 8))
HOW = {"templates": ("it is {}",)}


class Painter(Seer):
    """Embeds a region as its mean colour."""

    def embed_regions(self, images, boxes=None, *, masks=None, route=None, size=None, batch_size):
        self.asked = (route, size)
        found = []
        for at, image in enumerate(images.float()):
            own = masks[at] if boxes is None else [self.inside(image, box) for box in boxes[at]]
            found.append(torch.stack([image[:, torch.as_tensor(m)].mean(1) for m in own]))
        vectors = torch.nn.functional.normalize(torch.stack(found), dim=-1)
        return RegionVectors(vectors, torch.zeros(1), torch.ones(vectors.shape[:2]).bool())

    @staticmethod
    def inside(image, box):
        x0, y0, x1, y1 = (round(float(side) * image.shape[1]) for side in box)
        mask = np.zeros(image.shape[1:], bool)
        mask[y0:y1, x0:x1] = True
        return mask


def quarters(*cells):
    """One image of four quarters, with a box and an area of the mask for each."""
    pixels, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    boxes = []
    for name, (x0, y0, x1, y1) in zip(cells, QUARTERS, strict=True):
        pixels[y0:y1, x0:x1] = COLOURS[name]
        mask[y0:y1, x0:x1] = NAMES.index(name)
        boxes.append(Box(xyxy=(x0, y0, x1, y1), text=name))
    image, masks = {"main": Plane(pixels)}, {"class": Plane(mask)}
    sample = Sample(key="a", source="rows", images=image, masks=masks, boxes=boxes)
    fields = {"masks.class": Field(kind="mask", classes=NAMES), "boxes": Field(kind="box")}
    return Rows([sample], fields=fields)
