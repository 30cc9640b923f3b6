"""`tools`: tools of two or three parts, a hand where somebody uses them, and which part each verb
touches.

words.py   tools, parts, verbs and synonyms                 draw.py   pixels
"""

import colorsys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFilter

from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.tools.draw import Pose, at, draw, middle
from diptych.data.worlds.tools.words import (
    GROUNDS,
    PARTS,
    SETS,
    SYNONYMS,
    TOOLS,
    VERBS,
    related,
    verbs_of,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {"title": "Tools in use: which part a verb touches, with hands, parts and heat maps"}

SPLITS = ("train", "val", "test")
_BLUR = 0.04
"""The standard deviation of a heat map's blur, as a share of the side."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of tools.

    size      side in pixels, 32 to 256
    split     train, val or test, three streams that are alike
    tools     all, seen (four of them) or unseen (the other four, of the same parts in other shapes)
    verbs     all, or some joined by +
    actor     whether a hand touches the part; a second hand is always there
    astray    how often the second hand touches another part of the tool, 0 to 1; else it touches nothing
    """

    size: int = 64
    split: str = "train"
    tools: str = "all"
    verbs: str = "all"
    actor: bool = True
    astray: float = 0.0

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 256:
            raise InputError(f"size of tools is {self.size}; it must be from 32 to 256")
        if self.split not in SPLITS:
            raise unknown("split of tools", self.split, SPLITS)
        if self.tools not in SETS:
            raise unknown("tools of tools", self.tools, SETS)
        if not 0 <= self.astray <= 1:
            raise InputError(f"astray of tools is {self.astray}; it must be from 0 to 1")
        if self.astray and not self.actor:
            raise InputError(
                f"astray of tools is {self.astray}, and without an actor no hand touches a part; leave it out"
            )
        chosen = self.chosen_verbs
        for verb in chosen:
            if verb not in VERBS:
                raise unknown("verb of tools", verb, VERBS)
        for tool in SETS[self.tools]:
            if not {*chosen} & {*verbs_of(tool)}:
                raise InputError(
                    f"no verb of verbs={self.verbs} touches a {tool}; name one of {', '.join(verbs_of(tool))} too"
                )

    @property
    def chosen_verbs(self) -> tuple[str, ...]:
        """The verbs of the world."""
        return tuple(VERBS) if self.verbs == "all" else tuple(self.verbs.split("+"))


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A tool, the verb, the colours of its parts, its pose, the hands in [-1, 1], the ground and a
    private seed."""

    tool: str
    verb: str
    colours: tuple[tuple[int, int, int], ...]
    pose: Pose
    hands: tuple[tuple[float, float], ...]
    ground: int
    seed: int

    @property
    def part(self) -> str:
        """The part that the verb touches."""
        return VERBS[self.verb]


class World(_base.World[Facts]):
    """Images of tools, one verb each.

    >>> world = World(Config())
    >>> facts = world.sample(0, 0)
    >>> facts.tool, facts.verb, facts.part
    ('ladle', 'hold', 'handle')
    """

    name: ClassVar[str] = "tools"
    config: Config
    related = staticmethod(related)
    """For each verb the others that touch the same part."""
    synonyms = SYNONYMS

    def key(self, seed: int, index: int) -> str:
        """The unique key, which contains the split since each split has its own stream."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of a sample."""
        config = self.config
        rng = generator(seed, self.name, config.split, index)
        tools = SETS[config.tools]
        tool = tools[int(rng.integers(len(tools)))]
        verbs = [verb for verb in config.chosen_verbs if VERBS[verb] in TOOLS[tool]]
        # parts are drawn first, since a handle has more verbs than any other
        parts = sorted({VERBS[verb] for verb in verbs})
        part = parts[int(rng.integers(len(parts)))]
        verbs = [verb for verb in verbs if VERBS[verb] == part]
        verb = verbs[int(rng.integers(len(verbs)))]
        pose = Pose(
            x=float(rng.uniform(-0.2, 0.2)),
            y=float(rng.uniform(-0.2, 0.2)),
            angle=float(rng.uniform(0, 2 * np.pi)),
            size=float(rng.uniform(0.85, 1.15)),
        )
        touched = at(pose, *middle(tool, part))
        colours = tuple(_colour(rng) for _ in TOOLS[tool])
        second = _beside(pose, rng)
        if config.astray:  # of a stream of its own, so that all else is as without it
            own = generator(seed, self.name, config.split, index, "astray")
            if own.random() < config.astray:
                second = at(pose, *middle(tool, _other(tool, part)))
        return Facts(
            tool=tool,
            verb=verb,
            colours=colours,
            pose=pose,
            hands=(*([touched] if config.actor else []), second),
            ground=int(rng.integers(len(GROUNDS))),
            seed=int(rng.integers(2**63)),
        )

    def render(self, facts: Facts) -> Rendered:
        """The image, the parts, and where the verb touches the tool."""
        pixels, covers = draw(
            facts.tool,
            facts.colours,
            facts.pose,
            facts.hands,
            facts.ground,
            self.config.size,
            facts.seed,
        )
        parts = np.zeros(pixels.shape[:2], np.uint8)
        for part, cover in covers.items():
            parts[cover > 0.5] = PARTS.index(part) + 1
        touched = Image.fromarray(np.rint(covers[facts.part] * 255).astype(np.uint8))
        heat = touched.filter(ImageFilter.GaussianBlur(_BLUR * self.config.size))
        return Rendered(
            image=Image.fromarray(pixels), masks={"part": Image.fromarray(parts), "heat": heat}
        )

    def captions(self, facts: Facts) -> list[Text]:
        """What is there, without the verb, and the verb."""
        return [
            Text(text=f"a {facts.tool} on {GROUNDS[facts.ground]} ground"),
            Text(text=facts.verb, role="verb"),
        ]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        drawn = Drawn(self, facts)
        return Sample(
            key=key,
            source=self.name,
            images={"main": drawn.image()},
            texts=self.captions(facts),
            labels={
                "verb": tuple(VERBS).index(facts.verb),
                "object": tuple(TOOLS).index(facts.tool),
            },
            masks={name: drawn.mask(name) for name in ("part", "heat")},
        )

    def schema(self) -> Schema:
        """Images, captions and verbs, both as labels, and masks."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.verb": Field(kind="text"),
            "labels.verb": Field(kind="int", classes=tuple(VERBS)),
            "labels.object": Field(kind="int", classes=tuple(TOOLS)),
            "masks.part": Field(kind="mask", classes=("ground", *PARTS)),
            "masks.heat": Field(kind="mask"),
        }


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour that is neither pale nor of skin."""
    hue = rng.uniform(0.15, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(hue, rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.8))
    return round(255 * red), round(255 * green), round(255 * blue)


def _other(tool: str, part: str) -> str:
    """The other part of a tool that verbs touch."""
    [other] = {VERBS[verb] for verb in verbs_of(tool)} - {part}
    return other


def _beside(pose: Pose, rng: np.random.Generator) -> tuple[float, float]:
    """A place for a hand that is away from the tool."""
    side = 1 if rng.random() < 0.5 else -1
    x, y = at(pose, float(rng.uniform(-0.9, 0.9)), side * float(rng.uniform(0.95, 1.3)))
    return min(max(x, -0.85), 0.85), min(max(y, -0.85), 0.85)


__all__ = ["Config", "Facts", "World"]
