"""Photographs of a catalogue whose classes have numbers for names ("vehicle 2"), and sentences about
each class, true and false.

The photographs are those of `imagenet-1k-sample`, one of each concept of ImageNet. A class is a word
of WordNet and holds the concepts below it. There are three or four classes of each of five kinds. The
name says the kind alone, and the seed draws which class a number means. Each class has ten
sentences, as a language model may write them: four true ones, four that are true of other classes of
its kind, two that are true of all.

The classes were chosen with the pair of seed 100: birds, insects, cats, monkeys, bottles and clocks,
which it hardly recognised by their plain words, and aircraft, of which there are four photographs,
were left out. Names with made-up words in place of numbers ("vell vehicle") halved its accuracy.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diptych.errors import InputError
from diptych.lab.claim import Trial
from diptych.lab.joined import Pair, Towers, join
from diptych.rng import generator

PACK = "imagenet-1k-sample"
MOST = 20  # photographs of a class
SHOTS = 4  # of them, those that a method learns from
KINDS: Mapping[str, Mapping[str, Sequence[str]]] = {
    # kind: the classes as words of WordNet, with what is true of each
    "animal": {
        "dog": (
            "it is a dog.",
            "people walk it on a leash.",
            "it has a wet nose and a wagging tail.",
            "it barks and fetches a stick.",
        ),
        "ungulate": (
            "it is a cow, a sheep or a goat.",
            "it has hooves.",
            "it grazes in a pasture.",
            "it has horns on its head.",
        ),
        "snake": (
            "it is a snake.",
            "it has scales and no legs.",
            "it coils up on the ground.",
            "it has a forked tongue.",
        ),
        "fish": (
            "it is a fish.",
            "it swims under water.",
            "it has fins and gills.",
            "it is caught with a rod and a hook.",
        ),
    },
    "vehicle": {
        "car": (
            "it is a car.",
            "it is parked in the street.",
            "it carries a family of four.",
            "it has four wheels and a windshield.",
        ),
        "truck": (
            "it is a truck.",
            "it hauls heavy loads.",
            "it has a high cab and many wheels.",
            "firemen or workmen drive it.",
        ),
        "boat+ship": (
            "it is a boat.",
            "it floats on the water.",
            "it has a deck and a hull.",
            "it has sails or oars.",
        ),
    },
    "food": {
        "edible fruit": (
            "it is a fruit.",
            "it is sweet and juicy.",
            "it grows on a tree.",
            "it may be a banana or an orange.",
        ),
        "vegetable": (
            "it is a vegetable.",
            "it is cooked or put into a salad.",
            "it is green and crisp.",
            "it grows in a garden bed.",
        ),
        "fungus": (
            "it is a mushroom.",
            "it has a cap and a stem.",
            "it grows in the woods after rain.",
            "it may be poisonous.",
        ),
        "nutriment": (
            "it is a meal on a plate.",
            "it is served hot.",
            "it has meat and cheese.",
            "it may be a pizza or a burger.",
        ),
    },
    "thing": {
        "ball": (
            "it is a ball.",
            "it is thrown, kicked or hit.",
            "it is used in a game.",
            "it is round.",
        ),
        "headdress": (
            "it is a hat.",
            "it is worn on the head.",
            "it keeps off the sun.",
            "it has a brim.",
        ),
        "garment": (
            "it is a piece of clothing.",
            "a woman or a man wears it.",
            "it is made of cloth.",
            "it has sleeves and buttons.",
        ),
        "musical instrument": (
            "it is a musical instrument.",
            "a musician plays it on stage.",
            "it has strings or keys.",
            "it makes music.",
        ),
    },
    "scene": {
        "furniture": (
            "it is a room with furniture.",
            "people sit or sleep there.",
            "it is inside a house.",
            "it has a bed, a table or a chair.",
        ),
        "building": (
            "it is a building.",
            "it has walls, windows and a roof.",
            "people go in by its door.",
            "it stands in a town.",
        ),
        "geological formation": (
            "it is a mountain or a coast.",
            "it is a wide view with no people.",
            "waves break on its sand or its rocks.",
            "it is a landmark of nature.",
        ),
        "mercantile establishment": (
            "it is a shop.",
            "it sells goods on shelves.",
            "customers walk in from the street.",
            "it has a counter and a sign.",
        ),
    },
}
CLASSES = sum(map(len, KINDS.values()))
SHARED = ("there is one in the photo.", "this can be seen in the picture.")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A class of the catalogue: its name, a number of a kind, the word of WordNet that it stands
    for, and true and false sentences about it."""

    name: str
    word: str
    true: tuple[str, ...]
    false: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences about it."""
        return self.true + self.false + SHARED


def entries(seed: int) -> list[Entry]:
    """The catalogue of a seed: which class each number means, and which false sentences it has."""
    rng = generator(seed, "catalogue")
    found = []
    for kind, members in KINDS.items():
        for number, word in enumerate(rng.permutation(list(members)).tolist(), 1):
            others = [text for other in members if other != word for text in members[other]]
            entry = Entry(
                name=f"{kind} {number}",
                word=word,
                true=tuple(members[word]),
                false=tuple(rng.permutation(others)[: len(members[word])].tolist()),
            )
            found.append(entry)
    return found


def photographs(word: str, seed: int) -> list[Image.Image]:
    """At most MOST photographs of the concepts below a word of WordNet (or below one of several,
    joined by `+`), in an order of the seed."""
    found = [key for key, above in _concepts().items() if above & set(word.split("+"))]
    chosen = generator(seed, "catalogue", word).permutation(sorted(found))[:MOST]
    with tarfile.open(_pack()) as file:
        return [_image(file, key) for key in chosen.tolist()]


def _image(file: tarfile.TarFile, key: str) -> Image.Image:
    member = file.extractfile(f"{key}.jpg")
    assert member is not None
    return Image.open(io.BytesIO(member.read())).convert("RGB")


@cache
def _concepts() -> dict[str, set[str]]:
    """The words of WordNet above the concept of each photograph, by its key."""
    found = {}
    with tarfile.open(_pack()) as file:
        for member in file.getmembers():
            if member.name.endswith(".json"):
                content = file.extractfile(member)
                assert content is not None
                found[member.name.removesuffix(".json")] = set(json.load(content)["hypernyms"])
    return found


def _pack() -> Path:
    path = Path(os.environ.get("DIPTYCH_DATA", ""), PACK, "all.tar")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; set DIPTYCH_DATA to the folder that holds {PACK}/"
        )
    return path


@dataclass(frozen=True)
class Stock:
    """What a seed's prelude hands to the arms: the pair that is searched on, the one that uses the
    prompts, the folder of SHOTS photographs of each class, the file of sentences, the other
    photographs by the second pair and their classes."""

    source: Pair
    target: Pair
    data: str
    sentences: str
    vectors: Tensor
    labels: np.ndarray


def stock(trial: Trial) -> Stock:
    """Join both pairs, write the photographs and sentences, and embed the test."""
    classes = entries(trial.seed)
    folder = trial.folder / "photographs"
    test = []
    labels = []
    for number, entry in enumerate(classes):
        photos = photographs(entry.word, trial.seed)
        (folder / entry.name).mkdir(parents=True)
        for index, photo in enumerate(photos[:SHOTS]):
            photo.save(folder / entry.name / f"{index}.png")
        others = photos[SHOTS:][: 2 if trial.quick else None]
        test += others
        labels += [number] * len(others)
    path = trial.folder / "sentences.json"
    path.write_text(
        json.dumps({entry.name: entry.sentences for entry in classes}), encoding="utf-8"
    )
    target = join(trial)
    return Stock(
        source=join(trial, Towers(lite=2, layers=3)),
        target=target,
        data=str(folder),
        sentences=str(path),
        vectors=target.load().embed_images(test),
        labels=np.array(labels),
    )
