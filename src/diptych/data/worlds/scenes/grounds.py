"""Named grounds (grass, sand, water, …), drawn once for each variant and size, periodic in both
directions.

Colours are pale and greyish, so that objects stand out. The number of structural elements per image
is fixed, so that a ground looks the same at all sizes. S is the image's side.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from diptych.rng import generator


@lru_cache(maxsize=256)
def ground(name: str, variant: int, size: int) -> np.ndarray:
    """The tile repeated twice in both directions, (2 S, 2 S, 3) uint8; an image's ground is any S x
    S window."""
    rng = generator(0, "ground", name, variant)
    tile = _DRAW[name](rng, size)
    return np.tile(np.clip(np.rint(tile), 0, 255).astype(np.uint8), (2, 2, 1))


def _noise(rng: np.random.Generator, size: int, rows: int, columns: int) -> np.ndarray:
    """Smooth periodic noise in [0, 1] with `rows` x `columns` cells, (S, S)."""
    cells = np.pad(rng.random((rows, columns)).astype(np.float32), 2, mode="wrap")
    box = (2.0, 2.0, 2.0 + columns, 2.0 + rows)
    return np.asarray(
        Image.fromarray(cells).resize((size, size), Image.Resampling.BILINEAR, box=box)
    )


def _mix(share: np.ndarray, low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """Blend two colours, (S, S) to (S, S, 3)."""
    a = np.array(low, np.float32)
    b = np.array(high, np.float32)
    return a + (b - a) * np.clip(share, 0, 1)[..., None]


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The centres of pixels in [0, 1), as a column and a row."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return line[:, None], line[None, :]


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    blades = _noise(rng, size, 9, 36) * 0.65 + _noise(rng, size, 14, 56) * 0.35
    return _mix((blades - 0.28) * 2.2, (104, 146, 86), (178, 206, 150))


def _sand(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _axes(size)
    ripple = 0.5 + 0.5 * np.sin(2 * np.pi * (4 * y + 0.5 * _noise(rng, size, 3, 3)))
    return _mix(0.45 * ripple + 0.55 * _noise(rng, size, 60, 60), (206, 184, 138), (243, 229, 196))


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    waves = np.sin(
        2
        * np.pi
        * (
            7 * y
            + 0.16 * np.sin(2 * np.pi * (2 * x + rng.random()))
            + 0.35 * _noise(rng, size, 4, 4)
        )
    )
    return _mix(0.4 + 0.25 * waves + 0.9 * (waves > 0.82), (112, 160, 184), (206, 228, 236))


def _snow(rng: np.random.Generator, size: int) -> np.ndarray:
    drift = _noise(rng, size, 4, 3)
    tile = _mix(drift * 1.3 - 0.15, (212, 224, 240), (252, 253, 255))
    return tile - 34 * (_noise(rng, size, 24, 24) > 0.86)[..., None]


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    rows = 8
    columns = 4
    y, x = _axes(size)
    row = np.floor(y * rows).astype(int)
    along = x * columns + (row % 2) * 0.5
    shade = rng.random((rows, columns)).astype(np.float32)
    tile = _mix(shade[row, np.floor(along).astype(int) % columns], (164, 118, 102), (200, 156, 138))
    mortar = ((y * rows) % 1 < 0.17) | (along % 1 < 0.09)
    return np.where(mortar[..., None], np.array((224, 214, 204), np.float32), tile)


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    planks = 4
    y, _ = _axes(size)
    plank = np.floor(y * planks).astype(int)
    shade = rng.random(planks).astype(np.float32)[plank]
    grain = _noise(rng, size, 40, 5)
    tile = _mix(0.35 * shade + 0.65 * grain, (160, 122, 84), (212, 176, 132))
    seam = (y * planks) % 1 < 0.1
    return np.where(
        (seam & np.ones((1, size), bool))[..., None], np.array((112, 82, 56), np.float32), tile
    )


def _stone(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = 5
    y, x = _axes(size)
    spots = (
        np.indices((cells, cells)).reshape(2, -1).T
        + 0.5
        + rng.uniform(-0.36, 0.36, (cells * cells, 2))
    ) / cells
    dy = np.abs(y[..., None] - spots[:, 0])
    dx = np.abs(x[..., None] - spots[:, 1])
    distance = np.sort(np.hypot(np.minimum(dy, 1 - dy), np.minimum(dx, 1 - dx)), axis=-1)
    nearest = np.argmin(np.hypot(np.minimum(dy, 1 - dy), np.minimum(dx, 1 - dx)), axis=-1)
    tile = _mix(rng.random(cells * cells)[nearest], (138, 140, 144), (190, 191, 193))
    gap = (distance[..., 1] - distance[..., 0]) < 0.03
    return np.where(
        gap[..., None],
        np.array((92, 94, 98), np.float32),
        tile + 14 * (_noise(rng, size, 30, 30) - 0.5)[..., None],
    )


def _tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    count = 6
    y, x = _axes(size)
    row = np.floor(y * count).astype(int)
    column = np.floor(x * count).astype(int)
    light = (row + column) % 2 * 0.85 + 0.15 * rng.random((count, count)).astype(np.float32)[
        row, column
    ]
    tile = _mix(light, (168, 180, 182), (236, 238, 234))
    grout = ((y * count) % 1 < 0.1) | ((x * count) % 1 < 0.1)
    return np.where(grout[..., None], np.array((126, 134, 138), np.float32), tile)


def _cloth(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    bands = 8
    across = (y * bands) % 1 < 0.42
    along = (x * bands) % 1 < 0.42
    weave = 0.5 * across + 0.5 * along
    return _mix(weave + 0.12 * (_noise(rng, size, 50, 50) - 0.5), (240, 226, 226), (186, 152, 160))


def _paper(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    tile = _mix(_noise(rng, size, 5, 5), (244, 240, 226), (252, 250, 242))
    rule = (y * 7) % 1 < 0.14
    margin = (x < 0.03) & (y >= 0)
    tile = np.where((rule & (x >= 0))[..., None], np.array((168, 190, 222), np.float32), tile)
    return np.where(margin[..., None], np.array((226, 150, 150), np.float32), tile)


_DRAW = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "bricks": _bricks,
    "wood": _wood,
    "stone": _stone,
    "tiles": _tiles,
    "cloth": _cloth,
    "paper": _paper,
}
