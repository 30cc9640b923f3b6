"""Documents: two or three scenes with ordered sentences, the first of which defines a new word.

The word stands for a concept in a colour and texture: the subject of every page.
"""

from dataclasses import replace

from diptych.data.sample import Text, image_of
from diptych.data.worlds.scenes.captions import Ways, phrase
from diptych.data.worlds.scenes.config import Config
from diptych.data.worlds.scenes.facts import Lot, Scene
from diptych.data.worlds.scenes.sample import draw
from diptych.data.worlds.scenes.words import GROUNDS, NUMBERS, PLACES, article, plural

_STARTS = ("bl", "d", "f", "gr", "k", "m", "p", "sn", "t", "v", "w", "z")
_MIDDLES = ("a", "e", "i", "o", "u")
_JOINS = ("b", "ck", "d", "ff", "g", "l", "nk", "p", "rt", "x", "zz")
_ENDS = ("a", "em", "ib", "o", "ut")


def document(scene: Scene, config: Config, seed: int) -> Scene:
    """The scene with further pages that show its subject again, and with the new word for it."""
    lot = Lot(scene.seed, "document")
    count = lot.pick(config.lengths)
    if count == 1:
        return scene
    pages = tuple(
        draw(config, seed, scene.number, page=page, lead=scene.things[0])
        for page in range(1, count)
    )
    word = "".join(lot.pick(part) for part in (_STARTS, _MIDDLES, _JOINS, _ENDS))
    return replace(scene, pages=pages, word=word)


def reported(scene: Scene) -> list[Text]:
    """The sentences in order; `attrs` hold the image and the objects that each describes."""
    found: list[Text] = []
    subject = scene.things[0]

    def tell(text: str, page: int, ids: tuple[int, ...]) -> None:
        attrs = {"image": image_of(page), "objects": ids, "order": len(found)}
        if len(found) == 0:
            attrs["defines"] = scene.word
        found.append(Text(text=text, role="document", attrs=attrs))

    for page, shown in enumerate((scene, *scene.pages)):
        way = Ways.of(shown)["pages"]
        if page == 0:
            kind = phrase(replace(subject, items=subject.items[:1], size=""), way)
            tell(f"{article(scene.word)} is {kind}.", page, subject.ids)
        lead, *others = shown.known
        name = (
            article(scene.word)
            if lead.count == 1
            else f"{NUMBERS[lead.count]} {plural(scene.word)}"
        )
        place = f" {way.say('place', PLACES[lead.place], lead)}" if lead.place else ""
        ground = way.say("ground", GROUNDS[shown.ground])
        starts = (
            ("here is", "next comes", "last comes")
            if lead.count == 1
            else ("here are", "next come", "last come")
        )
        tell(f"{starts[page]} {name}{place}, on {ground}.", page, lead.ids)
        for thing in others:
            place = f" {way.say('place', PLACES[thing.place], thing)}" if thing.place else ""
            tell(f"beside it is {phrase(thing, way)}{place}.", page, thing.ids)
    return found
