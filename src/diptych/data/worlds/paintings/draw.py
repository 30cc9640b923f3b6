"""The pixels of a painting: colours by its palette, strokes by its energy, forms by its composition.

Dimensions: S pixels a side.
"""

import numpy as np
from PIL import Image, ImageDraw

from diptych.rng import generator

_OVER = 3  # pixels are drawn finer and averaged
Colour = tuple[int, int, int]
PALETTES: dict[str, tuple[Colour, ...]] = {
    "warm": ((214, 120, 60), (230, 180, 90), (190, 70, 50), (240, 205, 140)),
    "bright": ((235, 50, 60), (40, 120, 235), (250, 215, 40), (60, 190, 80)),
    "cool": ((60, 120, 170), (90, 165, 165), (50, 90, 140), (150, 200, 190)),
    "dark": ((45, 32, 28), (70, 50, 40), (25, 22, 30), (95, 65, 50)),
    "pale": ((205, 205, 200), (225, 222, 215), (180, 184, 188), (240, 238, 235)),
}
_STROKES = {"still": 0, "lively": 26, "wild": 44}
_FORMS = {"open": 1, "centred": 1, "crowded": 14}


def draw(palette: str, energy: str, composition: str, size: int, seed: int) -> np.ndarray:
    """A painting (S, S, 3) uint8; where things stand depends on the seed."""
    rng = generator(seed, "draw")
    side = size * _OVER
    colours = [PALETTES[palette][at] for at in rng.permutation(4)]
    image = Image.new("RGB", (side, side), colours[0])
    pen = ImageDraw.Draw(image)
    horizon = (0.72 if composition == "open" else 0.5) * side
    pen.rectangle((0, horizon, side, side), fill=colours[1])
    if energy == "still":
        for at in np.sort(rng.uniform(0, 1, 4)) * side:
            pen.rectangle((0, at, side, at + side / 30), fill=_near(colours[0], rng, 18))
    for _ in range(_FORMS[composition]):
        _form(pen, composition, colours[2], horizon, side, rng)
    for _ in range(_STROKES[energy]):
        _stroke(pen, energy, _near(colours[int(rng.integers(1, 4))], rng, 12), side, rng)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)
    grain = rng.normal(0, 5, (size, size, 1))
    return (small + grain).clip(0, 255).astype(np.uint8)


def _near(colour: Colour, rng: np.random.Generator, most: int) -> Colour:
    """A colour near another one."""
    moved = np.add(colour, rng.integers(-most, most + 1, 3)).clip(0, 255)
    red, green, blue = moved.tolist()
    return red, green, blue


def _form(
    pen: ImageDraw.ImageDraw,
    composition: str,
    colour: Colour,
    horizon: float,
    side: int,
    rng: np.random.Generator,
) -> None:
    """A form, an ellipse or a rectangle: a small one at the horizon, a large one in the middle, or one
    of many anywhere."""
    match composition:
        case "open":
            wide, high = rng.uniform(0.06, 0.1, 2) * side
            x = float(rng.uniform(0.1, 0.8)) * side
            y = horizon - high
        case "centred":
            wide, high = rng.uniform(0.4, 0.55, 2) * side
            x = (side - wide) / 2
            y = (side - high) / 2
        case _:
            wide, high = rng.uniform(0.1, 0.2, 2) * side
            x, y = rng.uniform(0, 0.85, 2) * side
    box = (float(x), float(y), float(x + wide), float(y + high))
    if rng.random() < 0.5:
        pen.ellipse(box, fill=_near(colour, rng, 15))
    else:
        pen.rectangle(box, fill=_near(colour, rng, 15))


def _stroke(
    pen: ImageDraw.ImageDraw, energy: str, colour: Colour, side: int, rng: np.random.Generator
) -> None:
    """A stroke of the brush: an arc, or a line with sharp bends."""
    width = max(1, side // 40)
    x, y = (float(value) for value in rng.uniform(0, 1, 2) * side)
    if energy == "lively":
        reach = float(rng.uniform(0.15, 0.3)) * side
        start = float(rng.uniform(0, 360))
        pen.arc((x - reach, y - reach, x + reach, y + reach), start, start + 110, colour, width)
        return
    points = [(x, y)]
    for _ in range(3):
        dx, dy = (float(value) for value in rng.uniform(-0.2, 0.2, 2) * side)
        points.append((points[-1][0] + dx, points[-1][1] + dy))
    pen.line(points, colour, width)
