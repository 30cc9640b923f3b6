"""Does a search by one picture of each class drop the sentences that are wrong, and name other pictures better?

`tiny` stays as it is. Twenty classes are varieties of five objects, four of each, with made-up names ("vell cat") in
which the model can read the object alone. A variety has a colour and a place, and a picture of it has each of the two
with probability .8. Of each ten sentences are given, as by a language model: four tell its colour and place, four the
colours and places of other varieties of the object, two are true of all classes.

    single, templates           the name in one prompt, in the 80 of ImageNet
    descriptions                one prompt with all ten sentences: two fifths of them are false
    proapo                      the method
    accuracy                    without the entropy term
    edits                       without mutation and crossover
    random_groups               groups of the same sizes, of classes drawn by lot
    shuffled                    the pictures under each other's names: there is nothing to find

`top1` is that on pictures of other scenes, `false` the share of false sentences among those that are kept (that among
all, where none is), `kept` how many are kept of a class. On seed 100 top1 was .68 (descriptions), .84 (proapo) and .75
(accuracy), `false` .40, .21 and .38. Before that, varieties had a ground and a texture too, which the model hardly
reads, so that false sentences about them could not be told. Nothing else was tried.

This is the second form of the claim. The first, on seeds 0 to 9, failed by one condition that was ill put: that under
shuffled names false sentences should be as common as before. There the search keeps .7 of ten sentences, and a share of
so few says nothing. All else held (top1 .80 against .69, and .74 by accuracy alone; false .28 against .40). That
condition is gone, and the seeds are new.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.templates import templates
from diptych.data.worlds.scenes import Config, World
from diptych.data.worlds.scenes.words import COLOURS, PLACES, article
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.adapt.proapo.prompt_sets import PromptSets
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.metrics import class_ranks
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

OBJECTS = ("cat", "mushroom", "airplane", "house", "guitar")
WORDS = ("vell", "dorn", "mip", "zorp")  # of the varieties; none is a word that the model knows
TYPICAL = 0.8
PICTURES = 25  # of each class to measure with
SHARED = ("there is one thing.", "this is a picture.")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A variety of an object: its name, colour and place, and what is said of it that is so, and that is not."""

    name: str
    concept: str
    colour: str
    place: str
    true: tuple[str, ...]
    false: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is said of it."""
        return self.true + self.false + SHARED


def kinds(seed: int) -> list[Kind]:
    """The classes of a seed: the varieties of an object differ in colour and in place."""
    rng, found = generator(seed, "proapo", "kinds"), []
    for concept in OBJECTS:
        colours, places = (rng.permutation(list(known))[: len(WORDS)].tolist() for known in (COLOURS, PLACES))
        for at, (word, colour, place) in enumerate(zip(WORDS, colours, places, strict=True)):
            wrong = [rng.permutation(values[:at] + values[at + 1 :]).tolist() for values in (colours, places)]
            found.append(Kind(
                name=f"{word} {concept}", concept=concept, colour=colour, place=place,
                true=told(concept, (colour, colour), (place, place)), false=told(concept, *wrong),
            ))  # fmt: skip
    return found


def told(concept: str, colours: Sequence[str], places: Sequence[str]) -> tuple[str, ...]:
    """Two sentences about the colour of an object, and two about its place."""
    return (
        f"the {concept} is {colours[0]}.",
        f"it is {article(f'{colours[1]} {concept}')}.",
        f"the {concept} is {PLACES[places[0]][0]}.",
        f"it is {PLACES[places[1]][2]}.",
    )


def scenes(kind: Kind, seed: int, index: int, count: int) -> Iterator[Image.Image]:
    """Pictures of a class, scenes from number `index` on: each has its colour, and its place, with probability TYPICAL,
    else as it comes."""
    world = World(Config(number=1, split="test", objects=kind.concept, styles="seen"))
    for _ in range(count):
        rng = generator(seed, "proapo", kind.name, index)
        coloured, placed = rng.random(2) < TYPICAL
        while placed and world.sample(seed, index).things[0].place != kind.place:
            index += 1
        scene, index = world.sample(seed, index), index + 1
        yield world.render(scene.with_thing(0, colour=kind.colour) if coloured else scene).image


def draw(trial: Trial) -> dict[str, Any]:
    """The classes of the seed, a folder of one picture of each, what is said of them, and others to measure with."""
    found = kinds(trial.seed)
    pixels, labels = [], []
    for number, kind in enumerate(found):
        first, *others = scenes(kind, trial.seed, 10_000 * number, 1 + (5 if trial.quick else PICTURES))
        (trial.folder / "pictures" / kind.name).mkdir(parents=True)
        first.save(trial.folder / "pictures" / kind.name / "0.png")
        pixels += others
        labels += [number] * len(others)
    path = trial.folder / "descriptions.json"
    path.write_text(json.dumps({kind.name: kind.sentences for kind in found}), encoding="utf-8")
    vectors = load("tiny").embed_images(pixels)
    return {"data": str(trial.folder / "pictures"), "descriptions": str(path), "vectors": vectors,
            "labels": np.array(labels)}  # fmt: skip


def searched(change: Callable[[Method], None] | None = None, **config: Any) -> Callable[[Trial], dict[str, float]]:
    """An arm: prompts that were searched for."""

    def arm(trial: Trial) -> dict[str, float]:
        bank = "pictures" if trial.quick else "imagenet"
        settings = resolve(
            "proapo",
            {"train": trial.prelude["data"]},
            init="tiny",
            config={"templates": bank, "descriptions": trial.prelude["descriptions"], **config},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run").classifier, trial)

    return arm


def given(bank: str, described: bool = False) -> Callable[[Trial], dict[str, float]]:
    """An arm: prompts as they are, without a search."""

    def arm(trial: Trial) -> dict[str, float]:
        tiny: Any = load("tiny")
        sets, found = PromptSets(tiny.encoder, tiny.tokenizer), kinds(trial.seed)
        units = {kind.name: [(kind.name, sentence) for sentence in kind.sentences] for kind in found}
        sets.choose(templates(bank), units if described else {})
        sets.set_classes([kind.name for kind in found])
        return measure(sets, trial)

    return arm


def measure(sets: PromptSets, trial: Trial) -> dict[str, float]:
    """Accuracy on other pictures; where there are sentences, how many are kept and how many of them are false."""
    found = kinds(trial.seed)
    columns = [sets.classes.index(kind.name) for kind in found]
    rank = class_ranks(trial.prelude["vectors"] @ sets.text_features()[columns].T, trial.prelude["labels"])
    numbers = {"top1": float((rank <= 1).mean())}
    if sets.units:
        kept = [(kind, sentence) for kind in found for _, sentence in sets.units[kind.name] if sentence]
        false = sum(sentence in kind.false for kind, sentence in kept)
        numbers["false"] = false / len(kept) if kept else len(found[0].false) / len(found[0].sentences)
        numbers["kept"] = len(kept) / len(found)
    return numbers


def edits_alone(method: Any) -> None:
    """Search without mutation and crossover."""
    method.operators = replace(method.operators, mutate=0, cross=0)


def by_lot(method: Any) -> None:
    """Search groups of classes drawn by lot, of the sizes that the method's have."""
    chosen = method.groups

    def groups(search: Any) -> list[np.ndarray]:
        return [search.rng.permutation(len(search.there))[: len(group)] for group in chosen(search)]

    method.groups = groups


