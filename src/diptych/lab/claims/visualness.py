"""draft"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.pages import label, write
from diptych.data.sources import open_source
from diptych.data.worlds import build
from diptych.data.worlds.scenes.captions import Ways, phrase
from diptych.data.worlds.scenes.words import GROUNDS, PLACES
from diptych.data.worlds.sentences.mixed import held, padded
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, equal, not_worse
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = {"number": 2, "same": 0, "drop": 0, "texts": "caption"}
PAGES, PICTURES, OTHERS = 400, 2, 4
HUMAN, VAL, TEST = 300, 200, 600
WORDS = range(19, 26)
Row = dict[str, Any]


class Writer:
    """Scenes of one seed in order, as pictures on disk and sentences."""

    def __init__(self, trial: Trial, split: str = "train"):
        self.world = build("scenes", {**SCENES, "split": split})
        self.seed, self.folder, self.at = trial.seed, trial.folder / split, 0
        self.split = split
        self.folder.mkdir()

    def scene(self):
        self.at += 1
        return self.world.sample(self.seed, self.at - 1)

    def visual(self, rng) -> tuple[str, str, Any]:
        scene = self.scene()
        sample = self.world.example(scene, self.world.key(self.seed, self.at))
        path = self.folder / f"{self.at}.png"
        sample.images["main"].decode().save(path)
        return f"{self.split}/{path.name}", padded(sample.texts[0].text, int(rng.choice(WORDS)), rng), scene

    def abstract(self, rng, scene=None) -> str:
        scene = scene or self.scene()
        ways = Ways.of(scene)["caption"]
        one, two = (phrase(scene.things[at], ways, 0.4) for at in rng.permutation(2).tolist())
        where = ways.say("ground", GROUNDS[scene.ground])
        place = f"on {where}" if rng.random() < 0.5 else ways.say("place", PLACES[scene.things[0].place or "top left"], scene.things[0])
        return padded(held(one, two, place, rng), int(rng.choice(WORDS)), rng)


def table(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labelled(writer, count, rng):
    for at in range(count):
        if at % 3 == 0:
            image, text, _ = writer.visual(rng)
            yield {"text": text, "image": image, "label": 1}
        else:
            yield {"text": writer.abstract(rng), "image": None, "label": 0}


def pages(writer, count, rng):
    for page in range(count):
        shown = [writer.visual(rng) for _ in range(PICTURES)]
        for image, text, _ in shown:
            yield {"image": image, "page_id": f"p{page}"}
        said = [(text, 1) for _, text, _ in shown]
        said += [(writer.abstract(rng, shown[0][2] if rng.random() < 0.5 else None), 0) for _ in range(OTHERS)]
        for text, truth in said:
            yield {"text": text, "page_id": f"p{page}", "truth": truth}


def draw(trial: Trial):
    rng = generator(trial.seed, "visualness")
    train, test = Writer(trial), Writer(trial, "test")
    part = 10 if trial.quick else 1
    data = {"pages": table(trial.folder / "pages.jsonl", pages(train, PAGES // part, rng))}
    data["human"] = table(trial.folder / "human.jsonl", labelled(train, HUMAN // min(part, 4), rng))
    for name, count in (("val", VAL), ("test", TEST)):
        data[name] = table(trial.folder / f"{name}.jsonl", labelled(test, count // part, rng))
    source = open_source(data["pages"])
    found = label(source, load("tiny"), positive="25%", negative="45%")
    write(found, source, trial.folder / "auto.jsonl")
    data["auto"] = str(trial.folder / "auto.jsonl")
    return data
