"""Frozen features position by position, each with the value of a mask or a map there.

Masks and maps are aligned with the image exactly as its pixels were: the same scaling, crop or
padding, by the nearest pixel. A position stands for a cell of the image; cells that are mostly
padding or void are left out.

Dimensions: N images, h x w positions, D width, S side of the pixels.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Steps, as_vectors, read_images
from diptych.rng import generator

MOST = 20_000
"""The largest number of positions that a probe is trained on, sampled from all; it is tested on
all."""


def laid_under(plane: np.ndarray, preprocess: Preprocess, void: float) -> np.ndarray:
    """Align a plane (H, W) of numbers with the image's pixels (h, w); `void` marks padding.

    >>> laid_under(np.array([[1, 2], [3, 4]]), Preprocess(size=4), void=0)[0]
    array([1, 1, 2, 2])
    """
    height, width = plane.shape
    scaled_width, scaled_height = preprocess.scaled(width, height)
    rows = _nearest(height, scaled_height, preprocess, preprocess.height)
    columns = _nearest(width, scaled_width, preprocess, preprocess.width)
    laid = plane[rows[:, None], columns]
    return np.where((rows[:, None] >= 0) & (columns >= 0), laid, np.asarray(void, laid.dtype))


def _nearest(length: int, scaled: int, preprocess: Preprocess, size: int) -> np.ndarray:
    """Return for each of the `size` pixels of a side the index of the nearest in the plane, -1 in
    padding."""
    at = np.arange(size) + preprocess.first(scaled, size)
    return np.where(
        (at >= 0) & (at < scaled),
        ((at + 0.5) * length / scaled).astype(int).clip(0, length - 1),
        -1,
    )


def cell_classes(plane: np.ndarray, grid: tuple[int, int], void: int) -> np.ndarray:
    """Return the most common number of each cell of a plane (S, S) of integers, (h · w,); of
    equally common ones the smallest.

    >>> cell_classes(np.array([[7, 7, 1, 2], [7, 0, 1, 1]]), (1, 2), void=255)
    array([7, 1])
    """
    values, number = np.unique(plane, return_inverse=True)
    counts = np.zeros((grid[0] * grid[1], len(values)), int)
    np.add.at(counts, (cells_of(plane.shape, grid).ravel(), number.ravel()), 1)
    return values[counts.argmax(1)]


def cell_means(plane: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the mean of each cell of a plane (S, S), (h · w,); NaN if half of it or more is not
    finite.

    >>> cell_means(np.array([[1.0, 3, np.nan, np.nan]]), (1, 2))
    array([ 2., nan])
    """
    cell = cells_of(plane.shape, grid).ravel()
    finite = np.isfinite(plane).ravel()
    total = np.bincount(cell, minlength=grid[0] * grid[1])
    count = np.bincount(cell[finite], minlength=len(total))
    with np.errstate(invalid="ignore"):
        mean = (
            np.bincount(cell[finite], weights=plane.ravel()[finite], minlength=len(total)) / count
        )
    return np.where(2 * count > total, mean, np.nan)


def cells_of(shape: tuple[int, ...], grid: tuple[int, int]) -> np.ndarray:
    """Return the grid cell of each pixel, row by row."""
    rows, columns = (
        np.arange(side) * count // side for side, count in zip(shape, grid, strict=True)
    )
    return rows[:, None] * grid[1] + columns


def level_option(level: int | None) -> tuple[str, ...]:
    """Return the feature map as an option of a protocol."""
    return () if level is None else (f"level={level}",)


def represented(
    model: Any, pixels: Tensor, batch_size: int, level: int | None
) -> tuple[Tensor, tuple[int, int]]:
    """Return the features (N, h · w, D) of pixels (N, 3, H, W), and their grid (h, w). Raises
    InputError if they have none."""
    options = {} if level is None else {"level": level}
    encoded = model.represent(pixels, batch_size=batch_size, **options)
    if encoded.grid is None:
        raise InputError(
            "dense probes need features on a grid; this model's image tower pools them away"
        )
    return as_vectors(encoded.patches), encoded.grid


def positions(
    model: Any,
    source: Source,
    plane: Callable[[Sample], np.ndarray],
    cells: Callable[[np.ndarray, tuple[int, int]], np.ndarray],
    bad: Counter[str],
    *,
    max_positions: int | None,
    seed: int,
    exact: bool,
    batch_size: int,
    steps: Steps,
    level: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (P, D) of the positions of all images, the targets `cells(plane(sample),
    grid)` of them (P,), and the number of the image of each (P,).

    Of each image at most `max_positions` / N positions are kept, sampled by (seed, the image's number), so
    that P <= `max_positions`; None keeps all. `level` is the feature map of the tower (`Model.represent`).
    Raises InputError for a model whose features have no grid.
    """
    share = None if max_positions is None else max(1, max_positions // len(source))
    features = []
    targets = []
    owners = []
    for pixels, planes in read_images(
        model, source, plane, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        found, grid = represented(model, pixels, batch_size, level)
        for tokens, mine in zip(found.numpy(), planes, strict=True):
            kept = np.arange(len(tokens))
            if share is not None:
                kept = generator(seed, "positions", len(owners)).permutation(len(tokens))[:share]
            features.append(tokens[kept])
            targets.append(cells(mine, grid)[kept])
            owners.append(len(kept))
    return (
        np.concatenate(features),
        np.concatenate(targets),
        np.repeat(np.arange(len(owners)), owners),
    )
