"""Where the tiles of a city lie, and what the city is like there.

A city is a plane of tiles. Its properties are smooth functions of the place, so that neighbours are
alike, and every city has its own. Tiles are numbered along blocks of `BLOCK` x `BLOCK`, and each
tenth of the blocks, in turns, is for validation and for tests.

Dimensions: n tiles.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from diptych.rng import generator

BLOCK = 8
"""The side of a block, in tiles."""
BLOCKS = 64
"""The blocks of a city in a row."""
PROPERTIES = ("density", "industry", "green", "water")
_WAVES = 5
_LENGTHS = (12.0, 48.0)  # of waves, in tiles
SPLITS = {"train": tuple(range(8)), "val": (8,), "test": (9,)}
"""Which of ten blocks in a row each split has."""


def place_of(split: str, index: int) -> tuple[int, tuple[int, int]]:
    """The block of a tile of a split, and its place (x, y) in the city.

    >>> place_of("train", 0), place_of("test", 64)
    ((0, (0, 0)), (19, (152, 0)))
    """
    turn = SPLITS[split]
    number, within = divmod(index, BLOCK**2)
    round_, at = divmod(number, len(turn))
    block = 10 * round_ + turn[at]
    row, column = divmod(block, BLOCKS)
    y, x = divmod(within, BLOCK)
    return block, (column * BLOCK + x, row * BLOCK + y)


@lru_cache(maxsize=64)
def _waves(seed: int, city: int, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wave vectors (W, 2), phases (W,) and weights (W,) of a property of a city."""
    rng = generator(seed, "tiles", "city", city, name)
    turns = rng.uniform(0, 2 * np.pi, _WAVES)
    low, high = np.log(_LENGTHS).tolist()
    lengths = np.exp(rng.uniform(low, high, _WAVES))
    vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1) * (2 * np.pi / lengths)[:, None]
    return vectors, rng.uniform(0, 2 * np.pi, _WAVES), rng.uniform(0.5, 1.0, _WAVES)


def properties(seed: int, city: int, place: Sequence[int]) -> dict[str, float]:
    """The properties of a place, each from 0 to 1.

    >>> sorted(properties(0, 1, (3, 4))) == sorted(PROPERTIES)
    True
    """
    found = {}
    for name in PROPERTIES:
        vectors, phases, weights = _waves(seed, city, name)
        height = float(weights @ np.sin(vectors @ np.asarray(place, float) + phases))
        found[name] = float(1 / (1 + np.exp(-2.5 * height / np.sqrt(_WAVES / 2))))
    return found
