"""Does a search by one image of each class drop the sentences that are wrong, and name other images
better?

The model is `tiny`, frozen. Twenty classes are varieties of five objects, four of each, with
made-up names ("vell cat") of which the model knows only the object. A variety has a colour and a
place, and an image of it has each of the two with probability .8. Each class has ten sentences, as
a language model may write them: four state its colour and place, four the colours and places of
other varieties of the object, two are true of all classes.

    single, templates           the name in one prompt, in the 80 of ImageNet
    descriptions                one prompt with all ten sentences: two fifths of them are false
    proapo                      the method
    accuracy                    without the entropy term
    edits                       without mutation and crossover
    random_groups               groups of the same sizes, of classes drawn at random
    shuffled                    images with wrong labels: there is nothing to find

`top1` is measured on images of other scenes. `false` is the share of false sentences among the true
and false ones that are kept (.5 where none is kept), `kept` the number of sentences that are kept of
a class. The sentences that are true of all classes count as neither.

The first edition, on seeds 200 to 204, held (+.113). The second asked the same on seeds 220 to 224,
again with a single look, and was undecided (+.069, -.006 to .143). The third has three looks.
Earlier forms of this claim, on seeds 0 to 19, set varieties apart by a ground and a texture too,
which the model hardly reads, counted the shared sentences in the denominator of `false`, and named
`shuffled` as what breaks the gain. What the paper says is its cause is which classes are searched
together.

The block `real` asks whether prompts serve a model that they were not searched on, on photographs.
`tiny` names photographs no better than chance, so the search is on a pair of towers that were
trained apart and joined (`lab.joined`): EfficientNet-Lite2 and the first three layers of MiniLM. The
prompts are then used by the other pair, EfficientNet-Lite0 and all of MiniLM. The classes are those
of a catalogue with numbers for names (`_catalogue`), with ten sentences each, as above. SHOTS
photographs of each class are searched by; all others are the test.

    templates           the name in the 80 templates of ImageNet
    descriptions        one prompt with all ten sentences
    transferred         prompts that were searched on the first pair
    misled              the same, searched by wrong labels
    searched            prompts that were searched on the second pair itself
    tip, tip_found      votes of the same photographs (tip_adapter) beside the name in the one
                        template, and beside `transferred`
    cones, cones_found  vectors learnt from the same photographs (cones), which begin as the name in
                        the one template, and as `transferred`
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.data.templates import templates
from diptych.data.worlds.scenes import Config, World
from diptych.data.worlds.scenes.words import COLOURS, PLACES, article
from diptych.lab.claim import Arm, Claim, Floor, Trial, Tuned, better
from diptych.lab.claims._catalogue import CLASSES, Entry, entries, stock
from diptych.lab.joined import Pair
from diptych.methods.adapt.proapo.prompt_sets import PromptSets
from diptych.methods.base import Method
from diptych.methods.store import load, read_prompts
from diptych.metrics import class_ranks
from diptych.models.class_prompts import ClassPrompts
from diptych.models.classifier import Classifier
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

OBJECTS = ("cat", "mushroom", "airplane", "house", "guitar")
WORDS = ("vell", "dorn", "mip", "zorp")  # of the varieties; none is a word that the model knows
TYPICAL = 0.8
IMAGES = 25  # of each class in the test set
SHARED = ("there is one thing.", "this is an image.")


@dataclass(frozen=True, kw_only=True)
class Variety:
    """A class: a variety of an object with its name, colour and place, and true and false sentences
    about it."""

    name: str
    concept: str
    colour: str
    place: str
    true: tuple[str, ...]
    false: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All sentences about it."""
        return self.true + self.false + SHARED


