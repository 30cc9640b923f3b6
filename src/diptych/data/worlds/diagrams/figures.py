"""Figures: a shape in a position, with one relation and lengths; their geometry, and the program
that draws them.

Dimensions: the picture is the unit square, y downwards.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from diptych.data.worlds.diagrams.program import (
    CIRCLES,
    LINES,
    MARKS,
    Point,
    Program,
    meeting,
    sides_of,
)

SHAPES: dict[str, tuple[Point, ...]] = {
    "equilateral triangle": ((0, -1), (-0.866, 0.5), (0.866, 0.5)),
    "isosceles triangle": ((0, -1), (-0.65, 0.76), (0.65, 0.76)),
    "right triangle": ((-0.55, 0.8), (0.95, 0.8), (-0.55, -1)),
    "scalene triangle": ((-0.3, -0.95), (-0.8, 0.7), (1.0, 0.45)),
    "square": ((-0.707, -0.707), (-0.707, 0.707), (0.707, 0.707), (0.707, -0.707)),
    "rectangle": ((-0.87, -0.5), (-0.87, 0.5), (0.87, 0.5), (0.87, -0.5)),
    "rhombus": ((0, -1), (-0.6, 0), (0, 1), (0.6, 0)),
    "parallelogram": ((-0.35, -0.6), (-0.95, 0.6), (0.35, 0.6), (0.95, -0.6)),
    "trapezoid": ((-0.35, -0.55), (-0.95, 0.55), (0.95, 0.55), (0.35, -0.55)),
    "kite": ((0, -0.85), (-0.6, -0.35), (0, 1), (0.6, -0.35)),
}
"""The corners of each shape around (0, 0), in their order around it."""

Relation = tuple[str, int, int]
"""A kind with the numbers of two sides; of a line with its corner; of a circle with nothing (-1)."""

_EXACT = 1e-2  # corners are rounded to two or three digits
_INSIDE = 0.12  # least share of a side between a foot and its ends
_ROOM = 0.35  # least distance between the centre of a circle and a side


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The facts of a diagram: a shape, the letters of its corners, then that of a foot or a centre
    if the relation needs one; sides with lengths; `turn` in degrees, radius and centre; the seed of
    the wording, `start` and `back` (which corner its name begins with, and the direction), and the
    kind of edit that led to it."""

    shape: str
    letters: str
    relation: Relation
    lengths: tuple[tuple[int, int], ...]
    turn: float
    radius: float
    centre: Point
    start: int
    back: bool
    seed: int
    kind: str = ""

    @property
    def corners(self) -> int:
        """The number of corners."""
        return len(SHAPES[self.shape])

    @property
    def name(self) -> str:
        """The name of the polygon as the caption has it."""
        letters = self.letters[: self.corners]
        turned = letters[self.start :] + letters[: self.start]
        return turned[0] + turned[:0:-1] if self.back else turned


@cache
def relations_of(shape: str) -> tuple[Relation, ...]:
    """Return the relations that hold in a shape."""
    corners = SHAPES[shape]
    count = len(corners)
    pairs = [(a, b) for b in range(count) for a in range(b)]
    found: list[Relation] = [
        (kind, a, b) for kind in MARKS for a, b in pairs if _marks(kind, corners, a, b)
    ]
    if count == 3:
        found += [
            (kind, corner, -1)
            for kind in LINES
            for corner in range(3)
            if _INSIDE < share_of(kind, corners, corner) < 1 - _INSIDE
        ]
    return (*found, *((kind, -1, -1) for kind in CIRCLES if _circle(kind, corners) is not None))


def _vector(corners: tuple[Point, ...], side: int) -> Point:
    ax, ay = corners[side]
    bx, by = corners[(side + 1) % len(corners)]
    return bx - ax, by - ay


def _marks(kind: str, corners: tuple[Point, ...], a: int, b: int) -> bool:
    """Whether two sides are parallel, of equal length, or perpendicular in a corner."""
    one = _vector(corners, a)
    two = _vector(corners, b)
    lengths = math.hypot(*one), math.hypot(*two)
    if kind == "equal":
        return abs(lengths[0] - lengths[1]) < _EXACT
    product = lengths[0] * lengths[1]
    if kind == "parallel":
        return abs(one[0] * two[1] - one[1] * two[0]) < _EXACT * product
    meet = (b - a) % len(corners) in (1, len(corners) - 1)
    return meet and abs(one[0] * two[0] + one[1] * two[1]) < _EXACT * product


