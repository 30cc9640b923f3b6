"""Cells cut out of blood smears, which the blocks on real data of `cones` and `unimed_clip` read."""

from typing import Any

from PIL import Image

from diptych.data.sources import open_source
from diptych.rng import generator

KINDS = ("red blood cell", "white blood cell", "platelet")
LEAST = 4  # pixels; boxes that are narrower are left out


def crops(split: str, seed: int, side: int, most: int) -> dict[str, list[Image.Image]]:
    """Return cells of a split by class, at most `most` of each, in an order that `seed` gives.

    Each is cut out by its box and scaled to `side` x `side` pixels.
    """
    source: Any = open_source(f"blood-cells:split={split}")
    boxes = [(at, box) for at in range(len(source)) for box in source[at].boxes]
    found: dict[str, list[Image.Image]] = {name: [] for name in KINDS}
    for number in generator(seed, "cells", split).permutation(len(boxes)):
        at, box = boxes[number]
        x0, y0, x1, y1 = box.xyxy
        if len(found[box.text]) < most and min(x1 - x0, y1 - y0) >= LEAST:
            image = source[at].images["main"].decode().convert("RGB")
            cell = image.crop((round(x0), round(y0), round(x1), round(y1)))
            found[box.text].append(cell.resize((side, side), Image.Resampling.BICUBIC))
    return found