def varieties(seed: int) -> list[Variety]:
    """The classes of a seed: the varieties of an object differ in colour and in place."""
    rng = generator(seed, "proapo", "kinds")
    classes = []
    for concept in OBJECTS:
        colours = rng.permutation(list(COLOURS))[: len(WORDS)].tolist()
        places = rng.permutation(list(PLACES))[: len(WORDS)].tolist()
        for index, word in enumerate(WORDS):
            other_colours = rng.permutation(colours[:index] + colours[index + 1 :]).tolist()
            other_places = rng.permutation(places[:index] + places[index + 1 :]).tolist()
            colour = colours[index]
            place = places[index]
            variety = Variety(
                name=f"{word} {concept}",
                concept=concept,
                colour=colour,
                place=place,
                true=sentences_about(concept, (colour, colour), (place, place)),
                false=sentences_about(concept, other_colours, other_places),
            )
            classes.append(variety)
    return classes


def sentences_about(concept: str, colours: Sequence[str], places: Sequence[str]) -> tuple[str, ...]:
    """Two sentences about the colour of an object, and two about its place."""
    return (
        f"the {concept} is {colours[0]}.",
        f"it is {article(f'{colours[1]} {concept}')}.",
        f"the {concept} is {PLACES[places[0]][0]}.",
        f"it is {PLACES[places[1]][2]}.",
    )


def images(variety: Variety, seed: int, index: int, count: int) -> Iterator[Image.Image]:
    """Images of a class, from scene number `index` on.

    With probability TYPICAL each has the colour of the class, and with the same probability its
    place; otherwise colour and place are those of the scene.
    """
    world = World(Config(number=1, split="test", objects=variety.concept, styles="seen"))
    for _ in range(count):
        rng = generator(seed, "proapo", variety.name, index)
        coloured, placed = rng.random(2) < TYPICAL
        while placed and world.sample(seed, index).things[0].place != variety.place:
            index += 1
        scene = world.sample(seed, index)
        index += 1
        yield world.render(scene.with_thing(0, colour=variety.colour) if coloured else scene).image


def draw(trial: Trial) -> dict[str, Any]:
    """The training folder with one image of each class, the sentences, and the embedded test
    images."""
    classes = varieties(trial.seed)
    folder = trial.folder / "images"
    test_images = []
    labels = []
    for number, variety in enumerate(classes):
        first, *others = images(
            variety, trial.seed, 10_000 * number, 1 + (5 if trial.quick else IMAGES)
        )
        (folder / variety.name).mkdir(parents=True)
        first.save(folder / variety.name / "0.png")
        test_images += others
        labels += [number] * len(others)
    path = trial.folder / "descriptions.json"
    path.write_text(
        json.dumps({variety.name: variety.sentences for variety in classes}), encoding="utf-8"
    )
    return {
        "data": str(folder),
        "descriptions": str(path),
        "vectors": load("tiny").embed_images(test_images),
        "labels": np.array(labels),
    }


def searched(
    change: Callable[[Method], None] | None = None, **config: Any
) -> Callable[[Trial], dict[str, Any]]:
    """An arm with a search for prompts; `change` alters the method before it runs."""

    def arm(trial: Trial) -> dict[str, Any]:
        bank = "images" if trial.quick else "imagenet"
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


def without_search(bank: str, descriptions: bool = False) -> Callable[[Trial], dict[str, Any]]:
    """An arm with all templates of a bank, and with `descriptions` all sentences of each class."""

    def arm(trial: Trial) -> dict[str, Any]:
        tiny: Any = load("tiny")
        classes = varieties(trial.seed)
        units = {}
        if descriptions:
            for variety in classes:
                units[variety.name] = [(variety.name, sentence) for sentence in variety.sentences]
        sets = PromptSets(tiny.encoder, tiny.tokenizer)
        sets.choose(templates(bank), units)
        sets.set_classes([variety.name for variety in classes])
        return measure(sets, trial)

    return arm


def measure(sets: PromptSets, trial: Trial) -> dict[str, Any]:
    """Which of the test images are named rightly; where there are sentences, how many are kept and how many of
    those are false."""
    classes = varieties(trial.seed)
    columns = [sets.classes.index(variety.name) for variety in classes]
    rank = class_ranks(
        trial.prelude["vectors"] @ sets.text_features()[columns].T, trial.prelude["labels"]
    )
    return {"top1": rank <= 1, **sentences_kept(sets, classes)}