def share_of(kind: str, corners: tuple[Point, ...], corner: int) -> float:
    """Return where the line of a kind from a corner of a triangle meets the opposite side, as a
    share of that side.

    >>> [share_of(kind, ((0, 0), (0, 1), (3, 0)), 0) for kind in ("median", "altitude", "bisector")]
    [0.5, 0.1, 0.25]
    """
    apex = corners[corner]
    b = corners[(corner + 1) % 3]
    c = corners[(corner + 2) % 3]
    if kind == "median":
        return 0.5
    if kind == "bisector":
        near = math.dist(apex, b)
        return near / (near + math.dist(apex, c))
    along = (c[0] - b[0], c[1] - b[1])
    share = (apex[0] - b[0]) * along[0] + (apex[1] - b[1]) * along[1]
    return share / (along[0] ** 2 + along[1] ** 2)


def _circle(kind: str, corners: tuple[Point, ...]) -> tuple[Point, float] | None:
    """The centre and radius of the circle through all corners, or touching all sides; None if there
    is none, or no room for the letter of its centre."""
    if kind == "circumscribed":
        centre = meeting(_middle_line(corners, 0), _middle_line(corners, 1))
        assert centre is not None, "two sides of a corner are not parallel"
        radii = [math.dist(centre, corner) for corner in corners]
    else:
        centre = meeting(_halving_line(corners, 0), _halving_line(corners, 1))
        assert centre is not None, "two halved angles of a convex shape meet"
        radii = [_distance(centre, corners, side) for side in range(len(corners))]
    room = min(_distance(centre, corners, side) for side in range(len(corners)))
    if max(radii) - min(radii) > _EXACT or room < _ROOM:
        return None
    return centre, sum(radii) / len(radii)


def _middle_line(corners: tuple[Point, ...], side: int) -> tuple[Point, Point]:
    """Two points of the line on which both ends of a side are equally far."""
    ax, ay = corners[side]
    bx, by = corners[(side + 1) % len(corners)]
    middle = (ax + bx) / 2, (ay + by) / 2
    return middle, (middle[0] + ay - by, middle[1] + bx - ax)


def _halving_line(corners: tuple[Point, ...], corner: int) -> tuple[Point, Point]:
    """Two points of the line that halves the angle at a corner."""
    to = _vector(corners, corner)
    back = _vector(corners, (corner - 1) % len(corners))
    long = math.hypot(*to)
    wide = math.hypot(*back)
    x, y = corners[corner]
    return (x, y), (x + to[0] / long - back[0] / wide, y + to[1] / long - back[1] / wide)


def _distance(point: Point, corners: tuple[Point, ...], side: int) -> float:
    """The distance of a point from a side."""
    ax, ay = corners[side]
    ux, uy = _vector(corners, side)
    return abs(ux * (point[1] - ay) - uy * (point[0] - ax)) / math.hypot(ux, uy)


def program_of(figure: Figure) -> Program:
    """Return the program that draws a figure.

    >>> from diptych.data.worlds.diagrams import Config, World
    >>> figure = World(Config()).sample(0, 0)
    >>> program_of(figure).polygons
    (('kite', 'AEHM'),)
    """
    corners = SHAPES[figure.shape]
    letters = figure.letters[: len(corners)]
    places = dict(zip(letters, map(figure_place(figure), corners), strict=True))
    sides = sides_of(letters)
    if figure.back:  # another name changes how its sides are named as well
        sides = [side[::-1] for side in sides]
    kind, a, b = figure.relation
    segments: list[str] = []
    circles: dict[str, float] = {}
    extra = figure.letters[-1]
    if kind in MARKS:
        relation = (kind, sides[a], sides[b])
    elif kind in LINES:
        share = share_of(kind, corners, a)
        start = places[letters[(a + 1) % 3]]
        end = places[letters[(a + 2) % 3]]
        foot = tuple(from_ + share * (to - from_) for from_, to in zip(start, end, strict=True))
        places[extra] = foot[0], foot[1]
        segments.append(letters[a] + extra)
        relation = (kind, letters[a] + extra, sides[(a + 1) % 3])
    else:
        found = _circle(kind, corners)
        assert found is not None, f"a {figure.shape} has no {kind} circle"
        places[extra] = figure_place(figure)(found[0])
        circles[extra] = found[1] * figure.radius
        relation = (kind, extra, figure.name)
    return Program.of(
        places,
        polygons=[(figure.shape, figure.name)],
        segments=segments,
        circles=circles,
        lengths=[(sides[side], str(number)) for side, number in figure.lengths],
        relations=[relation],
    )


def figure_place(figure: Figure) -> Callable[[Point], Point]:
    """Return the map from the plane of `SHAPES` to the picture."""
    turn = math.radians(figure.turn)

    def place(point: Point) -> Point:
        x = math.cos(turn) * point[0] - math.sin(turn) * point[1]
        y = math.sin(turn) * point[0] + math.cos(turn) * point[1]
        return figure.centre[0] + figure.radius * x, figure.centre[1] + figure.radius * y

    return place
