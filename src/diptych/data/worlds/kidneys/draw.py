"""The volumes of `kidneys`: one kidney in fat, with a mass, in Hounsfield units.

Coordinates are in [-1, 1]: z from feet to head, y from front to back, x from the patient's right to
the left. The sinus of a kidney faces the spine: to the right of the left kidney, to the left of the
right one.

Dimensions: D slices, H rows, W columns.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.floating]
"""One number a voxel (D, H, W)."""

SEMI = (0.72, 0.44, 0.46)
"""The semi-axes of a kidney along z, y, x."""

SINUS = (0.34, 0.2, 0.24)
SHIFT = 0.3
"""How far the sinus lies from the middle towards the spine, in semi-axes of the kidney."""

FAT = -100.0
CORTEX = {"plain": 35.0, "arterial": 160.0, "venous": 150.0, "delayed": 110.0}
SINUS_HU = {"plain": -40.0, "arterial": -30.0, "venous": 0.0, "delayed": 220.0}
MASS = {
    0: {"plain": 8.0, "arterial": 8.0, "venous": 8.0, "delayed": 8.0},
    1: {"plain": 35.0, "arterial": 65.0, "venous": 75.0, "delayed": 70.0},
    2: {"plain": 35.0, "arterial": 190.0, "venous": 110.0, "delayed": 80.0},
}
"""The density of a mass by its enhancement and the phase."""

NECROTIC = 12.0
CHALK = 420.0


@dataclass(frozen=True, kw_only=True)
class Mass:
    """A mass: its centre (z, y, x), its radius, how it enhances (0, 1, 2), whether its margin is
    irregular, and what it holds."""

    centre: tuple[float, float, float]
    radius: float
    enhancement: int
    irregular: bool
    calcified: bool
    necrotic: bool


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """What differs between centres: an offset and a gain of densities, noise, and blur."""

    offset: float
    gain: float
    noise: float
    blur: float


SCANNERS = {
    "a": Scanner(offset=0.0, gain=1.0, noise=12.0, blur=0.0),
    "b": Scanner(offset=15.0, gain=0.9, noise=18.0, blur=0.2),
    "c": Scanner(offset=-15.0, gain=1.1, noise=15.0, blur=0.1),
    "d": Scanner(offset=25.0, gain=0.8, noise=25.0, blur=0.3),
}


@lru_cache(maxsize=8)
def places(slices: int, size: int) -> tuple[Grid, Grid, Grid]:
    """The coordinates z, y, x of all voxels, to be broadcast."""
    z, y = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in (slices, size))
    return z[:, None, None], y[None, :, None], y[None, None, :]


def _inside(distance: Grid, soft: float = 0.25) -> Grid:
    """1 where a distance is below 1, 0 above it, with a soft edge."""
    return np.clip((1 - distance) / soft + 0.5, 0, 1)


def _mixed(x: Grid, share: Grid, value: float | Grid) -> Grid:
    return x + share * (value - x)


def towards_spine(side: int) -> int:
    """The sign of x in which the spine lies: the patient's right, which is -1, of a left kidney."""
    return -1 if side == 0 else 1


def draw(
    side: int, mass: Mass | None, phase: str, scanner: Scanner, slices: int, size: int, seed: int
) -> tuple[Grid, NDArray[np.uint8]]:
    """A volume (D, H, W) in Hounsfield units, and what its voxels are: 0 fat, 1 kidney, 2 mass."""
    shape = np.random.Generator(np.random.PCG64(seed))
    z, y, x = places(slices, size)
    stretch = shape.uniform(0.94, 1.06, 3)
    a, b, c = (semi * part for semi, part in zip(SEMI, stretch, strict=True))
    kidney = np.sqrt((z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2)
    middle = towards_spine(side) * SHIFT
    sinus = np.sqrt((z / SINUS[0]) ** 2 + (y / SINUS[1]) ** 2 + ((x - middle) / SINUS[2]) ** 2)
    hu = np.full((slices, size, size), FAT, np.float32)
    hu = _mixed(hu, _inside(kidney), CORTEX[phase])
    hu = _mixed(hu, _inside(sinus), SINUS_HU[phase])
    labels = (kidney < 1).astype(np.uint8)
    if mass is not None:
        far = _distance(mass, z, y, x, shape)
        hu = _mixed(hu, _inside(far), MASS[mass.enhancement][phase])
        if mass.necrotic:
            hu = _mixed(hu, _inside(far / 0.6), NECROTIC)
        if mass.calcified:
            hu = _mixed(hu, 0.8 * _inside(np.abs(far - 0.85) / 0.12 + (y > mass.centre[1])), CHALK)
        labels[far < 1] = 2
    own = np.random.Generator(np.random.PCG64([seed, list(CORTEX).index(phase)]))
    hu = _blurred(hu, scanner.blur) * scanner.gain + scanner.offset
    hu = hu + scanner.noise * own.standard_normal(hu.shape, dtype=np.float32)
    return np.rint(hu).astype(np.float32), labels


def _distance(mass: Mass, z: Grid, y: Grid, x: Grid, rng: np.random.Generator) -> Grid:
    """The distance from a mass' centre in radii, which waves with the direction if the margin is
    irregular. All three axes have one scale."""
    dz, dy, dx = (
        (place - at) / mass.radius for place, at in zip((z, y, x), mass.centre, strict=True)
    )
    far = np.sqrt(dz**2 + dy**2 + dx**2)
    turn = rng.uniform(0, 2 * np.pi, 2)  # drawn for all masses, so that what follows is the same
    if not mass.irregular:
        return far
    waves = np.sin(4 * np.arctan2(dy, dx) + turn[0]) + np.cos(5 * dz + turn[1])
    return far * (1 + 0.16 * waves)


def _blurred(hu: Grid, share: float) -> Grid:
    """The mean of each voxel and its four neighbours in the slice, mixed in by a share."""
    if not share:
        return hu
    near = sum(np.roll(hu, step, axis) for step in (-1, 1) for axis in (1, 2))
    return (1 - share) * hu + share / 4 * near
