"""The vocabulary of scenes: the values of every factor, their wordings, and some English grammar.

Each value has three wordings. A style domain with its own lexicon always uses the same one; the
others use all.
"""

import re
from dataclasses import dataclass
from functools import cache

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 30, 36),
    "orange": (250, 128, 14),
    "yellow": (246, 212, 20),
    "green": (40, 152, 48),
    "turquoise": (16, 190, 190),
    "blue": (34, 82, 214),
    "purple": (126, 44, 184),
    "pink": (250, 128, 196),
}
SIZES = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "middle-sized", "mid-sized"),
    "large": ("large", "big", "huge"),
}
TEXTURES = {
    "plain": ("plain", "unpatterned", "solid"),
    "striped": ("striped", "stripy", "banded"),
    "dotted": ("dotted", "spotted", "speckled"),
    "checked": ("checked", "chequered", "checkered"),
}
PLACES = {
    "top left": ("in the top left", "at the upper left", "in the upper left corner"),
    "top right": ("in the top right", "at the upper right", "in the upper right corner"),
    "bottom left": ("in the bottom left", "at the lower left", "in the lower left corner"),
    "bottom right": ("in the bottom right", "at the lower right", "in the lower right corner"),
}
GROUNDS = {
    "grass": ("grass", "a lawn", "a meadow"),
    "sand": ("sand", "a beach", "dunes"),
    "water": ("water", "a pond", "waves"),
    "snow": ("snow", "a snowfield", "fresh snow"),
    "bricks": ("bricks", "a brick wall", "brickwork"),
    "wood": ("wood", "planks", "wooden boards"),
    "stone": ("stone", "rock", "cobbles"),
    "tiles": ("tiles", "a tiled floor", "floor tiles"),
    "cloth": ("cloth", "fabric", "a blanket"),
    "paper": ("paper", "lined paper", "a sheet of paper"),
}
RENDERINGS = {  # kinds of images; a flat one is just an image, which states nothing
    "flat": ("a picture", "an image", "a view"),
    "pencil": ("a pencil drawing", "a pencil sketch", "a sketch"),
    "pixel": ("pixel art", "a pixelated picture", "a blocky picture"),
    "grain": ("a grainy photo", "a noisy photo", "an old photo"),
    "poster": ("a poster", "a poster print", "a printed poster"),
    "neon": ("a neon sign", "neon art", "a glowing neon picture"),
    "wash": ("a watercolour", "a watercolour painting", "a wash painting"),
}
PALETTES = {
    "natural": ("", "", ""),
    "pale": ("in pale colours", "in pastel colours", "in light tones"),
    "dark": ("in dark colours", "at dusk", "in deep tones"),
    "faded": ("in faded colours", "in washed-out colours", "in greyish tones"),
    "vivid": ("in vivid colours", "in bright colours", "in strong tones"),
}
REGISTERS = {  # how a caption in a register begins, and what follows where it names the ground
    "egocentric": (
        ("i see {body} before me", ", and i stand on {ground}"),
        ("as i look around i notice {body}", ", my feet are on {ground}"),
        ("i am looking at {body}", ", and i am on {ground}"),
        ("right now i am watching {body}", ", i walk on {ground}"),
        ("my eyes rest upon {body}", ", i have come to {ground}"),
    ),
    "uplifting": (
        ("what a joy to find {body}", ", on {ground} so lovely"),
        ("life is wonderful: {body}", ", on beautiful {ground}"),
        ("every day is brighter with {body}", ", on {ground} full of hope"),
        ("how delightful, {body}", ", with {ground} to warm the soul"),
        ("smile and be glad: {body}", ", and lovely {ground} behind"),
    ),
}
LINES = ("level", "upright", "rising", "falling")  # directions of the faint lines, the hard factor
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True, kw_only=True)
class Style:
    """A style domain: its grounds, palette, rendering and lexicon (-1: all three wordings)."""

    grounds: tuple[str, ...]
    palette: str
    rendering: str
    lexicon: int


STYLES = {
    "plain": Style(grounds=tuple(GROUNDS), palette="natural", rendering="flat", lexicon=-1),
    "sketch": Style(
        grounds=("paper", "wood", "cloth"), palette="pale", rendering="pencil", lexicon=0
    ),
    "pixel": Style(
        grounds=("bricks", "grass", "tiles"), palette="vivid", rendering="pixel", lexicon=1
    ),
    "dusk": Style(grounds=("sand", "water", "stone"), palette="dark", rendering="flat", lexicon=2),
    "photo": Style(
        grounds=("wood", "stone", "sand"), palette="faded", rendering="grain", lexicon=1
    ),
    "poster": Style(
        grounds=("paper", "tiles", "snow"), palette="vivid", rendering="poster", lexicon=2
    ),
    "neon": Style(
        grounds=("stone", "water", "bricks"), palette="dark", rendering="neon", lexicon=0
    ),
    "watercolour": Style(
        grounds=("snow", "grass", "cloth"), palette="pale", rendering="wash", lexicon=2
    ),
}
RESERVED_STYLES = ("neon", "watercolour")  # used only if they are named


@cache
def vocabulary() -> frozenset[str]:
    """All words with a meaning except the names of objects.

    >>> "lawn" in vocabulary(), "cat" in vocabulary()
    (True, False)
    """
    tables = (SIZES, TEXTURES, PLACES, GROUNDS, RENDERINGS, PALETTES)
    phrases = [phrase for table in tables for ways in table.values() for phrase in ways]
    phrases += [*COLOURS, *LINES, *NUMBERS, "framed crossed stamped lines object thing front there"]
    return frozenset(re.findall(r"[a-z]+", " ".join(phrases))) - {
        "a",
        "an",
        "the",
        "in",
        "at",
        "of",
        "and",
    }


_IRREGULAR = {
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "wolf": "wolves",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "scarf": "scarves",
    "cactus": "cacti",
    "foot": "feet",
    "tooth": "teeth",
    "man": "men",
    "woman": "women",
}
_UNCHANGED = ("fish", "sheep", "deer", "bison", "squid", "shrimp", "moose")


@cache
def plural(noun: str) -> str:
    """The plural of a noun.

    >>> plural("butterfly"), plural("office building"), plural("fish")
    ('butterflies', 'office buildings', 'fish')
    """
    start, space, word = noun.rpartition(" ")
    if word in _UNCHANGED:
        return noun
    if word in _IRREGULAR:
        word = _IRREGULAR[word]
    elif re.search(r"[^aeiou]y$", word):
        word = word[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", word):
        word += "es"
    else:
        word += "s"
    return start + space + word


@cache
def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it.

    >>> article("orange key"), article("unpatterned owl"), article("unicorn")
    ('an orange key', 'an unpatterned owl', 'a unicorn')
    """
    an = phrase[0].lower() in "aeiou" and not phrase.startswith(("uni", "ewe", "one", "eu", "uk"))
    return f"{'an' if an else 'a'} {phrase}"


def listed(phrases: list[str]) -> str:
    """Phrases joined by commas and "and".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
