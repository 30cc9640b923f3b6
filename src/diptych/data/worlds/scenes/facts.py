"""The facts of a scene as frozen dataclasses, and the random draws that generate them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from diptych.rng import generator

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One drawn object. Lengths are fractions of the image's side, depth runs from 0 (near) to 1
    (the ground)."""

    id: int
    design: str  # "" for a plain shape
    place: str  # the quadrant of the image with its centre
    x: float
    y: float
    side: float  # the longer side of its outline
    depth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One or several equal objects: a concept with a colour ("": the drawing's own), a texture and
    a size."""

    concept: str
    colour: str
    texture: str
    size: str
    items: tuple[Item, ...]
    described: bool = True  # whether captions describe it
    foreign: bool = False  # a distractor, of no class

    @property
    def count(self) -> int:
        return len(self.items)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(item.id for item in self.items)

    @property
    def place(self) -> str:
        """The place of a single object; "" for several."""
        return self.items[0].place if len(self.items) == 1 else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The minimal edit that produced a scene: its `kind`, the concepts it is about, the new value
    or phrase."""

    kind: str
    about: tuple[str, ...]
    value: str = ""
    aspect: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """What happens in a clip: an `action` of the thing with index `about`, as it is `before` and
    `after` (None: not there).

    `when` is the share of the clip after which a thing is there, gone or of another colour.
    """

    action: str
    about: int
    before: Thing | None
    after: Thing | None
    when: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All facts of one image and its texts. `things[0]` is the subject: the largest object, or the
    only kind.

    `seed` determines the wording of texts. `reported` is the scene that a noisy caption describes
    instead of this one. `before` and `change` are the origin of an edited scene; `pages` are the
    further images of a document.
    """

    seed: int
    number: int  # of the scene in its stream; equal where a pool repeats
    things: tuple[Thing, ...]
    style: str
    ground: str
    palette: str
    rendering: str
    lexicon: int
    tile: tuple[int, float, float]  # the variant of the ground, and its offset
    easy: str = ""  # colour of the frame
    hard: str = ""  # direction of the lines
    salient: str = ""  # the shape stamped on the image
    noise: str = ""
    reported: "Scene | None" = None
    before: "Scene | None" = None
    change: Change | None = None
    member: int = 0  # which of its siblings
    pages: "tuple[Scene, ...]" = ()
    word: str = ""  # a new word for the subject, in a document
    film: Film | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """All objects, by id."""
        return tuple(
            sorted(
                (item for thing in self.things for item in thing.items), key=lambda item: item.id
            )
        )

    @property
    def known(self) -> tuple[Thing, ...]:
        """All things except distractors."""
        return tuple(thing for thing in self.things if not thing.foreign)

    def with_thing(self, at: int, **changes: object) -> "Scene":
        """The scene with thing `at` changed."""
        things = list(self.things)
        things[at] = replace(things[at], **changes)  # type: ignore[arg-type]
        return replace(self, things=tuple(things))


class Lot:
    """A sequence of random draws from a seed and a key.

    >>> Lot(0, "x").pick("abc") == Lot(0, "x").pick("abc")
    True
    """

    def __init__(self, seed: int, *key: int | str):
        self._values = self._draw(generator(seed, *key))

    @staticmethod
    def _draw(rng: np.random.Generator) -> Iterator[float]:
        while True:
            yield from rng.random(64).tolist()

    def share(self) -> float:
        """Uniform in [0, 1)."""
        return next(self._values)

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return next(self._values) < share

    def below(self, count: int) -> int:
        """One of 0 … count - 1."""
        return int(next(self._values) * count)

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * next(self._values)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(next(self._values) * len(options))]

    def order(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        return [
            options[at] for _, at in sorted((next(self._values), at) for at in range(len(options)))
        ]
