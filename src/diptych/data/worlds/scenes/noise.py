"""Noise of captions and web texts, by kind.

swap         the texts of another scene
boilerplate  phrases found under many images
junk         random strings
drop         one thing is left out (if it is the only one, only the ground remains)
wrong        one stated fact is false: a name, colour, texture, size or place
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diptych.data.worlds.scenes import captions
from diptych.data.worlds.scenes.captions import Ways
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.data.worlds.scenes.facts import Item, Scene, Thing
from diptych.data.worlds.scenes.words import COLOURS, PLACES, SIZES, TEXTURES

BOILERPLATE = (
    "click to enlarge",
    "image not available",
    "free shipping on all orders",
    "posted in uncategorized",
    "all rights reserved",
    "stock photo, royalty free",
    "no description",
    "share this page with your friends",
)
_LETTERS = "bcdfghjklmnpqrstvwxz0123456789_-"
_VALUES = {"colour": COLOURS, "texture": TEXTURES, "size": SIZES, "place": PLACES}


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyTexts:
    """The caption and the web text, with the objects of this scene that they describe."""

    caption: str
    web: str
    ids: tuple[int, ...]
    web_ids: tuple[int, ...]


def noisy_texts(
    scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]
) -> NoisyTexts:
    """The caption and the web text, with the scene's noise if it has any."""
    if scene.noise in ("boilerplate", "junk"):
        make = _boilerplate if scene.noise == "boilerplate" else _junk
        return NoisyTexts(
            caption=make(ways["noise"], 0), web=make(ways["noise"], 1), ids=(), web_ids=()
        )
    if scene.reported:  # swap
        other = Ways.of(scene.reported)
        text = captions.caption(scene.reported, other, drop)
        web = captions.web(scene.reported, other)
        return NoisyTexts(caption=text, web=web, ids=(), web_ids=())
    reported = for_web = scene
    if scene.noise == "drop":
        reported = for_web = _dropped(scene, ways["noise"].free(2))
    elif scene.noise == "wrong":
        reported = _wronged(scene, ways, drop, classes)
        thing = captions.named(scene, ways)
        if thing:
            for_web = scene.with_thing(
                scene.things.index(thing), concept=_other(scene, ways["noise"].free(3), classes)
            )
    named = captions.named(for_web, ways)
    return NoisyTexts(
        caption=captions.caption(reported, ways, drop),
        web=captions.web(for_web, ways),
        ids=captions.ids(reported),
        web_ids=named.ids if named else (),
    )


def _boilerplate(way: Ways, at: int) -> str:
    return BOILERPLATE[int(way.free(at) * len(BOILERPLATE))]


def _junk(way: Ways, at: int) -> str:
    """Two or three random strings of letters and digits."""
    start = 8 + 40 * at
    lengths = [
        4 + int(way.free(start + word) * 8) for word in range(2 + (way.free(start + 3) < 0.5))
    ]
    numbers = iter(range(start + 4, start + 40))
    return " ".join(
        "".join(_LETTERS[int(way.free(next(numbers)) * len(_LETTERS))] for _ in range(n))
        for n in lengths
    )


def _dropped(scene: Scene, at: float) -> Scene:
    """The scene with one thing removed from captions."""
    reported = [number for number, thing in enumerate(scene.things) if thing.described]
    return scene.with_thing(reported[int(at * len(reported))], described=False)


def _wronged(scene: Scene, ways: dict[str, Ways], drop: float, classes: Sequence[str]) -> Scene:
    """The scene with one fact changed that its caption states."""
    way = ways[f"paraphrase{captions.form_of(ways)}"]
    stated: list[tuple[int, str]] = []
    for number, thing in enumerate(scene.things):
        if thing.described:
            stated += [(number, "concept")]
            stated += [
                (number, kind)
                for kind in _VALUES
                if getattr(thing, kind) and way.number(f"drop {kind}", thing) >= drop
            ]
    which = ways["noise"].free(2)
    value = ways["noise"].free(3)
    number, kind = stated[int(which * len(stated))]
    thing = scene.things[number]
    if kind == "concept":
        return scene.with_thing(number, concept=_other(scene, value, classes))
    others = [name for name in _VALUES[kind] if name != getattr(thing, kind)]
    new = others[int(value * len(others))]
    if kind == "place":
        return scene.with_thing(number, items=_moved(thing, new))
    return scene.with_thing(number, **{kind: new})


def _moved(thing: Thing, place: str) -> tuple[Item, ...]:
    return (replace(thing.items[0], place=place),)


def _other(scene: Scene, at: float, classes: Sequence[str]) -> str:
    """A concept that is not in the scene."""
    there = {thing.concept for thing in scene.things}
    others = [name for name in classes if name not in there] or [
        name for name in COMMON if name not in there
    ]
    return others[int(at * len(others))]
