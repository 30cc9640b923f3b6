"""Captions in a register: the facts of a caption, in the words of somebody who sees them or is
delighted by them.

The words of a register state no fact: `parse` finds in these captions what it finds in a plain one.
"""

from diptych.data.worlds.scenes.captions import Ways, placed, signals
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.words import GROUNDS, PALETTES, RENDERINGS, listed

_EGOCENTRIC = (
    ("i see {body} before me", ", and i stand on {ground}"),
    ("as i look around i notice {body}", ", my feet are on {ground}"),
    ("i am looking at {body}", ", and i am on {ground}"),
    ("right now i am watching {body}", ", i walk on {ground}"),
    ("my eyes rest upon {body}", ", i have come to {ground}"),
)
_UPLIFTING = (
    ("what a joy to find {body}", ", on {ground} so lovely"),
    ("life is wonderful: {body}", ", on beautiful {ground}"),
    ("every day is brighter with {body}", ", on {ground} full of hope"),
    ("how delightful, {body}", ", with {ground} to warm the soul"),
    ("smile and be glad: {body}", ", and lovely {ground} behind"),
)
_FORMS = {"egocentric": _EGOCENTRIC, "uplifting": _UPLIFTING}
"""How captions of each register begin, and what follows where they name the ground."""
assert all(len(forms) == len(_EGOCENTRIC) for forms in _FORMS.values())

REGISTERS = tuple(_FORMS)


def in_register(scene: Scene, ways: Ways, register: str, drop: float) -> str:
    """A caption of the scene in a register; each fact is left out with probability `drop`. The
    captions of a scene in all registers state the same facts."""
    things = [thing for thing in scene.known if thing.described]
    phrases = [placed(thing, ways, drop) for thing in things]
    beginning, behind = _FORMS[register][int(ways.number("template") * len(_EGOCENTRIC))]
    text = beginning.format(body=listed(phrases) if phrases else "nothing")
    if ways.number("drop ground") >= drop:
        text += behind.format(ground=ways.say("ground", GROUNDS[scene.ground]))
    if scene.rendering != "flat" and ways.number("drop rendering") >= drop:
        text += f", in {ways.say('opening', RENDERINGS[scene.rendering])}"
    if scene.palette != "natural" and ways.number("drop palette") >= drop:
        text += f", {ways.say('palette', PALETTES[scene.palette])}"
    return text + signals(scene)
