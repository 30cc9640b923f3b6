"""Pixels of `tools`: a tool of two or three parts in any pose, a hand, and which pixels each part has.

Shapes are drawn in the frame of the tool: x runs along it from -1 (the handle's end) to 1, y across.

Dimensions: S x S pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.data.worlds._canvas import Canvas, Grey
from diptych.data.worlds.tools.words import TOOLS
from diptych.rng import generator

SKIN = (224, 172, 130)
_LENGTH = 0.62
"""Half of a tool's length, in halves of the image's side."""
_GROUNDS = np.array(
    [(150, 150, 150), (150, 180, 140), (140, 160, 190), (205, 195, 140), (205, 165, 175)], float
)


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The middle of a tool in [-1, 1], its angle in radians, and its size as a factor."""

    x: float
    y: float
    angle: float
    size: float


def draw(
    tool: str,
    colours: Sequence[tuple[int, int, int]],
    pose: Pose,
    hands: Sequence[tuple[float, float]],
    ground: int,
    size: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pixels (S, S, 3), uint8, and for each part the share (S, S) of each pixel that it has, before
    hands are drawn over it.

    `colours` are those of the parts, `hands` the places of hands in [-1, 1].
    """
    canvas = Canvas(size, generator(seed, "pixels"))
    pixels = _GROUNDS[ground] + 18 * canvas.smooth(6)[..., None] + canvas.grain(5)[..., None]
    u, v = _frame(canvas, pose)
    soft = 3 / (size * _LENGTH * pose.size)  # a pixel and a half
    found = {}
    for part, colour in zip(TOOLS[tool], colours, strict=True):
        cover = _part(tool, part, u, v, soft)
        shade = 1 + 0.12 * np.clip(v * 4, -1, 1)[..., None]
        pixels = pixels + cover[..., None] * (np.array(colour) * shade - pixels)
        for before in found:
            found[before] = found[before] * (1 - cover)
        found[part] = cover
    for number, (x, y) in enumerate(hands):
        cover = _hand(canvas, x, y, generator(seed, "hand", number))
        pixels = pixels + cover[..., None] * (np.array(SKIN) - pixels)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), found


def at(pose: Pose, along: float, across: float) -> tuple[float, float]:
    """The place in the image of a place in the frame of a tool."""
    reach = _LENGTH * pose.size
    c = np.cos(pose.angle)
    s = np.sin(pose.angle)
    return (
        float(pose.x + reach * (along * c - across * s)),
        float(pose.y + reach * (along * s + across * c)),
    )


def middle(tool: str, part: str) -> tuple[float, float]:
    """A place of a part, in the frame of the tool."""
    if part == "handle":
        return -0.5, 0.0
    return (0.42, 0.0) if part == "blade" else (0.66, 0.0)


def _frame(canvas: Canvas, pose: Pose) -> tuple[Grey, Grey]:
    """The pixels' places in the frame of the tool."""
    reach = _LENGTH * pose.size
    x = (canvas.x - pose.x) / reach
    y = (canvas.y - pose.y) / reach
    c = np.cos(pose.angle)
    s = np.sin(pose.angle)
    return x * c + y * s, y * c - x * s


def _box(u: Grey, v: Grey, u0: float, u1: float, half: Grey | float, soft: float) -> Grey:
    """Where u is from u0 to u1 and |v| at most half, with soft edges."""
    inside = np.minimum(np.minimum(u - u0, u1 - u), half - np.abs(v))
    return np.clip(inside / soft + 0.5, 0, 1)


def _oval(u: Grey, v: Grey, middle: float, along: float, across: float, soft: float) -> Grey:
    inside = (1 - np.hypot((u - middle) / along, v / across)) * min(along, across)
    return np.clip(inside / soft + 0.5, 0, 1)


def _part(tool: str, part: str, u: Grey, v: Grey, soft: float) -> Grey:
    """The share of each pixel that a part of a tool has."""
    if part == "handle":
        until = 0.1 if "blade" in TOOLS[tool] else 0.5
        wide = {"saw": 0.17, "broom": 0.05, "ladle": 0.05}.get(tool, 0.09)
        return _box(u, v, -1, until, wide, soft)
    if part == "guard":
        start = -0.05 if tool == "knife" else 0.3
        return _box(u, v, start, start + 0.13, 0.2 if tool == "knife" else 0.12, soft)
    match tool:
        case "knife":  # a blade that narrows to a point
            return _box(u, v, 0.08, 1, 0.17 * np.clip((1.05 - u) / 0.9, 0, 1) + 0.02, soft)
        case "saw":  # a broad blade with teeth on one side
            teeth = 0.05 * np.abs(((u * 8) % 2) - 1)
            return _box(u, v - 0.03, 0.08, 1, np.where(v > 0, 0.16 + teeth, 0.2), soft)
        case "hammer":
            return _box(u, v, 0.48, 0.84, 0.42, soft)
        case "mallet":
            return _oval(u, v, 0.68, 0.28, 0.36, soft)
        case "spoon":
            return _oval(u, v, 0.7, 0.3, 0.2, soft)
        case "ladle":
            return _oval(u, v, 0.68, 0.3, 0.33, soft)
        case "broom":  # bristles that spread
            return _box(u, v, 0.45, 1, 0.16 + 0.32 * np.clip(u - 0.45, 0, 1), soft) * _stripes(v)
        case _:
            return _box(u, v, 0.4, 0.95, 0.13, soft) * _stripes(v)


def _stripes(v: Grey) -> Grey:
    """Gaps between bristles."""
    return np.where((v * 22) % 2 < 1.5, 1.0, 0.35)


def _hand(canvas: Canvas, x: float, y: float, rng: np.random.Generator) -> Grey:
    """A palm with four fingers, turned at random."""
    angle = rng.uniform(0, 2 * np.pi)
    cover = canvas.inside(canvas.ellipse(x, y, 0.17, 0.15), soft=0.2)
    for finger in range(4):
        turn = angle + (finger - 1.5) * 0.38
        for step in (0.17, 0.23):
            fx = x + step * np.cos(turn)
            fy = y + step * np.sin(turn)
            cover = np.maximum(cover, canvas.inside(canvas.ellipse(fx, fy, 0.055, 0.055), soft=0.4))
    return cover
