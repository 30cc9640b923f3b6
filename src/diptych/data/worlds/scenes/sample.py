"""Sampling of scenes: things, positions, style, and noise of texts."""

import math
from collections.abc import Sequence
from dataclasses import replace

from diptych.data.worlds.scenes.concepts import Catalogue, catalogue
from diptych.data.worlds.scenes.config import Config
from diptych.data.worlds.scenes.facts import Item, Lot, Scene, Thing
from diptych.data.worlds.scenes.words import COLOURS, LINES, PLACES, SHAPES, SIZES, STYLES, TEXTURES

SIDES = {
    "small": (0.31, 0.35),
    "medium": (0.40, 0.44),
    "large": (0.54, 0.60),
}  # of the image's side
_TINY = (0.20, 0.24)  # a distractor's
_TEXTURE = ("plain", "plain", *TEXTURES)  # plain for half of them
_CLEAR = 0.95  # distance of centres over the mean side, for hardly any overlap
_BEHIND = 0.72  # the same, if one object partly hides another
_TRIES = 12
_CROWD = 0.72  # factor on sizes with more than four objects
TILES = 4  # variants of each ground


def draw(config: Config, seed: int, number: int, page: int = 0, lead: Thing | None = None) -> Scene:
    """Scene `number` of the stream (seed, split); a document's page has the subject `lead` of the
    first."""
    lot = Lot(seed, "scenes", config.split, number, page)
    cat = catalogue(config)
    things = _things(config, cat, lot, lead)
    style, ground, palette, rendering, lexicon = _style(config, lot)
    scene = Scene(
        seed=lot.below(1 << 52),
        number=number,
        things=things,
        style=style,
        ground=ground,
        palette=palette,
        rendering=rendering,
        lexicon=lexicon,
        tile=(lot.below(TILES), lot.share(), lot.share()),
        easy=lot.pick(tuple(COLOURS)) if config.easy else "",
        hard=lot.pick(LINES) if config.hard else "",
        salient=lot.pick(SHAPES) if lot.chance(config.overlay) else "",
    )
    return _noisy(config, scene, seed, lot)


def _style(config: Config, lot: Lot) -> tuple[str, str, str, str, int]:
    """Domain, ground, palette, rendering and lexicon; each part is from any domain with probability
    `overlap`."""
    name = lot.pick(config.domains)
    parts = [
        STYLES[lot.pick(config.domains) if lot.chance(config.overlap) else name] for _ in range(4)
    ]
    return name, lot.pick(parts[0].grounds), parts[1].palette, parts[2].rendering, parts[3].lexicon


def _noisy(config: Config, scene: Scene, seed: int, lot: Lot) -> Scene:
    """The scene with its kind of noise, if any, and the scene that its caption describes
    instead."""
    at = lot.share()
    for kind, rate in config.rates.items():
        if at < rate:
            reported = None
            if kind == "swap":
                other = scene.number + 1 + lot.below(1 << 20)
                reported = draw(replace(config, noise=""), seed, other)
            return replace(scene, noise=kind, reported=reported)
        at -= rate
    return scene


def _things(config: Config, cat: Catalogue, lot: Lot, lead: Thing | None) -> tuple[Thing, ...]:
    """The things of an image: one of several equal objects, or several of one object each."""
    number = lot.pick(config.numbers)
    together = number > 1 and not config.film and lot.chance(config.same)
    hidden = number > 1 and lot.chance(config.occlusion)
    room = Room(lot, hidden=hidden, scale=_CROWD if number > 4 else 1.0)
    things = [_subject(config, cat, room, number, together, lead)]
    while not together and len(things) < number:
        things.append(_other(config, cat, room, number, things))
    if config.described:
        things = [
            replace(thing, described=at < config.described) for at, thing in enumerate(things)
        ]
    for _ in range(config.distractors):
        things.append(_distractor(config, cat, room, things))
    return ranked(tuple(things), lot)


def _subject(
    config: Config, cat: Catalogue, room: "Room", number: int, together: bool, lead: Thing | None
) -> Thing:
    lot = room.lot
    held = ""
    if lead:
        concept = lead.concept
    elif cat.mode == "unseen":  # one aspect of the subject is held out, the other is not
        aspects = ("colour",) if together else ("colour", "place")
        concept, held = lot.pick(
            [
                (name, aspect)
                for name in cat.classes
                for aspect in aspects
                if cat.values(name, aspect, "unseen")
            ]
        )
    else:
        concept = lot.pick(cat.classes)
    size = lot.pick(
        tuple(SIZES) if number == 1 else ("small", "medium") if together else ("medium", "large")
    )
    if held == "colour":
        colour = lot.pick(cat.values(concept, "colour", "unseen"))
    else:
        colour = _colour(config, cat, lot, concept)
    texture = lot.pick(_TEXTURE)
    if lead:
        colour = lead.colour
        texture = lead.texture
    places = cat.values(concept, "place", "unseen" if held == "place" else cat.rest)
    items = [
        room.place(concept, size, places, cat.designs(concept, config.drawn))
        for _ in range(number if together else 1)
    ]
    return Thing(concept=concept, colour=colour, texture=texture, size=size, items=tuple(items))


