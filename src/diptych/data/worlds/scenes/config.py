"""The options of scenes, validated on construction."""

from dataclasses import dataclass, fields
from functools import cached_property

from diptych.data.drawings import DESIGNS, HELD_OUT
from diptych.data.worlds.scenes.words import (
    COLOURS,
    NUMBERS,
    REGISTERS,
    RESERVED_STYLES,
    STYLES,
)
from diptych.errors import InputError, unknown
from diptych.spec import several

SPLITS = ("train", "val", "test", "unseen", "novel")
NOISES = ("swap", "boilerplate", "junk", "drop", "wrong")
LONG = ("facts", "objects")
PAIRS = ("graded",)
STAMPS = ("middle", "anywhere")
EDITS = ("swap", "replace", "add", "remove", "recolour", "move")
SIGNAL = "signal"  # an edit of the faint lines, which not all scenes have
ASKED = ("number", "there", "colour", "texture", "size", "place", "ground", "stamp")
ROLES = (
    "caption",
    "paraphrase",
    "web",
    "synthetic",
    "long",
    "question",
    "statement",
    "hypothesis",
)  # question includes answer
COMPARISON = "comparison"  # a role of documents, whose statements are questions with answers
RESERVED = (
    "rabbit",
    "owl",
    "octopus",
    "snake",
    "tulip",
    "strawberry",
    "rocket",
    "motorcycle",
    "violin",
    "anchor",
)
MOST = len(NUMBERS) - 1  # objects that a caption can count


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of scenes; several values of an option are joined by `+`.

    What is in an image
        size         side in pixels, 32 to 224
        number       objects in an image: `2`, `1-4` or `1+3` (at most 8), with equal frequency
        same         share of images of several objects in which all have one kind, size, colour and texture
        objects      the concepts: `common` (20 glyph concepts), `shapes` (8), `all`, or names
        designs      designs of drawings: noto, fluent-flat, emojione, twemoji; twemoji only if it is named
        colours      which of the eight, or `all`
        tinted       share of objects that have a colour; the others keep those of their drawing
        bias         probability that an object has the usual colour of its concept; none: no colour is usual
        occlusion    share of images of 2 to 4 objects in which one partly hides another
        described    number of kinds of objects that captions describe; 0: all. The others are clutter
        distractors  number of further small objects of foreign classes, which only boxes and masks include
    What is held out
        split        train, val (alike), test (also held-out combinations), unseen (only those), novel (reserved)
        held_out     share of all colour-object and object-place pairs that never occur in train and val
        reserved     objects that occur only in the split novel
    Style
        styles       domains: names, `seen` (all but the two reserved ones) or `all`
        overlap      share of a domain's parts (ground, palette, rendering, lexicon) that come from any domain
    Texts
        texts        roles of texts, or `all`; `comparison`, a statement about the two images of a document, only if
                     it is named. It is a question, its answer is true or false, and so is the label `true`. Captions
                     in a register, `egocentric` and `uplifting`, only if they are named
        long         content of each sentence of a long text: `facts` (one) or `objects` (all of one object)
        asks         kinds of facts that questions are about (number, there, colour, …), or `all`
        drop         share of facts that captions and paraphrases leave out; 0 with edits, siblings or pairs
        noise        rates by kind for captions and web texts, such as `swap=0.1+junk=0.05`
        pair         "graded": a second caption, of role pair, that shares 0 to all facts with the first, each number
                     with equal frequency; the share is the label `similarity`. Captions then leave nothing out
    Variants of an image
        edits        kinds of minimal edits of each sample, or `all`; `signal`, other faint lines, only if it is
                     named
        siblings     samples i*n … i*n+n-1 are one scene and n-1 edits of it
        pool         number of different scenes, which further samples repeat in order; 0: no limit
        pages        scenes in a document: `1`, `2`, `3` or `2-3`
        film         frames of a clip in which one object moves, appears, disappears, grows, shrinks or changes
                     colour; 0: images. The label `action` tells which, and so does the caption. The image is then the
                     first frame or the last, all objects differ, and there are no edits, siblings, pages, pairs and
                     noise
    Signals laid over the image
        easy, hard   strength, 0 to 1, of a coloured frame and of faint lines in one of four directions
        overlay      share of images stamped with a pale shape
        stamp        in the `middle`, or `anywhere`: in a corner, with a third to two thirds of the side. Corner and
                     share of the side are then the labels `stamp_place` and `stamp_size`
    """

    size: int = 64
    number: str | int = "1-4"
    same: float = 0.5
    objects: str = "common"
    designs: str = "+".join(design for design in DESIGNS if design != HELD_OUT)
    colours: str = "all"
    tinted: float = 1.0
    bias: float | None = None
    occlusion: float = 0.2
    described: int = 0
    distractors: int = 0
    split: str = "train"
    held_out: float = 0.2
    reserved: str = "+".join(RESERVED)
    styles: str = "plain"
    overlap: float = 0.0
    texts: str = "all"
    long: str = "facts"
    asks: str = "all"
    drop: float = 0.2
    noise: str = ""
    pair: str = ""
    edits: str = ""
    siblings: int = 1
    pool: int = 0
    pages: str | int = 1
    film: int = 0
    easy: float = 0.0
    hard: float = 0.0
    overlay: float = 0.0
    stamp: str = "middle"

    def __post_init__(self) -> None:
        for option, least, most in (
            ("size", 32, 224),
            ("described", 0, MOST),
            ("distractors", 0, 6),
            ("siblings", 1, 24),
            ("pool", 0, None),
            ("film", 0, 64),
        ):
            value = getattr(self, option)
            if value < least or (most is not None and value > most):
                wanted = f"{least} to {most}" if most is not None else f"{least} or more"
                raise InputError(
                    f"option {option!r} of world 'scenes' is {value}; it must be {wanted}"
                )
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type not in (float, float | None) or value is None:
                continue
            most = 0.5 if item.name == "held_out" else 1
            if not 0 <= value <= most:
                raise InputError(
                    f"option {item.name!r} of world 'scenes' is {value}; it must be 0 to {most}"
                )
        if self.long not in LONG:
            raise unknown("kind of long texts of scenes", self.long, LONG)
        if SIGNAL in self.kinds and not self.hard:
            raise InputError(
                "world 'scenes': the edit signal changes the faint lines, and there are none; give hard=0.5"
            )
        if self.pair not in (*PAIRS, ""):
            raise unknown("pair of scenes", self.pair, PAIRS)
        if self.pair and (self.noise or max(self.lengths) > 1):
            raise InputError(
                "world 'scenes': pair=graded compares captions that say what is there; leave out noise and pages"
            )
        if self.bias is not None and (self.film or self.pair or self.split == "unseen"):
            raise InputError(
                "world 'scenes': films, pair=graded and split=unseen set colours of their own; leave out bias, or these"
            )
        if "stamp" in self.asked and self.asks != "all" and not self.overlay:
            raise InputError(
                "world 'scenes': asks=stamp is about images with a stamp; give their share, such as overlay=0.5"
            )
        if self.stamp not in STAMPS:
            raise unknown("stamp of scenes", self.stamp, STAMPS)
        if self.stamp == "anywhere" and not self.overlay:
            raise InputError(
                "world 'scenes': stamp=anywhere is about images with a stamp; give their share, such as overlay=0.5"
            )
        if self.split not in SPLITS:
            raise unknown("split of scenes", self.split, SPLITS)
        if max(self.lengths) > 1 and (self.siblings > 1 or self.edits):
            raise InputError(
                "world 'scenes': documents have no edits and no siblings; give pages=1, or neither of them"
            )
        if COMPARISON in self.roles and min(self.lengths) == 1:
            raise InputError(
                "world 'scenes': texts=comparison compares two images; give pages=2, or leave it out"
            )
        if {COMPARISON, "question"} <= {*self.roles}:
            raise InputError(
                "world 'scenes': statements of texts=comparison are questions; leave out the other questions"
            )
        if self.film == 1:
            raise InputError(
                "option 'film' of world 'scenes' is 1; one frame shows no action, give 2 or more"
            )
        if self.film and (self.edits or self.siblings > 1 or self.noise or self.pair):
            raise InputError(
                "world 'scenes': a film has one caption, which tells what happens; leave out edits, siblings, noise "
                "and pair"
            )
        if self.film and max(self.lengths) > 1:
            raise InputError("world 'scenes': documents have no films; give pages=1, or no film")
        _ = (
            self.drawn,
            self.tints,
            self.domains,
            self.numbers,
            self.roles,
            self.asked,
            self.kinds,
            self.rates,
            self.lengths,
        )

    @cached_property
    def drawn(self) -> tuple[str, ...]:
        """The designs."""
        return several("design of scenes", self.designs, DESIGNS)

    @cached_property
    def tints(self) -> tuple[str, ...]:
        """The names of the colours."""
        return several("colour of scenes", self.colours, tuple(COLOURS))

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The names of the style domains."""
        if self.styles == "seen":
            return tuple(name for name in STYLES if name not in RESERVED_STYLES)
        return several("style of scenes", self.styles, tuple(STYLES), also=("seen",))

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The roles of the texts."""
        if self.texts == "all":
            return ROLES
        return several("text role of scenes", self.texts, (*ROLES, COMPARISON, *REGISTERS))

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The kinds of facts that questions are about."""
        return several("kind of question of scenes", self.asks, ASKED)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of edits of each sample."""
        if self.edits in ("", "all"):
            return EDITS if self.edits else ()
        return several("edit of scenes", self.edits, (*EDITS, SIGNAL))

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The possible numbers of objects."""
        return _range("number", self.number, MOST)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """The possible numbers of pages of a document."""
        return _range("pages", self.pages, 3)

    @cached_property
    def rates(self) -> dict[str, float]:
        """The shares of captions with each kind of noise."""
        rates: dict[str, float] = {}
        for part in self.noise.split("+") if self.noise else ():
            kind, _, rate = part.partition("=")
            if kind not in NOISES:
                raise unknown("noise of scenes", kind, NOISES)
            try:
                rates[kind] = float(rate)
            except ValueError:
                raise InputError(
                    f"noise {part!r} of scenes has no rate; write {kind}=0.1"
                ) from None
        if any(rate < 0 for rate in rates.values()) or sum(rates.values()) > 1 + 1e-9:
            raise InputError(
                f"noise {self.noise!r} of scenes: rates must be 0 or more, and together at most 1"
            )
        return rates


def _range(option: str, given: str | int, most: int) -> tuple[int, ...]:
    """Parse `2`, `1-4` and `1+3` as numbers."""
    numbers: list[int] = []
    for part in str(given).split("+"):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise InputError(
                f"option {option!r} of world 'scenes' is {given!r}; write 2, 1-3 or 1+3"
            )
        numbers += range(int(first), int(last or first) + 1)
    if not numbers or min(numbers) < 1 or max(numbers) > most:
        raise InputError(
            f"option {option!r} of world 'scenes' is {given!r}; it must be within 1 to {most}"
        )
    return tuple(sorted(set(numbers)))
