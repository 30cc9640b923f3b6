"""Rendering: image, masks, depth and boxes of a scene, drawn in one pass from far to near.

S is the image's side. A pixel belongs to an object if its drawing is at least half opaque there and
nothing nearer covers it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.drawings import DESIGNS
from diptych.data.outlines import ObjectMask
from diptych.data.sample import Box
from diptych.data.worlds._base import Rendered
from diptych.data.worlds.scenes import styles
from diptych.data.worlds.scenes.art import painted, sprite
from diptych.data.worlds.scenes.concepts import KINDS, table
from diptych.data.worlds.scenes.facts import Item, Lot, Scene, Thing
from diptych.data.worlds.scenes.grounds import ground
from diptych.data.worlds.scenes.words import COLOURS, PLACES, SIZES, TEXTURES

GROUND_DEPTH = 1.0


def draw(
    scene: Scene, size: int, easy: float = 0.0, hard: float = 0.0, stamp: str = "middle"
) -> tuple[np.ndarray, np.ndarray]:
    """The image (S, S, 3) uint8, and the object of each pixel (S, S) uint8: 0 for the ground, else
    id + 1."""
    variant, down, along = scene.tile
    top = int(down * size)
    left = int(along * size)
    canvas = ground(scene.ground, variant, size)[top : top + size, left : left + size].astype(
        np.float32
    )
    owner = np.zeros((size, size), np.uint8)
    objects = [(item, thing) for thing in scene.things for item in thing.items]
    for item, thing in sorted(objects, key=lambda pair: -pair[0].depth):
        _paste(canvas, owner, item, thing)
    canvas = styles.render(scene.rendering, styles.palette(scene.palette, canvas), scene.seed)
    if scene.hard:
        canvas = canvas + _lines(scene.hard, size) * (hard * 26)
    if scene.salient:
        _stamp(canvas, scene.salient, *stamp_at(scene, stamp))
    if scene.easy:
        _frame(canvas, scene.easy, easy)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), owner


def _paste(canvas: np.ndarray, owner: np.ndarray, item: Item, thing: Thing) -> None:
    size = len(canvas)
    shape = sprite(
        thing.concept, item.design, max(3, round(item.side * size)), max(2, round(size / 20))
    )
    pixels = painted(shape, thing.colour, thing.texture, max(4, round(size / 12)))
    height, width = shape.tone.shape
    top = round(item.y * size - height / 2)
    left = round(item.x * size - width / 2)
    # clipped at the edges
    a = max(-top, 0)
    b = max(-left, 0)
    c = min(height, size - top)
    d = min(width, size - left)
    window = canvas[top + a : top + c, left + b : left + d]
    window *= 1 - shape.cover[a:c, b:d]
    window += pixels[a:c, b:d] * shape.alpha[a:c, b:d]
    owner[top + a : top + c, left + b : left + d][shape.solid[a:c, b:d]] = item.id + 1


def _lines(direction: str, size: int) -> np.ndarray:
    """Waves in one of four directions, in [-1, 1], (S, S, 1)."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    along = {
        "level": y,
        "upright": x,
        "rising": (x + y) * np.float32(0.7071),
        "falling": (x - y) * np.float32(0.7071),
    }
    return np.sin(2 * np.pi * 10 * along[direction])[..., None]


def stamp_at(scene: Scene, where: str) -> tuple[str, float]:
    """The corner of a stamp, "" for the middle, and its share of the side."""
    if where == "middle":
        return "", 0.66
    lot = Lot(scene.seed, "stamp")
    return lot.pick(tuple(PLACES)), lot.between(0.33, 0.66)


def _stamp(canvas: np.ndarray, shape: str, place: str, side: float) -> None:
    """Draw a pale, half opaque shape over the middle, or in a corner."""
    size = len(canvas)
    stamp = sprite(shape, "", round(size * side), 1).alpha[1:-1, 1:-1] * 0.5
    height, width = stamp.shape[:2]
    top = (size - height) // 2
    left = (size - width) // 2
    if place:
        top = size - height if "bottom" in place else 0
        left = size - width if "right" in place else 0
    window = canvas[top : top + height, left : left + width]
    window += (255 - window) * stamp


def _frame(canvas: np.ndarray, colour: str, strength: float) -> None:
    """Draw a frame of a twelfth of the side, with opacity `strength`."""
    edge = max(2, round(len(canvas) / 12))
    inside = canvas[edge:-edge, edge:-edge].copy()
    canvas += (np.array(COLOURS[colour], np.float32) - canvas) * np.float32(strength)
    canvas[edge:-edge, edge:-edge] = inside


def rendered(scene: Scene, size: int, classes: Mapping[int, int], **signals: Any) -> Rendered:
    """Render a scene; `classes` maps each object's id to its class, -1 for none."""
    pixels, owner = draw(scene, size, **signals)
    fine = np.zeros(256, np.int32)
    coarse = np.zeros(256, np.uint8)
    depth = np.full(256, GROUND_DEPTH, np.float32)
    boxes = {}
    for thing in scene.things:
        kind = KINDS.index(table()[thing.concept].coarse) + 1
        for item in thing.items:
            at = item.id + 1
            fine[at] = classes[item.id] + 1
            coarse[at] = 0 if thing.foreign else kind
            depth[at] = item.depth
            boxes[item.id] = Box(
                xyxy=bounds(owner == at),
                text=name_of(thing),
                label=classes[item.id],
                mask=ObjectMask(owner, at),
            )
    masks = {"instance": Image.fromarray(owner), "coarse": Image.fromarray(coarse[owner])}
    if fine.max() < 256:
        masks["class"] = Image.fromarray(fine.astype(np.uint8)[owner])
    arrays = {"depth": depth[owner], "factors": factors(scene, classes)}
    return Rendered(
        image=Image.fromarray(pixels),
        masks=masks,
        arrays=arrays,
        boxes=[boxes[at] for at in sorted(boxes)],
    )


def name_of(thing: Thing) -> str:
    """The name of an object: size, texture, colour, concept."""
    words = (
        thing.size,
        "" if thing.texture == "plain" else thing.texture,
        thing.colour,
        thing.concept,
    )
    return " ".join(word for word in words if word and word != "medium")


FACTORS = (
    "id",
    "object",
    "coarse",
    "colour",
    "texture",
    "size",
    "quadrant",
    "design",
    "described",
    "x",
    "y",
    "side",
    "depth",
)


def factors(scene: Scene, classes: Mapping[int, int]) -> np.ndarray:
    """The factor table, (objects, FACTORS) float32: indices of values (-1: none), and positions and
    lengths in [0, 1]."""
    rows = {}
    for thing in scene.things:
        kind = -1 if thing.foreign else KINDS.index(table()[thing.concept].coarse)
        for item in thing.items:
            rows[item.id] = (
                item.id,
                classes[item.id],
                kind,
                number_of(thing.colour, COLOURS),
                number_of(thing.texture, TEXTURES),
                number_of(thing.size, SIZES),
                number_of(item.place, PLACES),
                number_of(item.design, DESIGNS),
                thing.described,
                item.x,
                item.y,
                item.side,
                item.depth,
            )
    return np.array([rows[at] for at in sorted(rows)], np.float32)


def number_of(value: str, values: Iterable[str]) -> int:
    """The index of a value in `values`, -1 if it is not among them."""
    return next((at for at, name in enumerate(values) if name == value), -1)


def bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest box (x0, y0, x1, y1) around a mask; empty if the object is not visible."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
