"""Images of single objects: drawings and shapes, scaled, tinted and textured, with a soft shadow.

A sprite is made once for each concept, design and size and cached; what differs between objects
(colour, texture) is a look-up in a table of 256 tones. H x W are the pixels of a sprite.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from diptych.data.drawings import GlyphImage
from diptych.data.images import luma
from diptych.data.worlds.scenes.concepts import table
from diptych.data.worlds.scenes.words import COLOURS

_KEPT = 1024  # sprites; 12 kB each in images of 64 px, 150 kB in those of 224


@dataclass(frozen=True, slots=True)
class Sprite:
    """An object without colour: its shape and lightness, with `pad` pixels on each side for the
    shadow."""

    alpha: np.ndarray  # (H, W, 1) float32: the object
    cover: np.ndarray  # (H, W, 1) float32: object and shadow
    tone: np.ndarray  # (H, W) uint8: 128 is the pure colour
    own: np.ndarray  # (H, W, 3) uint8: its own colours, used if it is not tinted
    solid: np.ndarray  # (H, W) bool: alpha of a half or more, as counted in masks and boxes
    pad: int


@lru_cache(maxsize=_KEPT)
def sprite(concept: str, design: str, side: int, pad: int) -> Sprite:
    """The sprite of an object whose longer side has `side` pixels."""
    image = _cut(
        _shape(concept) if not design else GlyphImage(design, table()[concept].index).decode(), side
    )
    canvas = Image.new("RGBA", (image.width + 2 * pad, image.height + 2 * pad))
    canvas.paste(image, (pad, pad))
    pixels = np.asarray(canvas, np.float32)
    alpha = pixels[..., 3] / 255
    shadow = (
        canvas.getchannel("A").filter(ImageFilter.MaxFilter(3)).filter(ImageFilter.BoxBlur(pad / 3))
    )
    shadow = np.roll(np.asarray(shadow, np.float32), (pad // 3, pad // 3), (0, 1)) / 255
    cover = alpha + (1 - alpha) * 0.6 * shadow
    return Sprite(
        alpha[..., None],
        cover[..., None],
        _tone(pixels),
        np.asarray(canvas)[..., :3].copy(),
        alpha >= 0.5,
        pad,
    )


def _cut(image: Image.Image, side: int) -> Image.Image:
    """The opaque part, scaled; colours are weighted by alpha, so that edges do not darken."""
    box = image.getchannel("A").getbbox()
    assert box is not None
    width = box[2] - box[0]
    height = box[3] - box[1]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS, box=box).convert("RGBA")


def _tone(pixels: np.ndarray) -> np.ndarray:
    """Lightness relative to the drawing's median, so that details remain and most of it has the
    pure colour."""
    light = luma(pixels[..., :3])
    alpha = pixels[..., 3]
    inside = light[alpha >= min(128, alpha.max())]  # thin drawings may have no pixel of alpha 128
    middle = np.median(inside)
    spread = max(float(np.percentile(np.abs(inside - middle), 90)), 30.0)
    return np.clip(np.round(128 + (light - middle) * (70 / spread)), 36, 215).astype(np.uint8)


@lru_cache(maxsize=16)
def ramp(colour: str) -> np.ndarray:
    """The colour of each tone, (256, 3) float32: dark below 128, the pure colour at 128, light
    above."""
    tone = np.arange(256, dtype=np.float32)[:, None] / 128
    base = np.array(COLOURS[colour], np.float32)
    return np.where(
        tone < 1, base * (0.25 + 0.75 * tone), base + (255 - base) * np.minimum(tone - 1, 1) * 0.85
    )


@lru_cache(maxsize=256)
def pattern(texture: str, height: int, width: int, period: int) -> np.ndarray:
    """The tone that a texture adds, (H, W) int16."""
    y, x = np.mgrid[:height, :width]
    half = max(1, period // 2)
    if texture == "striped":
        dark = (x + y) // half % 2 == 1
    elif texture == "dotted":
        middle = (period - 1) / 2
        dark = (
            np.hypot(x % period - middle, (y + x // period % 2 * half) % period - middle)
            <= 0.36 * period
        )
    else:
        dark = (x // half + y // half) % 2 == 1
    return np.where(dark, -80, 26).astype(np.int16)


def painted(shape: Sprite, colour: str, texture: str, period: int) -> np.ndarray:
    """The sprite's pixels (H, W, 3) in a colour ("": its own) and texture."""
    if texture == "plain":
        return ramp(colour)[shape.tone] if colour else shape.own
    extra = pattern(texture, *shape.tone.shape, period)
    if colour:
        return ramp(colour)[np.clip(shape.tone + extra, 12, 235).astype(np.uint8)]
    share = extra[..., None] / np.float32(128)
    own = shape.own.astype(np.float32)
    return np.where(share < 0, own * (1 + share), own + (255 - own) * share)


_SHAPE_SIDE = 256


@lru_cache(maxsize=16)
def _shape(name: str) -> Image.Image:
    """A large plain shape in grey, lighter at the upper left."""
    side = _SHAPE_SIDE
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    box = (0, 0, side - 1, side - 1)
    if name in ("circle", "ring"):
        draw.ellipse(box, fill=255)
        if name == "ring":
            inner = round(side * 0.27)
            draw.ellipse((inner, inner, side - 1 - inner, side - 1 - inner), fill=0)
    else:
        points = np.array(_outline(name)) * (side - 1)
        draw.polygon([tuple(point) for point in points.tolist()], fill=255)
    y, x = np.mgrid[:side, :side] / side
    light = (150 + 40 * (1 - x - y)).astype(np.uint8)
    grey = Image.fromarray(light)
    return Image.merge("RGBA", (grey, grey, grey, mask))


def _outline(name: str) -> list[tuple[float, float]]:
    """The corners of a shape in the unit square."""
    if name == "square":
        return [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)]
    if name == "triangle":
        return [(0.5, 0.04), (1.0, 0.94), (0.0, 0.94)]
    if name == "diamond":
        return [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)]
    if name == "cross":
        a = 0.32
        b = 0.68
        return [
            (a, 0),
            (b, 0),
            (b, a),
            (1, a),
            (1, b),
            (b, b),
            (b, 1),
            (a, 1),
            (a, b),
            (0, b),
            (0, a),
            (a, a),
        ]
    if name == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2 == 0, 0.5, 0.21)
        return [
            (0.5 + r * float(np.cos(t)), 0.52 + r * float(np.sin(t)))
            for r, t in zip(radii.tolist(), angles, strict=True)
        ]
    assert name == "heart", name
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(((x + 17) / 34).tolist(), ((13 - y) / 31).tolist(), strict=True))
