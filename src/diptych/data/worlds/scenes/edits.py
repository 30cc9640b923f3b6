"""Minimal edits: one thing is changed and all else kept, with the instruction for the edit.

An edit never shows what the split holds out. Some scenes permit no edit of a kind.
"""

from collections.abc import Callable
from dataclasses import replace

from diptych.data.worlds.scenes.captions import Ways, noun_of, phrase
from diptych.data.worlds.scenes.concepts import Catalogue
from diptych.data.worlds.scenes.config import EDITS, MOST, SIGNAL, Config
from diptych.data.worlds.scenes.facts import Change, Lot, Scene, Thing
from diptych.data.worlds.scenes.sample import room_of, tint
from diptych.data.worlds.scenes.words import LINES, PLACES
from diptych.errors import InputError

_ROOM = 0.8  # least clearance of a moved or added object, for little overlap


def edited(scene: Scene, kind: str, config: Config, cat: Catalogue, turn: int = 0) -> Scene | None:
    """The scene after an edit, the `turn`-th of its kind; None if the scene permits none."""
    lot = Lot(scene.seed, "edit", kind, turn)
    done = _EDITS[kind](scene, lot, config, cat)
    if done is None:
        return None
    after, change = done
    return replace(
        after,
        before=replace(scene, before=None, change=None, noise="", reported=None),
        change=change,
        noise="",
        reported=None,
    )


