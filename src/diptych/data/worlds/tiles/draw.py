"""The pixels of a tile: ground, water, roads, buildings, works and trees, by season and light.

Dimensions: S pixels a side.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from diptych.rng import generator

_OVER = 3  # pixels are drawn finer and averaged
SEASONS = {
    "spring": ((150, 170, 110), (70, 130, 60)),
    "summer": ((170, 175, 100), (40, 110, 40)),
    "autumn": ((175, 150, 105), (150, 105, 45)),
    "winter": ((215, 215, 210), (110, 115, 105)),
}
"""The colours of the ground and of trees."""
_WATER = (70, 110, 160)
_ROAD = (95, 95, 100)
_WORKS = (140, 145, 155)
_ROOFS = ((165, 90, 75), (190, 170, 150), (120, 120, 130), (205, 195, 185))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many things a tile has, and how wide its water is: 0, or a share of the tile."""

    buildings: int
    works: int
    trees: int
    roads: int
    water: float


def draw(counts: Counts, season: str, light: float, size: int, seed: int) -> np.ndarray:
    """A tile (S, S, 3) uint8. `light` multiplies all colours; where things stand depends on the seed."""
    rng = generator(seed, "draw")
    side = size * _OVER
    ground, leaves = SEASONS[season]
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    if counts.water:
        _river(pen, counts.water * side, side, rng)
    for number in range(counts.roads):
        at = float(rng.uniform(0.1, 0.9)) * side
        tilt = float(rng.uniform(-0.15, 0.15)) * side
        line = [(0, at - tilt), (side, at + tilt)]
        pen.line(line if number % 2 else [point[::-1] for point in line], _ROAD, max(2, side // 24))
    for _ in range(counts.works):
        x, y = rng.uniform(0.0, 0.7, 2) * side
        w, h = rng.uniform(0.2, 0.3, 2) * side
        pen.rectangle((x, y, x + w, y + h), fill=_WORKS, outline=(80, 80, 85))
    for _ in range(counts.buildings):
        x, y = rng.uniform(0.0, 0.9, 2) * side
        w, h = rng.uniform(0.06, 0.12, 2) * side
        roof = _ROOFS[rng.integers(len(_ROOFS))]
        pen.rectangle((x, y, x + w, y + h), fill=roof, outline=(70, 60, 55))
    for _ in range(counts.trees):
        x, y = rng.uniform(0.0, 1.0, 2) * side
        radius = float(rng.uniform(0.015, 0.03)) * side
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaves)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)
    grain = rng.normal(0, 4, (size, size, 1))
    return (small * light + grain).clip(0, 255).astype(np.uint8)


def _river(pen: ImageDraw.ImageDraw, width: float, side: int, rng: np.random.Generator) -> None:
    """Water from one side of a tile to the other, along a bent line."""
    start, middle, end = rng.uniform(0.15, 0.85, 3) * side
    line = [(0.0, start), (side / 2, middle), (float(side), end)]
    if rng.random() < 0.5:
        line = [point[::-1] for point in line]
    pen.line(line, _WATER, max(2, round(width)), joint="curve")
