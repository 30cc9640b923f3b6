"""Drawings of diagram programs: black on white, with letters, lengths and the marks of relations.

Dimensions: positions are in pixels of a canvas of SCALE times the size, y downwards.
"""

import math

from PIL import Image, ImageDraw

from diptych.data.render import outlines
from diptych.data.worlds.diagrams.program import (
    LINES,
    MARKS,
    Point,
    Program,
    meeting,
    ring,
    sides_of,
)

SCALE = 4
_LETTER = 0.16  # the size of letters, as a share of the side of the image
_AWAY = 0.082  # the distance of a letter or length from its point or side
_MARK = 0.035  # half the length of a mark


class Canvas:
    """A white canvas with a pen. Points are shares of its side."""

    def __init__(self, size: int):
        self.side = size * SCALE
        self.image = Image.new("L", (self.side, self.side), 255)
        self.pen = ImageDraw.Draw(self.image)
        self.width = max(SCALE, round(self.side * 0.016))

    def line(self, *points: Point) -> None:
        """A line through points."""
        at = [(x * self.side, y * self.side) for x, y in points]
        self.pen.line(at, fill=0, width=self.width, joint="curve")

    def circle(self, centre: Point, radius: float) -> None:
        """The outline of a circle."""
        x, y, r = (value * self.side for value in (*centre, radius))
        self.pen.ellipse((x - r, y - r, x + r, y + r), outline=0, width=self.width)

    def arc(self, centre: Point, radius: float, start: float, end: float) -> None:
        """A part of a circle, from one direction to another in radians."""
        steps = [start + (end - start) * at / 8 for at in range(9)]
        x, y = centre
        self.line(*((x + radius * math.cos(at), y + radius * math.sin(at)) for at in steps))

    def write(self, centre: Point, text: str, size: float = _LETTER) -> None:
        """A text around a point, kept inside the image."""
        font = outlines(round(size * self.side))
        half = self.pen.textlength(text, font) / 2
        x = min(max(centre[0] * self.side, half + SCALE), self.side - half - SCALE)
        y = min(max(centre[1], size / 2), 1 - size / 2) * self.side
        self.pen.text((x, y), text, fill=0, font=font, anchor="mm", stroke_width=self.width // 4)


def draw(program: Program, size: int) -> Image.Image:
    """Draw a program whose points lie in the unit square; an RGB image of `size` pixels a side."""
    canvas = Canvas(size)
    # by the first of their names, so that no pixel depends on how a figure is named
    for _, name in program.polygons:
        for side in sides_of(ring(name)):
            canvas.line(*program.ends(side))
    for segment in program.segments:
        canvas.line(*program.ends(ring(segment)))
    for centre, radius in program.circles:
        canvas.circle(program.at[centre], radius)
    for kind, first, second in program.relations:
        _mark(canvas, program, kind, first, second)
    middle = _mean([point for _, point in program.points])
    for letter, point in program.points:
        canvas.write(_letter(program, letter, point, middle), letter)
    for segment, value in program.lengths:
        a, b = program.ends(ring(segment))
        canvas.write(_outside(_mean([a, b]), a, b, middle), value)
    small = canvas.image.resize((size, size), Image.Resampling.BOX)
    return small.convert("RGB")


def _letter(program: Program, letter: str, point: Point, middle: Point) -> Point:
    """Where the letter of a point is written: away from the middle of the points; that of a foot
    straight out of the figure, and that of a centre that no line reaches on it."""
    for kind, first, second in program.relations:
        if kind in LINES and first[1] == letter:
            return _outside(point, *program.ends(ring(second)), middle)
    if letter not in "".join([*program.segments, *(name for _, name in program.polygons)]):
        return point
    gap = math.dist(point, middle)
    if gap < 1e-6:
        return point[0] + _AWAY, point[1]
    return _toward(point, middle, -1.15 * _AWAY / gap)


def _mean(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _toward(a: Point, b: Point, share: float) -> Point:
    """The point at a share of the way from one to another."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])


def _unit(a: Point, b: Point) -> Point:
    """The direction from one point to another."""
    gap = math.dist(a, b) or 1.0
    return (b[0] - a[0]) / gap, (b[1] - a[1]) / gap


def _outside(point: Point, a: Point, b: Point, middle: Point) -> Point:
    """Beside a point of the segment ab, on the side that the middle is not on."""
    ux, uy = _unit(a, b)
    outward = -1 if (middle[0] - point[0]) * -uy + (middle[1] - point[1]) * ux > 0 else 1
    return point[0] - uy * outward * _AWAY, point[1] + ux * outward * _AWAY


def _mark(canvas: Canvas, program: Program, kind: str, first: str, second: str) -> None:
    """Draw the mark of a relation."""
    if kind in MARKS:
        first, second = sorted((ring(first), ring(second)))
    if kind == "parallel":
        for segment in (first, second):
            _arrow(canvas, *_upward(*program.ends(segment)))
    elif kind == "equal":
        for segment in (first, second):
            _tick(canvas, *program.ends(segment))
    elif kind == "perpendicular":
        _corner(canvas, program.ends(first), program.ends(second))
    elif kind in LINES:
        apex, foot = program.ends(first)
        a, b = program.ends(ring(second))
        if kind == "altitude":
            _square(canvas, foot, apex, _farther((a, b), foot))
        elif kind == "median":
            _tick(canvas, a, foot)
            _tick(canvas, foot, b)
        else:
            _angle(canvas, apex, a, b)


def _upward(a: Point, b: Point) -> tuple[Point, Point]:
    """The ends in a fixed order, so that arrows on parallel segments agree."""
    return (a, b) if (round(a[1], 3), a[0]) > (round(b[1], 3), b[0]) else (b, a)


def _tick(canvas: Canvas, a: Point, b: Point) -> None:
    x, y = _mean([a, b])
    ux, uy = _unit(a, b)
    canvas.line((x - uy * _MARK, y + ux * _MARK), (x + uy * _MARK, y - ux * _MARK))


def _arrow(canvas: Canvas, a: Point, b: Point) -> None:
    x, y = _toward(a, b, 0.5)
    ux, uy = _unit(a, b)
    back = (x - 1.4 * ux * _MARK, y - 1.4 * uy * _MARK)
    for turn in (-1, 1):
        wing = (back[0] - turn * uy * _MARK, back[1] + turn * ux * _MARK)
        canvas.line((x, y), wing)


def _corner(canvas: Canvas, one: tuple[Point, Point], two: tuple[Point, Point]) -> None:
    """A right angle where two segments meet: at an end that both have, or where they cross."""
    shared = [point for point in one if point in two]
    at = shared[0] if shared else meeting(one, two)
    if at is not None:
        _square(canvas, at, _farther(one, at), _farther(two, at))


def _farther(segment: tuple[Point, Point], point: Point) -> Point:
    """The end of a segment that is farther from a point."""
    return max(segment, key=lambda end: math.dist(end, point))


def _square(canvas: Canvas, corner: Point, a: Point, b: Point) -> None:
    """The small square of a right angle."""
    side = 1.8 * _MARK
    ux, uy = _unit(corner, a)
    vx, vy = _unit(corner, b)
    x, y = corner
    one = (x + side * ux, y + side * uy)
    two = (x + side * vx, y + side * vy)
    canvas.line(one, (one[0] + side * vx, one[1] + side * vy), two)


def _angle(canvas: Canvas, apex: Point, a: Point, b: Point) -> None:
    """Two arcs across an angle that is halved."""
    start, end = (math.atan2(p[1] - apex[1], p[0] - apex[0]) for p in (a, b))
    end = start + (end - start + math.pi) % (2 * math.pi) - math.pi
    for radius in (2.4 * _MARK, 3.4 * _MARK):
        canvas.arc(apex, radius, start, end)
