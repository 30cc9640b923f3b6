"""`paintings`: invented paintings, with the emotions that they evoke in several people, and why.

words.py   emotions, what supports them, phrases, and the affect of words
draw.py    pixels
"""

from dataclasses import dataclass
from math import exp

import numpy as np
from PIL import Image

from diptych.data.emotions import majority
from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.paintings.draw import draw
from diptych.data.worlds.paintings.words import (
    ASPECTS,
    EMOTIONS,
    FEELINGS,
    FORMS,
    PHRASES,
    REMINDERS,
    SUPPORT,
)
from diptych.errors import InputError
from diptych.rng import generator

card = {"title": "Invented paintings, with emotions that several people feel, and why"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of paintings.

    size      side of a painting in pixels, 24 to 256
    people    who say what they feel, 2 to 20; at least two of them feel different emotions
    agree     how much people agree: 0 not at all, above 5 nearly always
    """

    size: int = 64
    people: int = 4
    agree: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A painting: the value of each aspect, the emotion of each person, and a private seed."""

    palette: str
    energy: str
    composition: str
    felt: tuple[str, ...]
    seed: int

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the aspects, in their order."""
        return self.palette, self.energy, self.composition


class World(_base.World[Facts]):
    """Paintings whose palette, energy and composition speak for several emotions.

    >>> world = World(Config())
    >>> [text.text for text in world.captions(world.sample(0, 0))[:2]]
    ['excitement', 'the many small figures look joyful']
    """

    name = "paintings"

    def __init__(self, config: Config):
        super().__init__(config)
        if not 24 <= config.size <= 256:
            raise InputError(f"size of paintings is {config.size}; it must be from 24 to 256")
        if not 2 <= config.people <= 20:
            raise InputError(f"people of paintings is {config.people}; it must be from 2 to 20")
        if not 0 <= config.agree <= 20:
            raise InputError(f"agree of paintings is {config.agree}; it must be from 0 to 20")

    def sample(self, seed: int, index: int) -> Facts:
        rng = generator(seed, self.name, index)
        values = [tuple(PHRASES[aspect])[rng.integers(len(PHRASES[aspect]))] for aspect in ASPECTS]
        shares = likely(tuple(values), self.config.agree)
        felt = [EMOTIONS[at] for at in rng.choice(len(EMOTIONS), self.config.people, p=shares)]
        if len(set(felt)) == 1:  # the last one feels what is next likely
            others = [at for at, name in enumerate(EMOTIONS) if name != felt[0]]
            felt[-1] = EMOTIONS[max(others, key=lambda at: shares[at])]
        palette, energy, composition = values
        return Facts(
            palette=palette,
            energy=energy,
            composition=composition,
            felt=tuple(felt),
            seed=int(rng.integers(2**63)),
        )

    def render(self, facts: Facts) -> Rendered:
        pixels = draw(facts.palette, facts.energy, facts.composition, self.config.size, facts.seed)
        return Rendered(image=Image.fromarray(pixels))

    def captions(self, facts: Facts) -> list[Text]:
        """The emotion of each person, and behind it why it is felt."""
        rng = generator(facts.seed, "said")
        found = []
        for emotion in facts.felt:
            found.append(Text(text=emotion, role="emotion"))
            found.append(Text(text=explained(emotion, facts.values, rng), role="explanation"))
        return found

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        most = majority(facts.felt)
        values = zip(ASPECTS, facts.values, strict=True)
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={
                "majority": -1 if most is None else EMOTIONS.index(most),
                **{aspect: tuple(PHRASES[aspect]).index(value) for aspect, value in values},
            },
        )

    def schema(self) -> Schema:
        """Paintings, emotions with explanations, the emotion of most people, and the aspects."""
        return {
            "images.main": Field(kind="image"),
            "texts.emotion": Field(kind="text"),
            "texts.explanation": Field(kind="text"),
            "labels.majority": Field(kind="int", classes=EMOTIONS),
            **{
                f"labels.{aspect}": Field(kind="int", classes=tuple(PHRASES[aspect]))
                for aspect in ASPECTS
            },
        }


def likely(values: tuple[str, ...], agree: float) -> list[float]:
    """How likely each emotion is, given what is seen: the softmax of `agree` times its support.

    >>> [round(share, 2) for share in likely(("dark", "wild", "crowded"), 2.0)]
    [0.02, 0.01, 0.0, 0.08, 0.15, 0.1, 0.62, 0.01]
    """
    weights = [
        exp(agree * sum(SUPPORT[emotion].get(value, 0.0) for value in values))
        for emotion in EMOTIONS
    ]
    return [weight / sum(weights) for weight in weights]


def explained(emotion: str, values: tuple[str, ...], rng: np.random.Generator) -> str:
    """Why an emotion is felt: by one aspect, the likelier the more its value speaks for the emotion."""
    support = np.array([SUPPORT[emotion].get(value, 0.0) for value in values]) + 1e-3
    at = int(rng.choice(len(ASPECTS), p=support / support.sum()))
    seen = PHRASES[ASPECTS[at]][values[at]]
    form = FORMS[rng.integers(len(FORMS))]
    feelings = FEELINGS[emotion]
    reminders = REMINDERS[emotion]
    return form.format(
        seen=seen[rng.integers(len(seen))],
        feeling=feelings[rng.integers(len(feelings))],
        reminder=reminders[rng.integers(len(reminders))],
    )


__all__ = ["Config", "Facts", "World"]
