"""`pages`: printed pages of words, forms, tables and receipts, with the box of each word, and questions.

words.py    the words
layout.py   where they are on a page, and what can be asked
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.pages.layout import KINDS, Layout, least_columns
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {"title": "Printed pages of words, forms, tables and receipts, with boxes and questions"}

LETTER = (6, 11)
"""The width and the height of a letter, in pixels."""
SPLITS = ("train", "val", "test")
ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of pages.

    split       train, val or test: three streams
    kind        text, form, table or receipt; any: each of them, with equal frequency
    width       of a page in pixels
    height      of a page in pixels
    letter      height of a line in pixels, at least 6; letters are drawn at 11 and scaled
    lines       lines of a page; 0: from 2 to as many as fit
    length      letters of the values of forms and tables
    questions   most questions of a page
    """

    split: str = "train"
    kind: str = ANY
    width: int = 128
    height: int = 96
    letter: int = 11
    lines: int = 0
    length: int = 4
    questions: int = 1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A page: its kind, its words, what is asked, the greys of paper and ink, and a private seed."""

    kind: str
    layout: Layout
    asked: tuple[int, ...]
    paper: int
    ink: int
    seed: int


class World(_base.World[Facts]):
    """Pages on which no two keys are the same, so that each question has one answer.

    >>> world = World(Config(kind="form", lines=2))
    >>> facts = world.sample(0, 0)
    >>> [text.text for text in world.captions(facts)]
    ['a form of 2 lines', 'rail damo pipe gena', 'what is rail?', 'damo']
    """

    name = "pages"

    def __init__(self, config: Config):
        super().__init__(config)
        if config.split not in SPLITS:
            raise unknown("split of pages", config.split, SPLITS)
        if config.kind not in (ANY, *KINDS):
            raise unknown("kind of pages", config.kind, (ANY, *KINDS))
        for option, least in (("letter", 6), ("length", 1), ("questions", 0), ("lines", 0)):
            if (given := getattr(config, option)) < least:
                raise InputError(f"{option} of pages is {given}; it must be at least {least}")
        scale = config.letter / LETTER[1]
        self.columns = int(config.width / (LETTER[0] * scale) + 1e-9)
        self.fit = int(config.height / config.letter)
        self.kinds_drawn = tuple(KINDS) if config.kind == ANY else (config.kind,)
        needed = max(least_columns(kind, config.length) for kind in self.kinds_drawn)
        if self.columns < needed:
            raise InputError(
                f"a page of {config.width} pixels holds {self.columns} letters of {config.letter} pixels in a line, "
                f"and {config.kind} pages need {needed}; raise width, or lower letter or length"
            )
        if max(2, config.lines) > self.fit:
            raise InputError(
                f"a page of {config.height} pixels holds {self.fit} lines of {config.letter} pixels, and "
                f"{max(2, config.lines)} are asked for; raise height, or lower letter or lines"
            )

    def key(self, seed: int, index: int) -> str:
        """The unique key of the page (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of page `index` of the stream `seed` of the config's split."""
        config = self.config
        rng = generator(seed, self.name, config.split, index)
        kind = self.kinds_drawn[rng.integers(len(self.kinds_drawn))]
        lines = config.lines or int(rng.integers(2, self.fit + 1))
        layout = KINDS[kind](self.columns, lines, config.length, rng)
        asked = rng.permutation(len(layout.asked))[: config.questions]
        return Facts(
            kind=kind,
            layout=layout,
            asked=tuple(asked.tolist()),
            paper=int(rng.integers(225, 256)),
            ink=int(rng.integers(0, 70)),
            seed=int(rng.integers(2**63)),
        )

    def render(self, facts: Facts) -> Rendered:
        width, height = LETTER
        font = ImageFont.load_default_imagefont()
        page = Image.new("L", (self.columns * width, self.fit * height), facts.paper)
        pen = ImageDraw.Draw(page)
        for word in facts.layout.words:
            for at, letter in enumerate(word.text):
                place = ((word.column + at) * width, word.line * height)
                pen.text(place, letter, fill=facts.ink, font=font)
        size = self.config.width, self.config.height
        scale = self.config.letter / height
        if scale != 1:
            shape = (round(page.width * scale), round(page.height * scale))
            page = page.resize(
                shape, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
            )
        canvas = Image.new("L", size, facts.paper)
        canvas.paste(page)
        grey = np.repeat(np.asarray(canvas)[..., None], 3, axis=2)
        return Rendered(image=Image.fromarray(grey))

    def boxes(self, facts: Facts) -> list[Box]:
        """The box of each word, in reading order, with its text."""
        scale = self.config.letter / LETTER[1]
        width, height = (side * scale for side in LETTER)
        return [
            Box(
                xyxy=(
                    word.column * width,
                    word.line * height,
                    (word.column + len(word.text)) * width,
                    (word.line + 1) * height,
                ),
                text=word.text,
            )
            for word in facts.layout.words
        ]

    def captions(self, facts: Facts) -> list[Text]:
        """What the page is, its words, and the questions, each with its answer."""
        words = facts.layout.words
        lines = 1 + max(word.line for word in words)
        kind = "page of words" if facts.kind == "text" else facts.kind
        found = [
            Text(text=f"a {kind} of {lines} lines"),
            Text(text=" ".join(word.text for word in words), role="ocr"),
        ]
        for at in facts.asked:
            asked = facts.layout.asked[at]
            found.append(Text(text=asked.question, role="question"))
            found.append(Text(text=words[asked.answer].text, role="answer"))
        return found

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={"kind": tuple(KINDS).index(facts.kind)},
            boxes=self.boxes(facts),
        )

    def schema(self) -> Schema:
        """Pages, their words with boxes, and questions with answers."""
        asked = {"texts.question": Field(kind="text"), "texts.answer": Field(kind="text")}
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.ocr": Field(kind="text"),
            **(asked if self.config.questions else {}),
            "labels.kind": Field(kind="int", classes=tuple(KINDS)),
            "boxes": Field(kind="box"),
        }


__all__ = ["Config", "Facts", "World"]
