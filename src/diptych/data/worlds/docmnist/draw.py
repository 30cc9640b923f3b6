"""The pixels of `docmnist`: handwritten digits of scikit-learn in the cells of a page.

The digits are the 1,797 images of 8 x 8 pixels of the UCI data set (Alpaydin and Kaynak, 1998), which
scikit-learn ships.
"""

import colorsys
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diptych.data.worlds.docmnist.words import COLOURS, SHAPES, SIZES
from diptych.metrics.arrays import lab

CELL = 28
SIDE = 3
"""Cells of a row, and rows of a page."""
INK = 120
"""The grey value from which a pixel of a digit is coloured."""
CORNERS = (5, 19)
"""Where the centre of a circle and the first corner of a rectangle may lie, in both directions."""
RADII: dict[str, int] = dict(zip(SIZES, (1, 3, 5), strict=True))
SIDES: dict[str, int] = dict(zip(SIZES, (1, 4, 7), strict=True))
SHARES = {"train": (0.0, 0.7), "val": (0.7, 0.85), "test": (0.85, 1.0)}
"""Which part of the digits belongs to each split, in the order in which they were collected."""


@cache
def digits(split: str) -> tuple[NDArray[np.uint8], ...]:
    """The images of each digit of a split (n, 28, 28), enlarged, 255 the ink. Raises InputError
    without scikit-learn."""
    with lab("the world docmnist"):
        from sklearn.datasets import load_digits
    images, labels = load_digits(return_X_y=True)
    start, stop = (round(share * len(labels)) for share in SHARES[split])
    return tuple(
        np.stack([_enlarged(image) for image in images[start:stop][labels[start:stop] == digit]])
        for digit in range(10)
    )


def _enlarged(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A digit (64,) of 0 … 16 as an image of the size of a cell."""
    grey = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((CELL, CELL), Image.Resampling.BICUBIC))


def colour_of(name: str) -> tuple[int, int, int]:
    """The colour of a name, on the circle of hues.

    >>> colour_of("red"), colour_of("blue")
    ((255, 0, 0), (0, 102, 255))
    """
    red, green, blue = colorsys.hsv_to_rgb(COLOURS.index(name) / len(COLOURS), 1.0, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def cell(
    grey: NDArray[np.uint8], colour: str, shape: str, size: str, corner: tuple[int, int]
) -> NDArray[np.uint8]:
    """A digit (28, 28) in its colour (28, 28, 3), with the white outline of a shape if there is
    one."""
    pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels[grey >= INK] = colour_of(colour)
    if not shape:
        return pixels
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    x, y = corner
    if shape == SHAPES[0]:
        r = RADII[size]
        draw.ellipse((x - r, y - r, x + r, y + r), outline=(255, 255, 255))
    else:
        draw.rectangle((x, y, x + SIDES[size], y + SIDES[size]), outline=(255, 255, 255))
    return np.asarray(image)


def box(place: int) -> tuple[float, float, float, float]:
    """The sides of a cell in pixels, of nine that are numbered row by row.

    >>> box(5)
    (56.0, 28.0, 84.0, 56.0)
    """
    row, column = divmod(place, SIDE)
    return (
        float(CELL * column),
        float(CELL * row),
        float(CELL * (column + 1)),
        float(CELL * (row + 1)),
    )