def sibling(scene: Scene, member: int, config: Config, cat: Catalogue) -> Scene:
    """The sibling with index `member`.

    Member 0 is the scene; the others are distinct edits of it, by the config's kinds in turn, or by
    other kinds if the scene permits no more of these. Scenes that a text cannot tell apart, by the
    design or the exact position of an object alone, are not distinct.
    """
    found = [scene]
    attempt = 0
    kinds = config.kinds or EDITS
    while len(found) <= member:
        if attempt > 40 * len(kinds):
            if kinds == EDITS:
                raise InputError(
                    f"scene {scene.number} has fewer than {member} edits; lower siblings={config.siblings}"
                )
            kinds = EDITS
            attempt = 0
        new = edited(scene, kinds[attempt % len(kinds)], config, cat, attempt // len(kinds))
        attempt += 1
        if new is not None and all(_told(new) != _told(other) for other in found):
            found.append(replace(new, member=len(found)))
    return found[member]


def _told(scene: Scene) -> list[tuple[object, ...]]:
    """What texts can say of a scene."""
    things: list[tuple[object, ...]] = [
        (
            thing.concept,
            thing.colour,
            thing.texture,
            thing.size,
            sorted(item.place for item in thing.items),
        )
        for thing in scene.things
    ]
    return [*things, (scene.hard,)]


_Done = tuple[Scene, Change] | None


def mentioned(scene: Scene) -> list[int]:
    """The things that captions describe, so that an edit changes the texts."""
    return [at for at, thing in enumerate(scene.known) if thing.described]


def allowed(
    thing: Thing, cat: Catalogue, colour: str = "", place: str = "", concept: str = ""
) -> bool:
    """Whether a known thing may have this colour, place and concept in its split."""
    name = concept or thing.concept
    mode = "any" if cat.mode == "unseen" else cat.mode
    new_colour = colour or thing.colour
    places = [place] if place else [item.place for item in thing.items]
    return (not new_colour or new_colour in cat.values(name, "colour", mode)) and (
        set(places) <= set(cat.values(name, "place", mode))
    )


def _swap(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Exchange the colours of two things or, if not possible, their places."""
    pairs = [(a, b) for b in mentioned(scene) for a in mentioned(scene) if a < b]
    for a, b in lot.order(pairs):
        one = scene.things[a]
        two = scene.things[b]
        differ = one.colour != two.colour and one.colour and two.colour
        if differ and allowed(one, cat, colour=two.colour) and allowed(two, cat, colour=one.colour):
            after = scene.with_thing(a, colour=two.colour).with_thing(b, colour=one.colour)
            return after, Change(kind="swap", about=(one.concept, two.concept), aspect="colours")
    for a, b in lot.order(pairs):
        one = scene.things[a]
        two = scene.things[b]
        differ = one.place != two.place and one.place and two.place
        if differ and allowed(one, cat, place=two.place) and allowed(two, cat, place=one.place):
            after = _exchanged(scene, a, b)
            if after:
                return after, Change(kind="swap", about=(one.concept, two.concept), aspect="places")
    return None


def _exchanged(scene: Scene, a: int, b: int) -> Scene | None:
    """Exchange the positions of two single objects, kept inside the image."""
    one = scene.things[a].items[0]
    two = scene.things[b].items[0]

    def within(at: float, side: float) -> float:
        return min(max(at, side / 2 + 0.02), 1 - side / 2 - 0.02)

    first = replace(one, place=two.place, x=within(two.x, one.side), y=within(two.y, one.side))
    second = replace(two, place=one.place, x=within(one.x, two.side), y=within(one.y, two.side))
    others = [item for item in scene.items if item.id not in (one.id, two.id)]
    lot = Lot(scene.seed, "exchange")
    if room_of(lot, [*others, second]).clearance((first.x, first.y), first.side) < _ROOM:
        return None
    if room_of(lot, others).clearance((second.x, second.y), second.side) < _ROOM:
        return None
    return scene.with_thing(a, items=(first,)).with_thing(b, items=(second,))


def _replace(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Replace the concept of one thing, with the same colour, texture, size and place."""
    used = {thing.concept for thing in scene.things}
    for at in lot.order(mentioned(scene)):
        thing = scene.things[at]
        options = [
            name for name in cat.classes if name not in used and allowed(thing, cat, concept=name)
        ]
        if options:
            new = lot.pick(options)
            return _with_concept(scene, at, new, lot, config, cat)
    return None


def _with_concept(
    scene: Scene, at: int, new: str, lot: Lot, config: Config, cat: Catalogue
) -> tuple[Scene, Change]:
    """The scene with another concept in thing `at`, in designs drawn anew."""
    thing = scene.things[at]
    designs = cat.designs(new, config.drawn)
    items = tuple(replace(item, design=lot.pick(designs)) for item in thing.items)
    change = Change(kind="replace", about=(thing.concept,), value=new)
    return scene.with_thing(at, concept=new, items=items), change


def variations(
    scene: Scene, concept: str, count: int, config: Config, cat: Catalogue
) -> list[Scene]:
    """At most `count` scenes with other concepts in the place of one, all else kept."""
    at = next(at for at in mentioned(scene) if scene.things[at].concept == concept)
    used = {thing.concept for thing in scene.things}
    options = [
        name
        for name in cat.classes
        if name not in used and allowed(scene.things[at], cat, concept=name)
    ]
    lot = Lot(scene.seed, "variations", concept)
    before = replace(scene, before=None, change=None, noise="", reported=None)
    found = []
    for new in lot.order(options)[:count]:
        after, change = _with_concept(scene, at, new, lot, config, cat)
        found.append(replace(after, before=before, change=change, noise="", reported=None))
    return found


def _add(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Add one small object."""
    if len(scene.items) >= MOST:
        return None
    used = {thing.concept for thing in scene.things}
    free = [place for place in PLACES if all(item.place != place for item in scene.items)]
    mode = "any" if cat.mode == "unseen" else cat.mode
    for place in lot.order(free or list(PLACES)):
        names = [
            name
            for name in cat.classes
            if name not in used and place in cat.values(name, "place", mode)
        ]
        if not names:
            continue
        name = lot.pick(names)
        room = room_of(lot, scene.items)
        item = room.place(name, "small", (place,), cat.designs(name, config.drawn))
        others = room_of(lot, scene.items)
        if others.clearance((item.x, item.y), item.side) < _ROOM or item.place != place:
            continue
        colour = tint(config, cat, lot, name, mode) if config.tinted else ""
        depth = (
            max(other.depth for other in scene.items) + 0.002
        )  # behind all, so that it hides nothing
        new = Thing(
            concept=name,
            colour=colour,
            texture="plain",
            size="small",
            items=(replace(item, depth=min(depth, 0.99)),),
        )
        known = len(scene.known)
        things = (*scene.things[:known], new, *scene.things[known:])
        return replace(scene, things=things), Change(kind="add", about=(name,), value=place)
    return None


def _remove(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Remove one object: a thing other than the subject, or one of three or more alike."""
    options = [at for at in mentioned(scene) if at or scene.things[at].count > 2]
    if not options:
        return None
    at = lot.pick(options)
    thing = scene.things[at]
    change = Change(kind="remove", about=(thing.concept,), aspect="one" if thing.count > 1 else "")
    if thing.count == 1:
        return replace(scene, things=(*scene.things[:at], *scene.things[at + 1 :])), change
    gone = 1 + lot.below(
        thing.count - 1
    )  # the id of the first one determines the wording of the thing's texts
    return scene.with_thing(at, items=(*thing.items[:gone], *thing.items[gone + 1 :])), change


def _recolour(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Change the colour of one thing; with a bias, from the usual one to another, or to the usual
    one."""
    for at in lot.order(mentioned(scene)):
        thing = scene.things[at]
        options = [
            name
            for name in config.tints
            if name != thing.colour and allowed(thing, cat, colour=name)
        ]
        if config.bias is not None and thing.colour != cat.usual(thing.concept):
            options = [cat.usual(thing.concept)]
        if options and thing.colour:
            new = lot.pick(options)
            return scene.with_thing(at, colour=new), Change(
                kind="recolour", about=(thing.concept,), value=new
            )
    return None


def _move(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Move one object to another quadrant."""
    for at in lot.order([at for at in mentioned(scene) if scene.things[at].place]):
        thing = scene.things[at]
        item = thing.items[0]
        room = room_of(lot, [other for other in scene.items if other.id != item.id])
        for place in lot.order(
            [place for place in PLACES if place != item.place and allowed(thing, cat, place=place)]
        ):
            x, y = room.spot(place, item.side)
            if room.clearance((x, y), item.side) >= _ROOM:
                moved = replace(item, place=place, x=x, y=y)
                return scene.with_thing(at, items=(moved,)), Change(
                    kind="move", about=(thing.concept,), value=place
                )
    return None


def _signal(scene: Scene, lot: Lot, config: Config, cat: Catalogue) -> _Done:
    """Draw the faint lines in another direction."""
    if not scene.hard:
        return None
    new = lot.pick([name for name in LINES if name != scene.hard])
    return replace(scene, hard=new), Change(kind=SIGNAL, about=(), value=new)


_EDITS: dict[str, Callable[[Scene, Lot, Config, Catalogue], _Done]] = {
    "swap": _swap,
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "recolour": _recolour,
    "move": _move,
    SIGNAL: _signal,
}


def instruction(scene: Scene) -> str:
    """The instruction that turns `scene.before` into `scene`, in one of two forms."""
    assert scene.before is not None
    assert scene.change is not None
    change = scene.change
    way = Ways.of(scene)["instruction"]
    old = {thing.concept: thing for thing in scene.before.things}
    new = {thing.concept: thing for thing in scene.things}
    form = int(way.number("template") * 2)
    names = [f"the {noun_of(old[name])}" if name in old else name for name in change.about]
    if change.kind == "swap":
        return (
            f"swap the {change.aspect} of {names[0]} and {names[1]}",
            f"let {names[0]} and {names[1]} swap {change.aspect}",
        )[form]
    if change.kind == "replace":
        one = phrase(replace(new[change.value], size="", texture="", colour=""), way)
        return (f"replace {names[0]} with {one}", f"turn {names[0]} into {one}")[form]
    if change.kind == "add":
        what = f"{phrase(replace(new[change.about[0]], texture=''), way)} {PLACES[change.value][0]}"
        return (f"add {what}", f"put {what}")[form]
    if change.kind == "remove":
        what = f"one of {names[0]}" if change.aspect else names[0]
        return (f"remove {what}", f"take {what} away")[form]
    if change.kind == "recolour":
        return (f"make {names[0]} {change.value}", f"paint {names[0]} {change.value}")[form]
    if change.kind == SIGNAL:
        return (f"turn the lines into {change.value} lines", f"make the lines {change.value}")[form]
    place = PLACES[change.value][0].removeprefix("in ")
    return (f"move {names[0]} to {place}", f"put {names[0]} into {place}")[form]