def shuffle(method: Any) -> None:
    """Score against the pictures under each other's names."""
    judge = method._judge

    def shuffled(run: Any) -> Any:
        found = judge(run)
        found.labels = found.labels.roll(1)
        return found

    method._judge = shuffled


claim = Claim(
    question=(
        "A search over prompts by one picture of each class drops sentences that are false, and names other pictures "
        "better than all sentences do; with the entropy term it does so better than by accuracy alone."
    ),
    seeds=(10, 11, 12, 13, 14, 15, 16, 17, 18, 19),
    prelude=draw,
    arms={
        "single": given("plain"),
        "templates": given("imagenet"),
        "descriptions": given("plain", described=True),
        "proapo": searched(),
        "accuracy": searched(w_ce=0.0),
        "edits": searched(edits_alone),
        "random_groups": searched(by_lot),
        "shuffled": searched(shuffle),
    },
    expect=(
        better("top1", "proapo", over="descriptions", breaking=("shuffled",)),
        better("false", "proapo", over="descriptions", higher=False),
        better("top1", "proapo", over="accuracy"),
    ),
    floor=Floor("top1", chance=1 / (len(OBJECTS) * len(WORDS)), arms=("descriptions", "proapo", "accuracy")),
    table=("top1", "false", "kept"),
)
