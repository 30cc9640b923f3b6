"""`tiles`: satellite tiles of invented cities, captions of what is seen on them, and indicators.

plan.py   places, blocks, and what a city is like at a place
draw.py   pixels
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.tiles.draw import SEASONS, Counts, draw
from diptych.data.worlds.tiles.plan import BLOCK, BLOCKS, SPLITS, place_of, properties
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {"title": "Satellite tiles of invented cities, with captions and indicators of each place"}

ASPECTS = ("buildings", "works", "roads", "green", "water")
"""What captions tell."""
INDICATORS = ("carbon", "population", "gdp")
_ROADS = 4
_MOST = {"buildings": 24, "works": 3, "trees": 40}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of tiles.

    split     train, val or test: blocks of 8 x 8 tiles that are apart
    city      which city, from 1; each has another map
    size      side of a tile in pixels, 24 to 256
    wrong     share of the aspects of a caption that are wrong
    less      an aspect that captions leave out: buildings, works, roads, green or water
    noise     standard deviation of what an indicator has beside the place's properties
    light     most by which light varies, as a share
    """

    split: str = "train"
    city: int = 1
    size: int = 64
    wrong: float = 0.0
    less: str = ""
    noise: float = 0.1
    light: float = 0.4


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A tile: its block, place and properties, what is drawn, the season and the light, the indicators,
    and a private seed."""

    block: int
    place: tuple[int, int]
    density: float
    industry: float
    green: float
    water: float
    counts: Counts
    season: str
    light: float
    indicators: tuple[float, ...]
    seed: int


class World(_base.World[Facts]):
    """Tiles whose neighbours are alike, with indicators that are smooth functions of what is there.

    >>> world = World(Config())
    >>> facts = world.sample(0, 0)
    >>> world.captions(facts)[0].text
    'a few buildings, large works, several roads, a wood and no water'
    """

    name = "tiles"

    def __init__(self, config: Config):
        super().__init__(config)
        if config.split not in SPLITS:
            raise unknown("split of tiles", config.split, SPLITS)
        if config.less and config.less not in ASPECTS:
            raise unknown("aspect of tiles to leave out", config.less, ASPECTS)
        if not 24 <= config.size <= 256:
            raise InputError(f"size of tiles is {config.size}; it must be from 24 to 256")
        if config.city < 1:
            raise InputError(f"city of tiles is {config.city}; cities are numbered from 1")
        for option in ("wrong", "light"):
            if not 0 <= (share := getattr(config, option)) <= 1:
                raise InputError(f"{option} of tiles is {share}; it is a share, from 0 to 1")
        if config.noise < 0:
            raise InputError(f"noise of tiles is {config.noise}; it must be at least 0")

    def key(self, seed: int, index: int) -> str:
        """The unique key of the tile (seed, index): its city and its place."""
        _, (x, y) = self._place(index)
        return f"{self.config.city}-{seed}_{x}_{y}"

    def _place(self, index: int) -> tuple[int, tuple[int, int]]:
        block, place = place_of(self.config.split, index)
        if block >= BLOCKS**2:
            raise InputError(
                f"a city of tiles has {BLOCKS**2 * BLOCK**2:,} tiles, of which the split {self.config.split} has no "
                f"number {index:,}; lower count, or take another city"
            )
        return block, place

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of tile `index` of the split, of the city of the stream `seed`."""
        config = self.config
        block, place = self._place(index)
        there = properties(seed, config.city, place)
        rng = generator(seed, self.name, config.city, *place)
        counts = Counts(
            buildings=int(rng.poisson(_MOST["buildings"] * there["density"])),
            works=int(rng.binomial(_MOST["works"], there["industry"])),
            trees=int(rng.poisson(_MOST["trees"] * there["green"])),
            roads=int(rng.binomial(_ROADS, 0.15 + 0.7 * there["density"])),
            water=_width(there["water"]),
        )
        return Facts(
            block=block,
            place=place,
            **there,
            counts=counts,
            season=tuple(SEASONS)[rng.integers(len(SEASONS))],
            light=float(1 + rng.uniform(-1, 1) * config.light),
            indicators=tuple(
                value + config.noise * float(rng.normal()) for value in indicators(there)
            ),
            seed=int(rng.integers(2**63)),
        )

    def render(self, facts: Facts) -> Rendered:
        pixels = draw(facts.counts, facts.season, facts.light, self.config.size, facts.seed)
        return Rendered(image=Image.fromarray(pixels))

    def captions(self, facts: Facts) -> list[Text]:
        """What is seen: how much there is of each aspect, some of it wrong if the config says so."""
        config = self.config
        rng = generator(facts.seed, "caption")
        parts = []
        for aspect in ASPECTS:
            phrases = _PHRASES[aspect]
            right = _degree(aspect, facts.counts)
            wrong = rng.random() < config.wrong
            other = (right + 1 + int(rng.integers(len(phrases) - 1))) % len(phrases)
            if aspect != config.less:
                parts.append(phrases[other if wrong else right])
        return [Text(text=f"{', '.join(parts[:-1])} and {parts[-1]}")]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        labels: dict[str, Any] = dict(zip(INDICATORS, facts.indicators, strict=True))
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={**labels, "block": facts.block},
            arrays={"place": np.array(facts.place, np.float32)},
        )

    def schema(self) -> Schema:
        """Tiles, captions, indicators, the block and the place."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            **{f"labels.{name}": Field(kind="float") for name in INDICATORS},
            "labels.block": Field(kind="int"),
            "arrays.place": Field(kind="array"),
        }


_PHRASES = {
    "buildings": ("hardly any building", "a few buildings", "many buildings", "a dense town"),
    "works": ("no works", "some works", "large works"),
    "roads": ("no road", "a road", "several roads"),
    "green": ("bare ground", "a few trees", "many trees", "a wood"),
    "water": ("no water", "a stream", "a wide river"),
}
"""What captions say, from nothing to much."""


def _degree(aspect: str, counts: Counts) -> int:
    """The number of the right phrase of an aspect."""
    match aspect:
        case "buildings":
            bounds = (2, 9, 17)
            value = float(counts.buildings)
        case "works":
            bounds = (1, 2)
            value = float(counts.works)
        case "roads":
            bounds = (1, 2)
            value = float(counts.roads)
        case "green":
            bounds = (3, 14, 28)
            value = float(counts.trees)
        case _:
            bounds = (0.01, 0.12)
            value = counts.water
    return sum(value >= bound for bound in bounds)


def _width(share: float) -> float:
    """The width of the water of a tile, 0 where there is little."""
    return 0.0 if share < 0.5 else 0.04 + 0.3 * (share - 0.5)


def indicators(there: dict[str, float]) -> tuple[float, ...]:
    """Carbon, population and product of a place, smooth functions of its properties, of about unit
    variance."""
    density = there["density"]
    industry = there["industry"]
    return (
        1.6 * density + 1.9 * industry - 1.2 * there["green"],
        2.4 * density * (1 - 0.6 * industry) - 0.8 * there["water"],
        1.4 * sqrt(density) + 1.5 * industry * density + 0.4 * there["water"],
    )


__all__ = ["Config", "Facts", "World"]
