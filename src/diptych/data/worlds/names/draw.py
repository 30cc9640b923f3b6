"""Crops of printed names: two lines in one of several faces, on paper that is not clean.

Dimensions: H x W pixels; lines are drawn at SCALE times the size.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from diptych.data.render import outlines
from diptych.rng import generator

SCALE = 3
_POINTS = 40  # of the letters that are drawn and then scaled


@dataclass(frozen=True, kw_only=True)
class Face:
    """How letters are printed: the typeface (outlines, or the bitmap font of Pillow), strokes that
    are thicker, slanted letters, capitals, and the share of the crop's width that a line fills."""

    bitmap: bool = False
    stroke: int = 0
    slant: float = 0.0
    capitals: bool = False
    width: float = 0.9


FACES = (
    Face(),
    Face(stroke=2),
    Face(slant=0.25),
    Face(capitals=True),
    Face(capitals=True, stroke=2),
    Face(width=0.7),
    Face(bitmap=True),
    Face(bitmap=True, capitals=True),
    Face(capitals=True, slant=0.2, width=0.75),
)


@dataclass(frozen=True, kw_only=True)
class Print:
    """What varies from crop to crop: the number of the face, the turn in degrees, the greys of paper
    and ink, the blur in shares of a hundredth of the width, and the damage: a blot over a letter of
    the first line (its number, or -1 for none)."""

    face: int
    turn: float
    paper: int
    ink: int
    blur: float
    blot: int


def draw(lines: tuple[str, str], how: Print, size: int, seed: int) -> np.ndarray:
    """The crop (H, size, 3), uint8, of a name's two lines; H is about two thirds of the width."""
    face = FACES[how.face]
    wide = size * SCALE
    high = round(wide * 0.62)
    page = Image.new("L", (wide, high), 0)
    first, second = lines
    box = _put(page, first, face, top=0.08, height=0.5, width=face.width)
    _put(page, second, face, top=0.64, height=0.28, width=min(0.95, 0.07 * len(second)))
    if how.blot >= 0:
        _blot(page, box, how.blot / len(first), 1 / len(first), seed)
    page = page.rotate(how.turn, Image.Resampling.BILINEAR)
    page = page.filter(ImageFilter.GaussianBlur(how.blur * wide / 100))
    small = page.resize((size, round(high / SCALE)), Image.Resampling.BOX)
    cover = np.asarray(small, np.float32)[..., None] / 255
    rng = generator(seed, "paper")
    grain = rng.normal(0, 6, cover.shape).astype(np.float32)
    grey = how.paper + (how.ink - how.paper) * cover + grain
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2)


def _put(
    page: Image.Image, text: str, face: Face, *, top: float, height: float, width: float
) -> tuple[int, int, int, int]:
    """Print a line over a share of the width and height of a page, centred; returns its box."""
    line = _line(text.upper() if face.capitals else text.title(), face)
    size = (round(page.width * width), round(page.height * height))
    at = ((page.width - size[0]) // 2, round(page.height * top))
    page.paste(line.resize(size, Image.Resampling.BILINEAR), at)
    return at[0], at[1], at[0] + size[0], at[1] + size[1]


def _line(text: str, face: Face) -> Image.Image:
    """A line, white on black, cut to its letters."""
    font = _font(face.bitmap)
    x0, y0, x1, y1 = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font)
    edge = 2 * face.stroke + 1
    line = Image.new("L", (int(x1 - x0) + 2 * edge, int(y1 - y0) + 2 * edge), 0)
    pen = ImageDraw.Draw(line)
    stroke = 0 if face.bitmap else face.stroke
    pen.text((edge - x0, edge - y0), text, fill=255, font=font, stroke_width=stroke)
    if face.slant:
        lean = round(face.slant * line.height)
        shear = (1, face.slant, -lean, 0, 1, 0)
        size = (line.width + lean, line.height)
        line = line.transform(size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    return line


@cache
def _font(bitmap: bool) -> "ImageFont.ImageFont | ImageFont.FreeTypeFont":
    return ImageFont.load_default_imagefont() if bitmap else outlines(_POINTS)


def _blot(
    page: Image.Image, box: tuple[int, int, int, int], start: float, share: float, seed: int
) -> None:
    """Cover about a letter of a line with ink, a scratch or a worn place."""
    rng = generator(seed, "blot")
    x0, y0, x1, y1 = box
    middle = x0 + (start + share / 2) * (x1 - x0)
    half = 0.65 * share * (x1 - x0)
    fill = 255 if rng.random() < 0.5 else 0
    pen = ImageDraw.Draw(page)
    top = y0 + rng.uniform(-0.1, 0.1) * (y1 - y0)
    pen.ellipse((middle - half, top, middle + half, top + 1.05 * (y1 - y0)), fill=fill)
