"""Diagram programs: what a figure is drawn from, and the facts that it states.

Dimensions: coordinates are in any unit, y downwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from diptych.errors import InputError

Point = tuple[float, float]
Fact = tuple[object, ...]

LINES = ("altitude", "median", "bisector")
"""Relations of a segment from a corner to the opposite side of a triangle."""
CIRCLES = ("inscribed", "circumscribed")
"""Relations of a circle, given by its centre, to a polygon."""
MARKS = ("parallel", "equal", "perpendicular")
"""Relations of two segments."""
RELATIONS = (*MARKS, *LINES, *CIRCLES)


def ring(name: str) -> str:
    """Return the first in the alphabet of the names of a polygon: it may be read from any corner, in
    both directions. So a triangle, and a segment, have one figure for all orders of their letters.

    >>> ring("CDAB"), ring("DCBA"), ring("ACBD"), ring("BA")
    ('ABCD', 'ABCD', 'ACBD', 'AB')
    """
    turns = [name[at:] + name[:at] for at in range(len(name))]
    return min(turns + [turn[::-1] for turn in turns])


def other_orders(name: str) -> list[str]:
    """Return the orders of a polygon's letters that name another figure: 16 of the 24 of a
    quadrilateral, none of a triangle or a segment.

    >>> len(other_orders("ABCD")), other_orders("ABC")
    (16, [])
    """
    from itertools import permutations

    orders = ("".join(order) for order in permutations(name))
    return [order for order in orders if ring(order) != ring(name)]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is drawn: `points` by letter, `polygons` (shape, name), further `segments`, `circles`
    (centre, radius), `lengths` (segment, what is written beside it) and `relations` (kind, first,
    second), each drawn with its usual mark.

    Raises InputError for a point that is not there, an unknown relation, and for a polygon whose
    sides cross.

    >>> square = {"A": (0, 0), "B": (1, 0), "C": (1, 1), "D": (0, 1)}
    >>> program = Program.of(square, polygons=[("square", "ABCD")], lengths=[("BA", "5")])
    >>> sorted(program.facts)
    [('length', 'AB', '5'), ('polygon', 'square', 'ABCD')]
    >>> Program.of(square, polygons=[("square", "ACBD")])
    Traceback (most recent call last):
        ...
    diptych.errors.InputError: the sides AC and BD of polygon ACBD cross; name its corners in their order around it
    """

    points: tuple[tuple[str, Point], ...]
    polygons: tuple[tuple[str, str], ...] = ()
    segments: tuple[str, ...] = ()
    circles: tuple[tuple[str, float], ...] = ()
    lengths: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of(
        cls,
        points: Mapping[str, Sequence[float]],
        *,
        polygons: Iterable[Sequence[str]] = (),
        segments: Iterable[str] = (),
        circles: Mapping[str, float] | None = None,
        lengths: Iterable[Sequence[str]] = (),
        relations: Iterable[Sequence[str]] = (),
    ) -> "Program":
        """Return the program of plain values, such as those of a JSON file."""
        return cls(
            points=tuple((name, (float(x), float(y))) for name, (x, y) in points.items()),
            polygons=tuple((shape, name) for shape, name in polygons),
            segments=tuple(segments),
            circles=tuple((centre, float(radius)) for centre, radius in (circles or {}).items()),
            lengths=tuple((segment, str(value)) for segment, value in lengths),
            relations=tuple((kind, first, second) for kind, first, second in relations),
        )

    def __post_init__(self) -> None:
        named = [name for _, name in self.polygons]
        used = [*named, *self.segments, *(centre for centre, _ in self.circles)]
        used += [segment for segment, _ in self.lengths]
        for kind, first, second in self.relations:
            if kind not in RELATIONS:
                raise InputError(
                    f"a diagram program has the relation {kind!r}; it must be one of {', '.join(RELATIONS)}"
                )
            used += [first, second]
        for letter in "".join(used):
            if letter not in self.at:
                raise InputError(
                    f"a diagram program names {letter!r} and has the points {', '.join(self.at) or 'none'}; "
                    "give each point its place"
                )
        for name in named:
            self._refuse_crossing(name)

    def _refuse_crossing(self, name: str) -> None:
        sides = sides_of(name)
        for one, two in combinations(sides, 2):
            if not set(one) & set(two) and crosses(self.ends(one), self.ends(two)):
                raise InputError(
                    f"the sides {one} and {two} of polygon {name} cross; name its corners in their order around it"
                )

    @cached_property
    def at(self) -> dict[str, Point]:
        """The place of each point."""
        return dict(self.points)

    def ends(self, segment: str) -> tuple[Point, Point]:
        """The ends of a segment."""
        return self.at[segment[0]], self.at[segment[1]]

    @cached_property
    def facts(self) -> frozenset[Fact]:
        """What the caption states, the same for all names of a polygon or segment: polygons, lengths
        and relations; of a program without them the segments and circles."""
        found: set[Fact] = {("polygon", shape, ring(name)) for shape, name in self.polygons}
        found |= {("length", ring(segment), value) for segment, value in self.lengths}
        found |= {relation(*each) for each in self.relations}
        plain: set[Fact] = {("segment", ring(segment)) for segment in self.segments}
        plain |= {("circle", centre) for centre, _ in self.circles}
        return frozenset(found or plain)


def relation(kind: str, first: str, second: str) -> Fact:
    """A relation as a fact; those of two segments have no direction."""
    pair = (ring(first), ring(second))
    return (kind, *(sorted(pair) if kind in MARKS else pair))


def sides_of(name: str) -> list[str]:
    """Return the sides of a polygon.

    >>> sides_of("ABC")
    ['AB', 'BC', 'CA']
    """
    return [name[at] + name[(at + 1) % len(name)] for at in range(len(name))]


def meeting(one: tuple[Point, Point], two: tuple[Point, Point]) -> Point | None:
    """Return the point that the lines through two segments share; None if they are parallel.

    >>> meeting(((0, 0), (1, 1)), ((0, 4), (4, 0)))
    (2.0, 2.0)
    """
    (ax, ay), (px, py) = one
    (bx, by), (qx, qy) = two
    across = (px - ax) * (qy - by) - (py - ay) * (qx - bx)
    if abs(across) < 1e-9:
        return None
    share = ((bx - ax) * (qy - by) - (by - ay) * (qx - bx)) / across
    return ax + share * (px - ax), ay + share * (py - ay)


def crosses(one: tuple[Point, Point], two: tuple[Point, Point]) -> bool:
    """Whether two segments have a point in common."""

    def side(of: tuple[Point, Point], point: Point) -> float:
        (ax, ay), (bx, by) = of
        return (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)

    apart = [side(a, b[0]) * side(a, b[1]) for a, b in ((one, two), (two, one))]
    return all(product <= 0 for product in apart) and any(side(one, point) != 0 for point in two)
