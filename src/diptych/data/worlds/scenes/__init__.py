"""`scenes`: drawings and plain shapes on named grounds, with full annotation.

config.py    every option                    sample.py    sampling of scenes
words.py     the vocabulary                  edits.py     minimal edits and siblings
concepts.py  concepts, what is held out      texts.py     all roles of texts
draw.py      pixels, masks, depth, boxes     parse.py     parser of captions
pairs.py     captions of graded similarity   film.py      clips
judge.py     which facts of a text are true
documents.py several images with sentences   comparisons.py  statements about two images
registers.py captions in a register
"""

from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from diptych.data.sample import Sample, Schema, Text, image_of
from diptych.data.worlds import _base
from diptych.data.worlds._base import Rendered
from diptych.data.worlds.scenes.concepts import catalogue
from diptych.data.worlds.scenes.config import EDITS, SIGNAL, Config
from diptych.data.worlds.scenes.documents import document, reported
from diptych.data.worlds.scenes.draw import rendered
from diptych.data.worlds.scenes.edits import edited, instruction, sibling, variations
from diptych.data.worlds.scenes.example import example, schema
from diptych.data.worlds.scenes.facts import Scene
from diptych.data.worlds.scenes.film import filmed, told
from diptych.data.worlds.scenes.judge import judged
from diptych.data.worlds.scenes.pairs import pair_of
from diptych.data.worlds.scenes.sample import draw
from diptych.data.worlds.scenes.texts import texts
from diptych.errors import InputError, unknown

card = {"title": "Drawings and shapes on textured grounds, with everything known about them"}


class World(_base.World[Scene]):
    """Scenes of a config.

    >>> world = World(Config(number=1))
    >>> scene = world.sample(seed=0, index=7)
    >>> scene.things[0].concept
    'guitar'
    """

    name: ClassVar[str] = "scenes"
    kinds: ClassVar[tuple[str, ...]] = (*EDITS, SIGNAL)
    config: Config

    def __init__(self, config: Config):
        super().__init__(config)
        self.catalogue = catalogue(config)

    @cached_property
    def usual(self) -> dict[str, str]:
        """The usual colour of each concept; empty without a bias.

        >>> World(Config(bias=0.9)).usual["banana"]
        'red'
        """
        if self.config.bias is None:
            return {}
        return {name: self.catalogue.usual(name) for name in self.catalogue.classes}

    def key(self, seed: int, index: int) -> str:
        """The unique key, which contains the split since each split has its own streams."""
        return f"{self.config.split}-{super().key(seed, index)}"

    def sample(self, seed: int, index: int) -> Scene:
        """The facts of a sample."""
        config = self.config
        number, member = divmod(index, config.siblings)
        if config.pool:
            number %= config.pool
        scene = draw(config, seed, number)
        if max(config.lengths) > 1:
            return document(scene, config, seed)
        if config.film:
            return filmed(scene, config, self.catalogue)
        return sibling(scene, member, config, self.catalogue)

    def render(self, facts: Scene) -> Rendered:
        """Image, masks `instance`, `coarse` and `class`, arrays `depth` and `factors`, boxes with
        texts."""
        drawn = self._render(facts)
        boxes = list(drawn.boxes)
        for at, page in enumerate(facts.pages, 1):
            boxes += [replace(box, image=image_of(at)) for box in self._render(page).boxes]
        return replace(drawn, boxes=boxes)

    def _render(self, scene: Scene) -> Rendered:
        config = self.config
        number = {name: at for at, name in enumerate(self.catalogue.classes)}
        classes = {at: number.get(thing.concept, -1) for thing in scene.things for at in thing.ids}
        signals = {"easy": config.easy, "hard": config.hard, "stamp": config.stamp}
        return rendered(scene, config.size, classes, **signals)

    def captions(self, facts: Scene) -> list[Text]:
        """The texts of the config's roles, with the instruction of an edited scene and the
        sentences of a document; the caption of a film tells what happens."""
        config = self.config
        whole = config.kinds or facts.change or config.siblings > 1 or config.pair
        drop = 0.0 if whole else config.drop
        found = texts(
            facts,
            config.roles,
            drop,
            self.catalogue.classes,
            config.long,
            config.asked,
            self.usual,
        )
        if facts.film:
            found = [
                replace(each, text=told(each.text, facts)) if each.role == "caption" else each
                for each in found
            ]
        if facts.change:
            found.append(Text(text=instruction(facts), role="instruction"))
        if config.pair:
            found.append(pair_of(facts, config, self.catalogue))
        return found + (reported(facts) if facts.pages else [])

    def edit(self, facts: Scene, kind: str, turn: int = 0) -> Scene:
        """The `turn`-th edit of a kind. Raises InputError for an unknown kind, and if the scene
        permits none."""
        after = self.edited(facts, kind, turn)
        if after is None:
            raise InputError(
                f"scene {facts.number} leaves no room for the edit {kind!r}; take another kind or scene"
            )
        return after

    def edited(self, facts: Scene, kind: str, turn: int = 0) -> Scene | None:
        """The `turn`-th edit of a kind; None if the scene permits none."""
        if kind not in self.kinds:
            raise unknown("edit of scenes", kind, self.kinds)
        return edited(facts, kind, self.config, self.catalogue, turn)

    def judge(self, text: str, facts: Scene) -> tuple[int, int]:
        """How many facts a text states of a scene or its clip, and how many of them are true."""
        return judged(text, facts, self.config.film)

    def items(self, facts: Scene) -> list[str]:
        """The concepts that captions describe, which `vary` can replace."""
        return [thing.concept for thing in facts.known if thing.described]

    def vary(self, facts: Scene, item: str, count: int) -> list[Scene]:
        """At most `count` scenes with another concept in the place of `item`, all else kept."""
        return variations(facts, item, count, self.config, self.catalogue)

    def example(self, facts: Scene, key: str) -> Sample:
        """The sample of a scene, with the edits in the config."""
        return example(self, facts, key)

    def schema(self) -> Schema:
        """The fields of samples."""
        return schema(self.config, self.catalogue)


__all__ = ["Config", "Scene", "World", "card"]
