"""The concepts: glyphs and plain shapes, their classes, and the held-out combinations.

A concept is identified by its name. Fine classes are the concepts of a config, coarse classes the
kinds of things in `coarse`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from diptych.data.compact import hash64
from diptych.data.drawings import DESIGNS, concepts
from diptych.data.worlds.scenes.words import PLACES, SHAPES, vocabulary
from diptych.errors import InputError, unknown

if TYPE_CHECKING:
    from diptych.data.worlds.scenes.config import Config

# Twenty things with distinct outlines, none of them in the glyphs' validation or test split.
COMMON = (
    "cat", "elephant", "penguin", "fish", "butterfly", "crab", "mushroom", "cactus", "banana", "pineapple",
    "airplane", "bicycle", "sailboat", "bus", "house", "key", "crown", "guitar", "bell", "hammer",
)  # fmt: skip
_GROUPS = ("animals-nature", "food-drink", "travel-places", "objects", "activities")
_COARSE = {  # subgroup of the glyphs (or its prefix) -> kind of thing
    "animal": "animal",
    "plant": "plant",
    "food-fruit": "fruit",
    "food": "dish",
    "drink": "drink",
    "dishware": "tool",
    "transport": "vehicle",
    "place-building": "building",
    "place-religious": "building",
    "place": "landmark",
    "hotel": "tool",
    "time": "clock",
    "sky-weather": "weather sign",
    "clothing": "garment",
    "sound": "instrument",
    "music": "instrument",
    "phone": "device",
    "computer": "device",
    "light-video": "device",
    "book-paper": "book",
    "money": "document",
    "mail": "document",
    "office": "tool",
    "sport": "toy",
    "game": "toy",
    "event": "decoration",
    "award-medal": "decoration",
    "arts-crafts": "decoration",
    "shape": "shape",
}  # all else: tool
_LINKS = frozenset(["of", "with", "and", "in", "on", "behind", "over", "showing"])
_PLURAL = re.compile(r"(?<![su])s$")  # plural nouns such as glasses, skis


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept; `index` is the glyph's, -1 for a plain shape, which belongs to no design."""

    name: str
    index: int
    designs: tuple[str, ...]
    split: str
    coarse: str


@cache
def table() -> dict[str, Concept]:
    """All concepts that are suitable for captions: one or two plain words that have no other
    meaning in a caption."""
    found = {name: Concept(name, -1, (), "train", "shape") for name in SHAPES}
    for glyph in concepts():
        name = glyph["name"]
        words = glyph["name"].split()
        if (
            glyph["group"] not in _GROUPS
            or not re.fullmatch(r"[a-z]+( [a-z]+)?", name)
            or _PLURAL.search(name)
        ):
            continue
        if name in found or vocabulary() & set(words) or _LINKS & set(words):
            continue
        designs = tuple(design for design in DESIGNS if design in glyph["designs"])
        found[name] = Concept(
            name, glyph["index"], designs, glyph["split"], _coarse(glyph["subgroup"])
        )
    return found


def _coarse(subgroup: str) -> str:
    return next((kind for start, kind in _COARSE.items() if subgroup.startswith(start)), "tool")


KINDS = tuple(dict.fromkeys([*_COARSE.values(), "tool"]))  # the coarse classes


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The concepts of a config: `classes` are those of its split, `foreign` (distractors) belong to
    no split."""

    classes: tuple[str, ...]
    foreign: tuple[str, ...]
    colours: tuple[str, ...]
    share: float  # of combinations that are held out
    mode: str  # "seen": no held-out combination; "any"; "unseen": the subject is one

    def designs(self, concept: str, asked: Sequence[str]) -> tuple[str, ...]:
        """The designs of `asked` that have a concept; ("",) for a shape."""
        return tuple(design for design in asked if design in table()[concept].designs) or ("",)

    def usual(self, concept: str) -> str:
        """The usual colour of a concept, one that training shows; it depends only on names."""
        return _usual(concept, self.values(concept, "colour", "seen"))

    @property
    def rest(self) -> str:
        """The mode of everything but the subject's held-out aspect."""
        return "seen" if self.mode == "unseen" else self.mode

    def unseen(self, concept: str, colour: str, places: Sequence[str]) -> int:
        """Which of an object's combinations never occur in training: 1 its colour, 2 a place, 3
        both, 0 none."""
        return (colour in self.values(concept, "colour", "unseen")) + 2 * any(
            place in self.values(concept, "place", "unseen") for place in places
        )

    def values(self, concept: str, aspect: str, mode: str) -> tuple[str, ...]:
        """The colours or places (`aspect`) that a concept may have: those "seen" in training,
        "unseen", or "any"."""
        return _values(
            concept, self.colours if aspect == "colour" else tuple(PLACES), self.share, mode
        )


