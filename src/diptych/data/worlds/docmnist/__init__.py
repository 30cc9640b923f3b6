"""`docmnist`: pages of handwritten digits with colours and shapes, and a text that names all of it.

A page has up to nine cells. Each has a digit and a colour, and some have a shape and its size. The
number of (cell, attribute) pairs of a page is its complexity. The text tells the attributes and not
where they are. Source: Varma et al. 2023 (ViLLA), with the digits of scikit-learn in place of MNIST's.

words.py   attributes and sentences
draw.py    pixels
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.docmnist.draw import CELL, CORNERS, SHARES, SIDE, box, cell, digits
from diptych.data.worlds.docmnist.words import (
    ATTRIBUTES,
    COLOURS,
    DIGITS,
    SHAPES,
    SIZES,
    sentence,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {
    "title": "Pages of handwritten digits with colours and shapes, and texts that name all of it"
}

LEAST = 4
"""The pairs of a cell with a shape."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of docmnist.

    split        train, val or test: three streams whose digits are different images
    complexity   most pairs of a region and an attribute on a page, 4 to 36
    """

    split: str = "train"
    complexity: int = 16


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a page: its place, 0 to 8 row by row; the digit, and which of its images; the colour;
    the shape and its size, "" for none; and the corner that the shape is drawn from."""

    place: int
    digit: int
    image: int
    colour: str
    shape: str
    size: str
    corner: tuple[int, int]

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of its attributes: two, or four with a shape."""
        shape = (self.shape, self.size) if self.shape else ()
        return (DIGITS[self.digit], self.colour, *shape)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A page: its cells, and the seed of its text."""

    cells: tuple[Cell, ...]
    seed: int

    @property
    def pairs(self) -> int:
        """The complexity: how many pairs of a cell and an attribute there are."""
        return sum(len(each.attributes) for each in self.cells)


class World(_base.World[Facts]):
    """Pages to which cells are added until the next one would exceed the complexity.

    >>> world = World(Config(complexity=4))
    >>> facts = world.sample(0, 0)
    >>> facts.cells[0].attributes, facts.pairs
    (('six', 'red'), 2)
    """

    name = "docmnist"

    def __init__(self, config: Config):
        super().__init__(config)
        if config.split not in SHARES:
            raise unknown("split of docmnist", config.split, SHARES)
        most = LEAST * SIDE**2
        if not LEAST <= config.complexity <= most:
            raise InputError(
                f"complexity of docmnist is {config.complexity}; it must be from {LEAST}, the pairs of a digit with a "
                f"shape, to {most}"
            )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many images there are of each digit."""
        return tuple(len(images) for images in digits(self.config.split))

    def key(self, seed: int, index: int) -> str:
        """The unique key of the page (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of page `index` of the stream `seed` of the config's split."""
        rng = generator(seed, self.name, self.config.split, index)
        private = int(rng.integers(2**63))
        cells: list[Cell] = []
        pairs = 0
        for place in rng.permutation(SIDE**2).tolist():
            drawn = self._cell(place, rng)
            pairs += len(drawn.attributes)
            if pairs > self.config.complexity:
                break
            cells.append(drawn)
        return Facts(cells=tuple(cells), seed=private)

    def _cell(self, place: int, rng: np.random.Generator) -> Cell:
        digit = int(rng.integers(len(DIGITS)))
        shape = ("", *SHAPES)[rng.integers(1 + len(SHAPES))]
        low, high = CORNERS
        return Cell(
            place=place,
            digit=digit,
            image=int(rng.integers(self.counts[digit])),
            colour=COLOURS[rng.integers(len(COLOURS))],
            shape=shape,
            size=SIZES[rng.integers(len(SIZES))] if shape else "",
            corner=(int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))),
        )

    def within(self, budget: int, seed: int = 0) -> int:
        """The number of pages of a stream whose pairs together are at most `budget`.

        >>> [World(Config(complexity=most)).within(1000) for most in (4, 16)]
        [285, 65]
        """
        pages = 0
        while (budget := budget - self.sample(seed, pages).pairs) >= 0:
            pages += 1
        return pages

    def render(self, facts: Facts) -> Rendered:
        page = np.zeros((CELL * SIDE, CELL * SIDE, 3), np.uint8)
        for each in facts.cells:
            x0, y0, x1, y1 = (int(side) for side in box(each.place))
            grey = digits(self.config.split)[each.digit][each.image]
            page[y0:y1, x0:x1] = cell(grey, each.colour, each.shape, each.size, each.corner)
        return Rendered(image=Image.fromarray(page))

    def captions(self, facts: Facts) -> list[Text]:
        """A sentence for each pair, in any order, each once."""
        rng = generator(facts.seed, "caption")
        said = [sentence(name, rng) for each in facts.cells for name in each.attributes]
        different = list(dict.fromkeys(said))
        return [Text(text=" . ".join(rng.permutation(different).tolist()))]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={"pairs": facts.pairs},
            boxes=[
                Box(xyxy=box(each.place), text=", ".join(each.attributes), label=each.digit)
                for each in facts.cells
            ],
        )

    def schema(self) -> Schema:
        """Pages, their texts and complexities, and the cells; the class of a cell is its digit, its
        text names all of its attributes."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "labels.pairs": Field(kind="int"),
            "boxes": Field(kind="box", classes=ATTRIBUTES),
        }


__all__ = ["ATTRIBUTES", "Cell", "Config", "Facts", "World"]