def _other(
    config: Config, cat: Catalogue, room: "Room", number: int, things: Sequence[Thing]
) -> Thing:
    """A further thing of another concept, smaller than the subject."""
    lot = room.lot
    free = room.free()
    for concept in (lot.pick(cat.classes) for _ in range(1000)):
        if all(thing.concept != concept for thing in things) and free & set(
            cat.values(concept, "place", cat.rest)
        ):
            break
    else:
        concept = next(
            name for name in cat.classes if all(thing.concept != name for thing in things)
        )
    places = cat.values(concept, "place", cat.rest)
    smaller = ("small", "medium") if things[0].size == "large" and number == 2 else ("small",)
    size = lot.pick(smaller)
    colour = _colour(config, cat, lot, concept, [thing.colour for thing in things])
    item = room.place(concept, size, places, cat.designs(concept, config.drawn))
    return Thing(
        concept=concept, colour=colour, texture=lot.pick(_TEXTURE), size=size, items=(item,)
    )


def _colour(
    config: Config, cat: Catalogue, lot: Lot, concept: str, used: Sequence[str] = ()
) -> str:
    """A colour, or "" for the drawing's own."""
    if not lot.chance(config.tinted):
        return ""
    return tint(config, cat, lot, concept, cat.rest, used)


def tint(
    config: Config, cat: Catalogue, lot: Lot, concept: str, mode: str, used: Sequence[str] = ()
) -> str:
    """A colour of a concept, different from the `used` ones if possible; with a bias the usual one
    at this rate, used or not."""
    allowed = cat.values(concept, "colour", mode)
    if config.bias is None:
        return lot.pick([colour for colour in allowed if colour not in used] or allowed)
    usual = cat.usual(concept)
    agrees = lot.chance(config.bias)
    others = [colour for colour in allowed if colour != usual]
    other = lot.pick([colour for colour in others if colour not in used] or others)
    return usual if agrees else other  # as many draws for both: all else is as with another bias


def _distractor(config: Config, cat: Catalogue, room: "Room", things: Sequence[Thing]) -> Thing:
    """A tiny object of a foreign class."""
    used = {thing.concept for thing in things}
    concept = room.lot.pick([name for name in cat.foreign if name not in used])
    colour = room.lot.pick(("", *config.tints))
    item = room.place(concept, "", tuple(PLACES), cat.designs(concept, config.drawn))
    return Thing(
        concept=concept,
        colour=colour,
        texture="plain",
        size="small",
        items=(item,),
        described=False,
        foreign=True,
    )


def side_of(size: str, lot: Lot) -> float:
    """A longer side for an object of a size (distractors have none), as a share of the image's."""
    return lot.between(*SIDES.get(size, _TINY))


class Room:
    """Places objects one after another: in a quadrant, without overlap or, once, behind another
    object."""

    def __init__(
        self, lot: Lot, items: Sequence[Item] = (), hidden: bool = False, scale: float = 1.0
    ):
        self.lot = lot
        self.items = list(items)
        self.hidden = hidden
        self.scale = scale

    def free(self) -> set[str]:
        """The quadrants without an object, or all if none is free."""
        return set(PLACES) - {item.place for item in self.items} or set(PLACES)

    def place(self, concept: str, size: str, places: Sequence[str], designs: Sequence[str]) -> Item:
        """Place an object of a size (distractors have none) in one of `places`, free ones first;
        depth is set later."""
        lot = self.lot
        side = side_of(size, lot) * self.scale
        empty = [place for place in places if all(item.place != place for item in self.items)]
        tried = (
            [lot.pick(empty)] if empty else lot.order(places)
        )  # the clearest of all, if each has an object
        spots = [(place, self.spot(place, side)) for place in tried]
        place, (x, y) = max(spots, key=lambda one: self.clearance(one[1], side))
        at = max((item.id for item in self.items), default=-1) + 1
        item = Item(id=at, design=lot.pick(designs), place=place, x=x, y=y, side=side, depth=0.0)
        self.items.append(item)
        return item

    def spot(self, place: str, side: float) -> tuple[float, float]:
        """A centre for an object with this side: the first clear one of some tries, or the
        clearest."""
        behind = self.hidden and len(self.items) > 0
        best = (0.0, 0.0)
        score = -math.inf
        for _ in range(_TRIES):
            spot = self._try(place, side)
            clear = self.clearance(spot, side)
            reached = min(clear, _CLEAR) if not behind else -abs(clear - _BEHIND)
            if reached > score:
                best = spot
                score = reached
            if not behind and score >= _CLEAR:
                break
        self.hidden = self.hidden and not behind
        return best

    def _try(self, place: str, side: float) -> tuple[float, float]:
        edge = side / 2 + 0.02
        middle = 0.44
        x = self.lot.between(min(edge, middle), middle)
        y = self.lot.between(min(edge, middle), middle)
        return (1 - x if "right" in place else x), (1 - y if "bottom" in place else y)

    def clearance(self, spot: tuple[float, float], side: float) -> float:
        """The least distance to another object's centre over the mean of their sides; below 1 they
        may overlap."""
        return min(
            (
                math.hypot(spot[0] - item.x, spot[1] - item.y) / ((side + item.side) / 2)
                for item in self.items
            ),
            default=math.inf,
        )


def room_of(lot: Lot, items: Sequence[Item]) -> Room:
    """The `Room` of a finished scene."""
    return Room(lot, items, scale=_CROWD if len(items) > 4 else 1.0)


def ranked(things: tuple[Thing, ...], lot: Lot) -> tuple[Thing, ...]:
    """The things with depths set: larger objects tend to be nearer; no two depths are equal."""
    depths = {}
    for item in (item for thing in things for item in thing.items):
        depth = min(max(0.95 - 1.2 * item.side + lot.between(-0.1, 0.1), 0.05), 0.95)
        while round(depth, 3) in depths.values():
            depth += 0.001
        depths[item.id] = round(depth, 3)
    return tuple(
        replace(thing, items=tuple(replace(item, depth=depths[item.id]) for item in thing.items))
        for thing in things
    )
