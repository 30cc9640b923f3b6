"""The masks of objects in a folder: in COCO's format, and drawn.

Dimensions: n objects of an image, H x W pixels.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diptych.data.images import on_ground
from diptych.data.outlines import to_rle
from diptych.data.render import outlines
from diptych.data.sample import EncodedImage
from diptych.inference.folders import FileNames, new_folder
from diptych.inference.segment import palette
from diptych.models.detection import Found
from diptych.models.two_stage.masks import pasted

FILE = "instances.json"
_TINT = 0.5  # of a mask's colour over the image
_LETTERS = 0.03  # of the short side of an image; 10 pixels at the least


@contextmanager
def instance_folder(out: Path, names: Sequence[str]) -> Iterator["InstanceFolder"]:
    """Yield what writes the masks of these classes to the new folder `out`, which is there at the end if
    no error was raised.

    Raises InputError for a folder that is not empty.
    """
    with new_folder(out, "--masks") as folder:
        written = InstanceFolder(folder, names)
        yield written
        written.write_file()


class InstanceFolder:
    """A folder with `instances.json`, in COCO's format with a score of each object, and a PNG of each
    image with its masks drawn on it."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder = folder
        self.names = tuple(names)
        self.files = FileNames()
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def write(self, name: str, image: EncodedImage, found: Found) -> None:
        """Draw an image, which is called `name`, and keep its objects."""
        picture = on_ground(image.decode(), (255, 255, 255))
        width, height = picture.size
        assert found.masks is not None, "masks were asked for"
        masks = pasted(found.masks, found.boxes, picture.size).numpy()
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "width": width, "height": height})
        rows = zip(
            found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), masks, strict=True
        )
        for (x0, y0, x1, y1), kind, score, mask in rows:
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "score": score,
                    "segmentation": to_rle(mask),
                }
            )
        drawn = drawn_on(picture, found, masks, self.names)
        drawn.save(self.folder / self.files.free(name))

    def write_file(self) -> None:
        """Write the objects of all images."""
        categories = [{"id": at, "name": name} for at, name in enumerate(self.names, 1)]
        data = {
            "images": self.images,
            "categories": categories,
            "annotations": self.annotations,
        }
        text = json.dumps(data, ensure_ascii=False)
        (self.folder / FILE).write_text(text + "\n", encoding="utf-8")


def drawn_on(
    picture: Image.Image, found: Found, masks: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """An image with masks (n, H, W) in the colours of their classes, their edges, boxes, names and
    scores; better ones lie above others."""
    colours = palette()[found.classes.numpy() % 255]
    pixels = np.array(picture)
    for mask, colour in zip(masks[::-1], colours[::-1], strict=True):
        pixels[mask] = ((1 - _TINT) * pixels[mask] + _TINT * colour).astype(np.uint8)
        pixels[edge_of(mask)] = colour
    drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    letters = outlines(max(10, round(_LETTERS * min(picture.size))))
    rows = zip(
        found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), colours, strict=True
    )
    for (x0, y0, x1, y1), kind, score, colour in reversed(list(rows)):
        left = x0 * picture.width
        top = y0 * picture.height
        fill = tuple(int(value) for value in colour)
        draw.rectangle((left, top, x1 * picture.width - 1, y1 * picture.height - 1), outline=fill)
        text = f"{names[kind]} {score:.2f}"
        place = (max(0.0, min(left, picture.width - draw.textlength(text, font=letters))), top)
        draw.rectangle(draw.textbbox(place, text, font=letters), fill=fill)
        draw.text(place, text, fill=(255, 255, 255), font=letters)
    return drawn


def edge_of(mask: np.ndarray) -> np.ndarray:
    """The pixels (H, W) of a mask beside one that is outside of it.

    >>> edge_of(np.ones((3, 3), bool)).astype(int).tolist()
    [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    wide = np.pad(mask, 1)
    within = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~within
