"""What happens in a clip: one thing moves, comes, goes, grows, shrinks or changes colour, and the others
stand still.

Each action but the change of colour is another one seen backwards, with ends that are drawn alike. So no
set of frames without their order tells which of the two it is, nor does the still image, which is of one
of the two ends at random.
"""

from dataclasses import replace

from diptych.data.worlds.scenes.captions import Ways, noun_of
from diptych.data.worlds.scenes.concepts import Catalogue
from diptych.data.worlds.scenes.config import Config
from diptych.data.worlds.scenes.edits import allowed, mentioned
from diptych.data.worlds.scenes.facts import Film, Item, Lot, Scene, Thing
from diptych.data.worlds.scenes.sample import room_of, side_of

ACTIONS = {  # each with three wordings
    "moves left": ("moves to the left", "slides left", "goes to the left"),
    "moves right": ("moves to the right", "slides right", "goes to the right"),
    "moves up": ("moves up", "rises", "goes upwards"),
    "moves down": ("moves down", "sinks", "goes downwards"),
    "appears": ("appears", "turns up", "comes into view"),
    "disappears": ("disappears", "vanishes", "is gone at the end"),
    "grows": ("grows", "gets larger", "becomes larger"),
    "shrinks": ("shrinks", "gets smaller", "becomes smaller"),
    "changes colour": ("turns {colour}", "becomes {colour}", "changes to {colour}"),
}
_BACKWARDS = ("moves left", "moves up", "disappears", "shrinks")
_SIZES = (("small", "medium"), ("medium", "large"), ("small", "large"))
_TRIES = 6
_EDGE = 0.02  # between a thing and the border of the image
_LOOSE = 0.06  # how much the ends of a path vary


def filmed(scene: Scene, config: Config, cat: Catalogue) -> Scene:
    """The scene with what happens in its clip.

    It shows the thing as it is first or last, at random, and where it is there. The actions have
    equal frequency, but for scenes that do not permit one.
    """
    lot = Lot(scene.seed, "film")
    for action in lot.order(tuple(ACTIONS)):
        for at in lot.order(mentioned(scene)):
            ends = _ends(scene, at, action, config, cat)
            if ends is None:
                continue
            before, after = ends[::-1] if action in _BACKWARDS else ends
            film = Film(
                action=action, about=at, before=before, after=after, when=lot.between(0.3, 0.7)
            )
            shown = lot.pick([thing for thing in (before, after) if thing is not None])
            things = (*scene.things[:at], shown, *scene.things[at + 1 :])
            return replace(scene, things=things, film=film)
    raise AssertionError("a thing can always appear")


def _ends(
    scene: Scene, at: int, action: str, config: Config, cat: Catalogue
) -> tuple[Thing | None, Thing | None] | None:
    """The thing before and after an action, or after and before for one of `_BACKWARDS`; the same
    draws for both."""
    lot = Lot(scene.seed, "film", at)
    thing = _in_front(scene, at)
    if action in ("moves left", "moves right"):
        return _path(scene, thing, "x", lot, cat)
    if action in ("moves up", "moves down"):
        return _path(scene, thing, "y", lot, cat)
    if action in ("grows", "shrinks"):
        return _sizes(scene, thing, lot)
    if action == "changes colour":
        options = [
            name for name in config.tints if name != thing.colour and allowed(thing, cat, name)
        ]
        if not options or not thing.colour:
            return None
        return thing, replace(thing, colour=lot.pick(options))
    return None, thing


def _in_front(scene: Scene, at: int) -> Thing:
    """A thing of one object, nearer than all others, so that nothing hides it."""
    thing = scene.things[at]
    nearest = min(item.depth for item in scene.items)
    [item] = thing.items
    return replace(thing, items=(replace(item, depth=round(nearest / 2, 4)),))


def _path(
    scene: Scene, thing: Thing, axis: str, lot: Lot, cat: Catalogue
) -> tuple[Thing, Thing] | None:
    """The thing near the left and the right border, or the upper and the lower one, away from the
    others if there is room; None if the split holds out one of the two places."""
    [item] = thing.items
    edge = item.side / 2 + _EDGE
    room = room_of(lot, [other for other in scene.items if other.id != item.id])
    best = -1.0
    found = None
    for _ in range(_TRIES):
        low = min(edge + lot.between(0, _LOOSE), 0.49)
        high = max(1 - edge - lot.between(0, _LOOSE), 0.51)
        lane = lot.between(edge, 1 - edge)
        ends = [
            _placed(item, *((along, lane) if axis == "x" else (lane, along)))
            for along in (low, high)
        ]
        if not all(allowed(thing, cat, place=end.place) for end in ends):
            continue
        clear = min(room.clearance((end.x, end.y), end.side) for end in ends)
        if clear > best:
            best = clear
            found = tuple(replace(thing, items=(end,)) for end in ends)
    return found  # type: ignore[return-value]  # of two


def _placed(item: Item, x: float, y: float) -> Item:
    rows = "top" if y < 0.5 else "bottom"
    columns = "left" if x < 0.5 else "right"
    return replace(item, x=x, y=y, place=f"{rows} {columns}")


def _sizes(scene: Scene, thing: Thing, lot: Lot) -> tuple[Thing, Thing]:
    """The thing in two sizes, at one place."""
    [item] = thing.items
    room = room_of(lot, scene.items)
    pair = lot.pick(_SIZES if len(scene.items) < 3 else _SIZES[:1])
    sides = [side_of(size, lot) * room.scale for size in pair]
    edge = max(sides) / 2 + _EDGE
    x, y = (min(max(value, edge), 1 - edge) for value in (item.x, item.y))
    small, large = (
        replace(thing, size=size, items=(replace(item, x=x, y=y, side=side),))
        for size, side in zip(pair, sides, strict=True)
    )
    return small, large


def frames(scene: Scene, count: int) -> list[Scene]:
    """The scenes of `count` frames: the first as the clip begins, the last as it ends, and what can be
    between two values in equal steps between them."""
    return [_at(scene, at / (count - 1)) for at in range(count)]


def _at(scene: Scene, share: float) -> Scene:
    """The scene when a share of the clip is over."""
    film = scene.film
    assert film is not None
    thing = film.after if share > film.when else film.before
    if film.before is not None and film.after is not None:
        [first] = film.before.items
        [last] = film.after.items
        x, y, side = (
            start + share * (end - start)
            for start, end in ((first.x, last.x), (first.y, last.y), (first.side, last.side))
        )
        assert thing is not None
        thing = replace(thing, items=(replace(_placed(first, x, y), side=side),))
    before = scene.things[: film.about]
    rest = scene.things[film.about + 1 :]
    return replace(scene, things=(*before, *([thing] if thing else []), *rest))


def told(caption: str, scene: Scene) -> str:
    """The caption of a scene, with what happens in its clip."""
    film = scene.film
    assert film is not None
    thing = scene.things[film.about]
    words = Ways.of(scene)["caption"].say("action", ACTIONS[film.action])
    colour = film.after.colour if film.after else ""
    return f"{caption}; the {noun_of(thing)} {words.format(colour=colour)}"