@lru_cache(maxsize=1 << 16)
def _values(concept: str, values: tuple[str, ...], share: float, mode: str) -> tuple[str, ...]:
    out = held_out(concept, values, share)
    if mode == "any":
        return values
    return tuple(value for value in values if (value in out) == (mode == "unseen"))


@lru_cache(maxsize=1 << 16)
def _usual(concept: str, colours: tuple[str, ...]) -> str:
    return min(colours, key=lambda colour: hash64(f"{concept}|usual|{colour}".encode()))


@lru_cache(maxsize=1 << 16)
def held_out(concept: str, values: tuple[str, ...], share: float) -> frozenset[str]:
    """The values that a concept never has in training: a share of all pairs, spread evenly over
    concepts.

    The choice depends only on names, so a pair is held out in every config with the same values.

    >>> sorted(held_out("cat", tuple(PLACES), 0.2)), held_out("cat", tuple(PLACES), 0.0)
    (['top left'], frozenset())
    """
    order = sorted(values, key=lambda value: hash64(f"{concept}|{value}".encode()))
    count = int(len(values) * share + hash64(f"{concept}|{len(values)}".encode()) / 2**64)
    return frozenset(order[: min(count, len(values) - 1)])


def resolve(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """The concepts of `text`: `common`, `shapes`, `all`, or names, joined by `+`; in order of first
    mention."""
    sets = {"common": COMMON, "shapes": SHAPES, "all": tuple(known)}
    named: list[str] = []
    for part in str(text).split("+"):
        if part in sets:
            named += sets[part]
        elif part in table():
            named.append(part)
        elif part:
            raise unknown(f"object in option {option!r} of world 'scenes'", part, [*sets, *table()])
    return tuple(dict.fromkeys(named))


@lru_cache(maxsize=64)
def catalogue(config: "Config") -> Catalogue:
    """The catalogue of a config. Raises InputError if the config is contradictory or leaves nothing
    to draw."""
    train = [name for name, concept in table().items() if concept.split == "train"]
    reserved = resolve(config.reserved, train, "reserved")
    base = resolve(config.objects, train, "objects")
    if "all" in config.objects.split("+"):
        base = tuple(name for name in base if name not in reserved)
    if both := [name for name in base if name in reserved]:
        raise InputError(
            f"world 'scenes': {both[0]!r} is in `objects` and in `reserved`; take it out of one of them"
        )
    novel = reserved
    if "all" in config.objects.split("+"):
        novel += tuple(
            name
            for name, concept in table().items()
            if concept.split == "test" and name not in reserved
        )
    classes = novel if config.split == "novel" else base
    classes = tuple(
        name
        for name in classes
        if not table()[name].designs or set(table()[name].designs) & set(config.drawn)
    )
    if not classes:
        raise InputError(
            f"world 'scenes': no object is left to draw in split {config.split!r}; see objects, reserved"
        )
    mode = {"train": "seen", "val": "seen", "unseen": "unseen"}.get(config.split, "any")
    foreign = tuple(
        name
        for name in train
        if name not in {*base, *reserved} and set(table()[name].designs) & set(config.drawn)
    )
    if config.distractors and not foreign:
        raise InputError(
            "world 'scenes': objects=all leaves no foreign ones for distractors; give distractors=0"
        )
    made = Catalogue(classes, foreign, config.tints, config.held_out, mode)
    least = max(config.numbers) if config.same < 1 else 1
    if len(classes) < least:
        raise InputError(
            f"world 'scenes': {least} objects of different kinds need as many names; `objects` has {len(classes)}"
        )
    if mode == "unseen" and not any(made.values(name, "colour", mode) for name in classes):
        raise InputError(
            "world 'scenes': split 'unseen' is empty: no colour of an object is held out; raise held_out"
        )
    if config.bias is not None:
        for name in classes:
            if len(made.values(name, "colour", "seen")) < 2:
                raise InputError(
                    f"world 'scenes': an unusual colour of {name!r} needs two that the split train shows; give more "
                    "colours, or lower held_out"
                )
    return made


__all__ = ["COMMON", "KINDS", "Catalogue", "Concept", "catalogue", "held_out", "table"]