def sentences_kept(sets: PromptSets, classes: Sequence[Variety | Entry]) -> dict[str, float]:
    """The number of sentences that are kept of a class, and the share of false ones; {} where there
    are none to keep."""
    if not sets.units:
        return {}
    count = 0
    true = 0
    false = 0
    for each in classes:
        sentences = [sentence for _, sentence in sets.units[each.name] if sentence]
        count += len(sentences)
        true += sum(sentence in each.true for sentence in sentences)
        false += sum(sentence in each.false for sentence in sentences)
    return {
        "false": false / (true + false) if true + false else 0.5,
        "kept": count / len(classes),
    }


def edits_alone(method: Any) -> None:
    """Search without mutation and crossover."""
    method.operators = replace(method.operators, mutate=0, cross=0)


def random_groups(method: Any) -> None:
    """Search groups of random classes, as many and as large as the method's."""
    select_groups = method.select_groups

    def groups(search: Any) -> list[np.ndarray]:
        return [
            search.rng.permutation(len(search.exists))[: len(group)]
            for group in select_groups(search)
        ]

    method.select_groups = groups


def shuffle(method: Any) -> None:
    """Score on images each of which has the label of another class; there are as many of each, in
    their order."""
    make_scorer = method._scorer

    def shuffled(run: Any) -> Any:
        scorer = make_scorer(run)
        scorer.labels = scorer.labels.roll(len(scorer.labels) // len(scorer.labels.unique()))
        return scorer

    method._scorer = shuffled


claim = Claim(
    question=(
        "Prompts that a search chose by one image of each class name other images better than all sentences together."
    ),
    edition=3,
    prelude=draw,
    arms={
        "single": without_search("plain"),
        "templates": without_search("imagenet"),
        "descriptions": without_search("plain", descriptions=True),
        "proapo": searched(),
        "accuracy": searched(w_ce=0.0),
        "edits": searched(edits_alone),
        "random_groups": searched(random_groups),
        "shuffled": searched(shuffle),
    },
    headline=(better("top1", "proapo", over="descriptions"),),
    mechanism=("random_groups",),
    checks=(
        better("top1", "proapo", over="shuffled"),
        better("false", "proapo", over="descriptions", higher=False),
        better("false", "proapo", over="shuffled", higher=False),
        better("top1", "proapo", over="accuracy"),
        better("top1", "proapo", over="edits"),
        better("top1", "proapo", over="templates"),
    ),
    delta=0.02,
    looks=(5, 10, 20),
    tuned=Tuned(effect=0.086, sd=0.034, best=0.803, chance=1 / 20, seconds=58),
    steps=False,
    floor=Floor(
        "top1", chance=1 / (len(OBJECTS) * len(WORDS)), arms=("descriptions", "proapo", "accuracy")
    ),
    table=("top1", "false", "kept"),
)


# ---- another model, and photographs

TEMPLATE = "a photo of a {}."
RATE = 0.03  # of cones with either start: of .001, .003, .01, .03, .1 and .3, on seeds 100 and 101


def search(pair: Pair, trial: Trial, change: Callable[[Method], None] | None = None) -> str:
    """Search for prompts on a pair, and return the run's folder."""
    out = trial.folder / "search"
    config = {
        "templates": "images" if trial.quick else "imagenet",
        "descriptions": trial.prelude.sentences,
        **({"generations": 2, "rounds": 1} if trial.quick else {}),
    }
    pair.train("proapo", trial.prelude.data, out, trial, change=change, config=config)
    return str(out)


def named(classifier: Classifier, trial: Trial) -> np.ndarray:
    """Which of the test photographs a classifier on the second pair names rightly."""
    columns = [classifier.classes.index(entry.name) for entry in entries(trial.seed)]
    with torch.no_grad():
        logits = classifier.of_vectors(trial.prelude.vectors)[:, columns]
    return class_ranks(logits, trial.prelude.labels) <= 1


def by_prompts(prompts: ClassPrompts, trial: Trial) -> dict[str, Any]:
    """Zero-shot by prompts on the second pair."""
    classes = entries(trial.seed)
    model = trial.prelude.target.load()
    sets = PromptSets(model.encoder, model.tokenizer)
    sets.use_prompts(prompts)
    sets.set_classes([entry.name for entry in classes])
    return {"top1": named(sets, trial), **sentences_kept(sets, classes)}


def unsearched(bank: str, descriptions: bool = False) -> Arm:
    """An arm with all templates of a bank, and with `descriptions` all sentences of each class."""

    def arm(trial: Trial) -> dict[str, Any]:
        units = {}
        if descriptions:
            for entry in entries(trial.seed):
                units[entry.name] = tuple((entry.name, text) for text in entry.sentences)
        return by_prompts(ClassPrompts(templates(bank), units), trial)

    return arm


def voted(trial: Trial, **config: Any) -> dict[str, Any]:
    """Votes of the photographs on the second pair, beside the template or the prompts of a run."""
    model = trial.prelude.target.train(
        "tip_adapter",
        trial.prelude.data,
        trial.folder / "tip",
        trial,
        config={"tune": False, "template": TEMPLATE, **config},
    )
    return {"top1": named(model.classifier, trial)}


def learnt(trial: Trial, **config: Any) -> dict[str, Any]:
    """Vectors of classes learnt from the photographs on the second pair, which begin as the template
    or as the prompts of a run."""
    model = trial.prelude.target.train(
        "cones",
        trial.prelude.data,
        trial.folder / "cones",
        trial,
        config={"cached": True, "keep_text": True, "template": TEMPLATE, **config},
        recipe={"lr": RATE, "steps": 200},
    )
    return {"top1": named(model.classifier, trial)}


def transferred(trial: Trial) -> dict[str, dict[str, Any]]:
    """Three arms by one search on the first pair: zero-shot, beside votes, and as a start."""
    found = search(trial.prelude.source, trial)
    return {
        "transferred": by_prompts(read_prompts(found), trial),
        "tip_found": voted(trial, prompts=found),
        "cones_found": learnt(trial, prompts=found),
    }


def misled(trial: Trial) -> dict[str, Any]:
    """An arm: prompts that were searched on the first pair by wrong labels."""
    return by_prompts(read_prompts(search(trial.prelude.source, trial, shuffle)), trial)


def searched_there(trial: Trial) -> dict[str, Any]:
    """An arm: prompts that were searched on the second pair itself."""
    return by_prompts(read_prompts(search(trial.prelude.target, trial)), trial)


real = Claim(
    question=(
        "Prompts that were searched on one pair of towers name photographs better than templates on another pair."
    ),
    edition=2,
    prelude=stock,
    arms={
        "templates": unsearched("imagenet"),
        "descriptions": unsearched("plain", descriptions=True),
        ("transferred", "tip_found", "cones_found"): transferred,
        "misled": misled,
        "searched": searched_there,
        "tip": voted,
        "cones": learnt,
    },
    headline=(better("top1", "transferred", over="templates"),),
    checks=(
        better("top1", "transferred", over="descriptions"),
        better("top1", "transferred", over="misled"),
        better("top1", "tip_found", over="tip"),
        better("top1", "cones_found", over="cones"),
    ),
    delta=0.02,
    looks=(5, 10),
    tuned=Tuned(effect=0.13, sd=0.055, best=0.27, chance=1 / CLASSES, seconds=250),
    steps=False,
    one_test_set=True,
    floor=Floor("top1", chance=1 / CLASSES, arms=("descriptions", "transferred", "searched")),
    table=("top1", "false", "kept"),
)
