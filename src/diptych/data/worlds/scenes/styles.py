"""Effects of style domains on a drawn image: palettes (a colour map) and renderings (a local
filter).

All are local: a change of the scene affects the image only there and a few pixels around. Images
are (S, S, 3) float32 in 0 … 255.
"""

from collections.abc import Callable

import numpy as np

from diptych.data.images import luma
from diptych.rng import generator

_PALETTES = {  # saturation, gain, offset
    "natural": (1.0, 1.0, 0.0),
    "pale": (0.72, 0.66, 84.0),
    "dark": (0.95, 0.56, 4.0),
    "faded": (0.55, 0.78, 34.0),
    "vivid": (1.35, 1.06, -8.0),
}


def palette(name: str, pixels: np.ndarray) -> np.ndarray:
    """The image in a palette; hues are kept."""
    if name == "natural":
        return pixels
    saturation, gain, offset = _PALETTES[name]
    grey = luma(pixels)[..., None]
    return np.clip((grey + (pixels - grey) * saturation) * gain + offset, 0, 255)


def render(name: str, pixels: np.ndarray, seed: int) -> np.ndarray:
    """The image in a rendering; `seed` is that of grain."""
    if name == "flat":
        return pixels
    return _RENDER[name](pixels, max(1, round(pixels.shape[0] / 64)), seed)


def _pencil(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """Dark edges, pale fill, hatching in dark areas."""
    grey = luma(pixels)
    edge = np.minimum(_steps(grey, unit) * 1.6, 170)
    pale = 255 - (255 - pixels) * 0.62
    size = len(pixels)
    hatch = (np.add.outer(np.arange(size), np.arange(size)) // unit % 4 == 0) & (grey < 150)
    return np.clip(pale - (edge + 26 * hatch)[..., None], 0, 255)


def _steps(grey: np.ndarray, unit: int) -> np.ndarray:
    """The change of grey over `unit` pixels, (S, S)."""
    padded = np.pad(grey, unit, mode="edge")
    size = len(grey)
    right = padded[unit : unit + size, 2 * unit :] - padded[unit : unit + size, :size]
    down = padded[2 * unit :, unit : unit + size] - padded[:size, unit : unit + size]
    return (np.abs(right) + np.abs(down)) / 2


def _pixel(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """Blocks of 2 x 2 pixels in images of 64."""
    block = 2 * unit
    size = len(pixels)
    padded = np.pad(pixels, ((0, -size % block), (0, -size % block), (0, 0)), mode="edge")
    count = len(padded) // block
    coarse = padded.reshape(count, block, count, block, 3).mean((1, 3))
    coarse = np.round(coarse / 24) * 24
    return np.clip(np.repeat(np.repeat(coarse, block, 0), block, 1)[:size, :size], 0, 255)


def _grain(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """Grain, and a little sepia."""
    size = -(-len(pixels) // unit)
    noise = generator(seed, "grain").random((size, size), np.float32)
    noise = np.repeat(np.repeat(noise, unit, 0), unit, 1)[: len(pixels), : len(pixels)]
    return np.clip(
        pixels * np.array((1.0, 0.97, 0.9), np.float32) + 60 * (noise - 0.5)[..., None], 0, 255
    )


def _poster(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """Four levels per channel."""
    return np.round(pixels / 85) * 85


def _neon(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """A dark image whose edges and colours glow."""
    grey = luma(pixels)
    colour = pixels - pixels.min(-1, keepdims=True)
    glow = np.minimum(_steps(grey, unit) * 1.8, 130)[..., None]
    return np.clip(10 + pixels * 0.16 + colour * 1.25 + glow, 0, 255)


def _wash(pixels: np.ndarray, unit: int, seed: int) -> np.ndarray:
    """Soft, blurred colours with darker rims, on rough paper."""
    soft = _blur(_blur(pixels, unit), unit)
    rim = np.minimum(_steps(luma(soft), unit) * 0.7, 50)[..., None]
    size = -(-len(pixels) // (2 * unit))
    tooth = generator(seed, "tooth").random((size, size), np.float32)
    tooth = np.repeat(np.repeat(tooth, 2 * unit, 0), 2 * unit, 1)[
        : len(pixels), : len(pixels), None
    ]
    return np.clip(255 - (255 - soft) * (0.78 + 0.3 * tooth) - rim, 0, 255)


def _blur(pixels: np.ndarray, radius: int) -> np.ndarray:
    """The mean over (2 radius + 1)² pixels, with edges replicated."""
    width = 2 * radius + 1
    size = len(pixels)
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    rows = sum(padded[at : at + size] for at in range(width))
    return np.asarray(sum(rows[:, at : at + size] for at in range(width))) / np.float32(width**2)  # type: ignore[index]


_RENDER: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "pencil": _pencil,
    "pixel": _pixel,
    "grain": _grain,
    "poster": _poster,
    "neon": _neon,
    "wash": _wash,
}
