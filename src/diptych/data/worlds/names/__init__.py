"""`names`: crops of printed names of invented firms, each with the text that was read in it.

words.py   stems, trades, forms, abbreviations, and errors of reading
draw.py    pixels
"""

from dataclasses import dataclass

from PIL import Image

from diptych.data.sample import Field, Sample, Schema, Text
from diptych.data.worlds import _base
from diptych.data.worlds._base import Drawn, Rendered
from diptych.data.worlds.names.draw import FACES, Print, draw
from diptych.data.worlds.names.words import (
    FORMS,
    REMAINDERS,
    TRADES,
    families,
    misread,
    stem_of,
)
from diptych.errors import InputError, unknown
from diptych.rng import generator

card = {"title": "Crops of printed names of firms, with texts that were read with errors"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of names.

    split      train, val or test: three streams without a common stem
    size       width of a crop in pixels, 32 to 256
    records    records of each firm, at least 2
    singles    share of firms that have one record, in blocks of as many records
    twins      share of pairs of firms whose names differ in one letter, by one that looks alike
    errors     share of letters that are read wrongly
    damage     share of crops with a blot over a letter of the stem
    faces      how many of the nine faces names are printed in, the first ones
    turn       most degrees that a crop is turned by, either way
    """

    split: str = "train"
    size: int = 64
    records: int = 4
    singles: float = 0.2
    twins: float = 0.5
    errors: float = 0.25
    damage: float = 0.3
    faces: int = len(FACES)
    turn: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A record: the number of its firm, which is that of the firm's first record; the words of the
    name; whether trade and form are abbreviated; the print; and a private seed."""

    entity: int
    stem: str
    trade: int
    form: int
    short: tuple[bool, bool]
    print: Print
    seed: int

    @property
    def name(self) -> str:
        """The whole name, without abbreviations."""
        return f"{self.stem} {TRADES[self.trade][0]} {FORMS[self.form][0]}"

    @property
    def lines(self) -> tuple[str, str]:
        """The two lines as they are printed."""
        trade, form = self.short
        return self.stem, f"{TRADES[self.trade][trade]} {FORMS[self.form][form]}"


class World(_base.World[Facts]):
    """Crops with texts; errors of reading and damage of crops are independent.

    >>> world = World(Config())
    >>> facts = world.sample(0, 0)
    >>> facts.name, world.captions(facts)[0].text
    ('niyoya insurance company', 'niy0ya ins empany')
    """

    name = "names"

    def __init__(self, config: Config):
        super().__init__(config)
        if config.split not in REMAINDERS:
            raise unknown("split of names", config.split, REMAINDERS)
        if not 32 <= config.size <= 256:
            raise InputError(f"size of names is {config.size}; it must be from 32 to 256")
        if config.records < 2:
            raise InputError(f"records of names is {config.records}; a firm has 2 at least")
        if not 1 <= config.faces <= len(FACES):
            raise InputError(f"faces of names is {config.faces}; there are {len(FACES)}")
        for option in ("singles", "twins", "errors", "damage"):
            if not 0 <= (share := getattr(config, option)) <= 1:
                raise InputError(f"{option} of names is {share}; it is a share, from 0 to 1")

    def key(self, seed: int, index: int) -> str:
        """The unique key of the record (seed, index)."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Facts:
        """The facts of record `index` of the stream `seed` of the config's split."""
        block, _ = divmod(index, self.config.records)
        entity = index if self._single(seed, block) else block * self.config.records
        stem, trade, form = self._firm(seed, block, entity)
        rng = generator(seed, self.name, self.config.split, "record", index)
        return Facts(
            entity=entity,
            stem=stem,
            trade=trade,
            form=form,
            short=(bool(rng.random() < 0.5), bool(rng.random() < 0.5)),
            print=Print(
                face=int(rng.integers(self.config.faces)),
                turn=float(rng.uniform(-1, 1)) * self.config.turn,
                paper=int(rng.integers(190, 250)),
                ink=int(rng.integers(0, 90)),
                blur=float(rng.uniform(0, 1.2)),
                blot=int(rng.integers(len(stem))) if rng.random() < self.config.damage else -1,
            ),
            seed=int(rng.integers(2**63)),
        )

    def _single(self, seed: int, block: int) -> bool:
        """Whether each record of a block is of a firm of its own."""
        rng = generator(seed, self.name, self.config.split, "single", block)
        return bool(rng.random() < self.config.singles)

    def _firm(self, seed: int, block: int, entity: int) -> tuple[str, int, int]:
        """The stem, the trade and the form of a firm; those of a twin are of the firm before it, but
        for a letter."""
        split = self.config.split
        even = block - block % 2
        pair = generator(seed, self.name, split, "pair", even)
        twins = bool(pair.random() < self.config.twins)
        place = int(pair.integers(3))
        alike = twins and not self._single(seed, even) and not self._single(seed, even + 1)
        family = even * self.config.records if alike else entity
        rng = generator(seed, self.name, split, "firm", family)
        sides = [int(rng.integers(2)) for _ in range(3)]
        if alike and block > even:
            sides[place] = 1 - sides[place]
        # families begin anew after the last one, with another trade
        trade = (int(rng.integers(len(TRADES))) + family // families(split)) % len(TRADES)
        stem = stem_of(seed, split, family, (sides[0], sides[1], sides[2]))
        return stem, trade, int(rng.integers(len(FORMS)))

    def render(self, facts: Facts) -> Rendered:
        pixels = draw(facts.lines, facts.print, self.config.size, facts.seed)
        return Rendered(image=Image.fromarray(pixels))

    def captions(self, facts: Facts) -> list[Text]:
        """What was read, what is printed, and the whole name."""
        printed = " ".join(facts.lines)
        read = misread(printed, self.config.errors, generator(facts.seed, "read"))
        return [
            Text(text=read or printed),
            Text(text=printed, role="printed"),
            Text(text=facts.name, role="name"),
        ]

    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""
        return Sample(
            key=key,
            source=self.name,
            images={"main": Drawn(self, facts).image()},
            texts=self.captions(facts),
            labels={"entity": facts.entity},
        )

    def schema(self) -> Schema:
        """Crops, the texts of three roles, and the firm."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.printed": Field(kind="text"),
            "texts.name": Field(kind="text"),
            "labels.entity": Field(kind="int"),
        }


__all__ = ["Config", "Facts", "World"]
