"""Captions in a register: the facts of a caption, in the words of somebody who sees them or is
delighted by them.

The words of a register state no fact: `parse` finds in these captions what it finds in a plain one.
"""

from diptych.data.worlds.scenes.captions import Ways, placed, signals
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.words import GROUNDS, PALETTES, REGISTERS, RENDERINGS, listed


def in_register(scene: Scene, ways: Ways, register: str, drop: float) -> str:
    """A caption of the scene in a register; each fact is left out with probability `drop`. The
    captions of a scene in all registers state the same facts."""
    things = [thing for thing in scene.known if thing.described]
    phrases = [placed(thing, ways, drop) for thing in things]
    forms = REGISTERS[register]
    beginning, behind = forms[int(ways.number("template") * len(forms))]
    text = beginning.format(body=listed(phrases) if phrases else "nothing")
    if ways.number("drop ground") >= drop:
        text += behind.format(ground=ways.say("ground", GROUNDS[scene.ground]))
    if scene.rendering != "flat" and ways.number("drop rendering") >= drop:
        text += f", in {ways.say('opening', RENDERINGS[scene.rendering])}"
    if scene.palette != "natural" and ways.number("drop palette") >= drop:
        text += f", {ways.say('palette', PALETTES[scene.palette])}"
    return text + signals(scene)
