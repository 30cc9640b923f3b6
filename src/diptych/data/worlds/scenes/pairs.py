"""Second captions of a graded similarity: of a scene that shares so many facts with the first."""

from collections.abc import Sequence
from dataclasses import replace

from diptych.data.sample import Text
from diptych.data.worlds.scenes import captions
from diptych.data.worlds.scenes.captions import Ways
from diptych.data.worlds.scenes.concepts import Catalogue
from diptych.data.worlds.scenes.config import Config
from diptych.data.worlds.scenes.facts import Lot, Scene, Thing
from diptych.data.worlds.scenes.words import (
    COLOURS,
    GROUNDS,
    LINES,
    NUMBERS,
    PALETTES,
    RENDERINGS,
    SHAPES,
    SIZES,
    TEXTURES,
)
from diptych.errors import InputError

Fact = tuple[int, str]
"""The number of a thing, -1 for the whole image, and what is said of it."""

_WHOLE: dict[str, Sequence[str]] = {
    "ground": tuple(GROUNDS),
    "rendering": tuple(name for name in RENDERINGS if name != "flat"),
    "palette": tuple(name for name in PALETTES if name != "natural"),
    "easy": tuple(COLOURS),
    "hard": LINES,
    "salient": SHAPES,
}
_OF_THING = {"texture": tuple(TEXTURES), "size": tuple(SIZES), "count": NUMBERS[2:]}
_TRIES = 200


def facts(scene: Scene) -> dict[Fact, str]:
    """What a caption that leaves nothing out says of a scene."""
    found: dict[Fact, str] = {}
    for at, thing in enumerate(scene.things):
        if not thing.described:
            continue
        said = {name: getattr(thing, name) for name in ("concept", "colour", "texture", "size")}
        said["place"] = thing.place
        said["count"] = NUMBERS[thing.count] if thing.count > 1 else ""
        found |= {(at, name): value for name, value in said.items() if value}
    for name, values in _WHOLE.items():
        if getattr(scene, name) in values:
            found[-1, name] = getattr(scene, name)
    return found


def similarity(a: Scene, b: Scene) -> float:
    """The share of facts that both scenes state, in [0, 1].

    |facts(a) & facts(b)| / max(|facts(a)|, |facts(b)|)
    """
    said = facts(a).items()
    other = facts(b).items()
    return len(said & other) / max(len(said), len(other))


def partner(scene: Scene, config: Config, cat: Catalogue) -> Scene:
    """A scene of as many facts that shares 0 to all of them with `scene`, each number with equal
    frequency, in words of its own.

    It has nothing that the split holds out. Its positions are those of `scene`: it is described and
    not drawn. Raises InputError if the options leave no such scene.
    """
    lot = Lot(scene.seed, "pair", scene.member)
    said = list(facts(scene))
    changed = lot.below(len(said) + 1)
    for _ in range(_TRIES):
        found = _changed(scene, set(lot.order(said)[:changed]), lot, cat)
        if found is not None:
            return replace(
                found, seed=lot.below(1 << 52), before=None, change=None, noise="", reported=None
            )
    raise InputError(
        f"world 'scenes': pair=graded found no scene with {changed} of {len(said)} other facts; give more objects, "
        "colours or styles"
    )


def pair_of(scene: Scene, config: Config, cat: Catalogue) -> Text:
    """The caption of the partner, which states all of its facts."""
    other = partner(scene, config, cat)
    return Text(text=captions.caption(other, Ways.of(other), 0.0), role="pair")


def _changed(scene: Scene, which: set[Fact], lot: Lot, cat: Catalogue) -> Scene | None:
    """The scene with other values of some facts; None if the split or the options have none."""
    things = list(scene.things)
    for at, thing in enumerate(scene.things):
        new = _other_thing(
            thing, {name for number, name in which if number == at}, things, lot, cat
        )
        if new is None:
            return None
        things[at] = new
    whole = {}
    for name in sorted(name for number, name in which if number < 0):
        old = getattr(scene, name)
        whole[name] = lot.pick([value for value in _WHOLE[name] if value != old])
    return replace(scene, things=tuple(things), **whole)


def _other_thing(
    thing: Thing, which: set[str], things: Sequence[Thing], lot: Lot, cat: Catalogue
) -> Thing | None:
    """A thing with other values of some facts, among `things`."""
    values = {
        name: lot.pick(_others(_OF_THING[name], thing, name))
        for name in sorted(which & {"texture", "size"})
    }
    if "concept" in which:
        used = {other.concept for other in things}
        names = [name for name in cat.classes if name not in used]
        if not names:
            return None
        values["concept"] = lot.pick(names)
    concept = values.get("concept", thing.concept)
    if concept not in cat.classes:  # a distractor
        return thing
    for name in ("colour", "place"):
        old = getattr(thing, name)
        allowed = cat.values(concept, name, "any" if cat.mode == "any" else "seen")
        others = [value for value in allowed if value != old]
        if name in which and not others:
            return None
        if name in which:
            values[name] = lot.pick(others)
        elif "concept" in which and old and old not in allowed:
            return None
    if "count" in which:
        values["count"] = lot.pick(_others(_OF_THING["count"], thing, "count"))
    return _with(thing, values)


def _others(values: Sequence[str], thing: Thing, name: str) -> list[str]:
    old = NUMBERS[thing.count] if name == "count" else getattr(thing, name)
    return [value for value in values if value != old]


def _with(thing: Thing, values: dict[str, str]) -> Thing:
    """A thing with other values; of a place and a number only what captions say is changed."""
    first = thing.items[0]
    items = thing.items
    if place := values.pop("place", None):
        items = (replace(first, place=place),)
    if count := values.pop("count", None):
        items = tuple(replace(first, id=first.id + at) for at in range(NUMBERS.index(count)))
    return replace(thing, items=items, **values)  # type: ignore[arg-type]
