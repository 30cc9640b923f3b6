"""Do concepts from the captions of similar images help a model to segment what captions leave out?

Scenes of three or four different things, whose captions name one of them. All arms learn by the same
steps from the same images, from `tiny`: its stem, its blocks before each grouping and its text tower;
the groupings are new, as a tower of groups learns nothing from scratch in so little time. Concepts are
found by `tiny` too. Names come from a list of all things that there are.

    nouns             the names in the image's own caption: GroupViT with further texts
    cocu              those in the captions of the eight nearest images, scored and drawn: the method
    random_concepts   as many random names of the list, with the same scores
    random_retrieval  those in the captions of eight random images, scored alike
    top               the names of the highest scores, as the published code is set
    all_told          as nouns, with captions that name all things

`miou` is that of zero-shot segmentation of held-out scenes, the ground included; `added` is the share of
the three best concepts, but for those of the own caption, that the image shows.

`nouns` and `cocu` have each a rate of their own, `all_told` that of `nouns`, the other arms that of `cocu`.

Not asked: towers from scratch, published data, steps to an equal mIoU.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.shards import write_shards
from diptych.data.sources import open_source, rewritten
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.dense.cocu.rewrite import Rewriting
from diptych.methods.store import load
from diptych.models.dense import GROUND
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

LEARNT = 3000
MEASURED = 300
STEPS = 400
BATCH = 32
RATES = {"nouns": 3e-4, "cocu": 3e-4}
BACKGROUND = 0.5
CLASSES = 20
SCENES = "scenes:number=3-4:same=0"
TOWER = (
    "cocu.groupvit:image_size=64:patch=8:stem=conv:patch_norm=false:width=160:heads=5:depths=(3,2,1):groups=(16,8):"
    "path_dropout=0.0"
)
TEXT_TOWER = "text:width=96:depth=6:heads=3:causal=false:pooling=mean"


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, the concepts of each arm, and the tokenizer of `tiny`."""
    few = trial.quick
    specs = {
        "one": f"{SCENES}:described=1:seed={trial.seed}:count={120 if few else LEARNT}",
        "all": f"{SCENES}:seed={trial.seed}:count={120 if few else LEARNT}",
        "test": f"{SCENES}:split=val:seed={trial.seed}:count={10 if few else MEASURED}",
    }
    for name, spec in specs.items():
        write_shards(open_source(spec), trial.folder / name)
    found = {name: f"{trial.folder / name}/*.tar" for name in specs}
    for arm, (data, neighbours) in ARMS.items():
        path = trial.folder / f"{arm}.jsonl"
        concepts(found[data], arm, neighbours, path, trial.seed)
        found[arm] = f"rewritten:{path}"
    words = trial.folder / "tokenizer.json"
    words.write_text(json.dumps(load("tiny").tokenizer.to_dict()), encoding="utf-8")
    return {**found, "words": str(words)}


def concepts(data: str, arm: str, neighbours: int, path: Any, seed: int) -> None:
    """Write the concepts of an arm."""
    source = open_source(data)
    names = things(source)
    found = Rewriting(source, load("tiny"), names, neighbours=neighbours, seed=seed)
    if arm == "random_retrieval":
        order = generator(seed, "retrieval").permutation(len(found.index.vectors))
        found.index = replace(found.index, vectors=found.index.vectors[order])
    named: Iterable[rewritten.Found] = found.named()
    if arm == "random_concepts":
        named = at_random(named, names, seed)
    rewritten.write(path, data, source, "tiny", named)


def things(source: Any) -> list[str]:
    """The names of all things that scenes may show."""
    return [name for name in source.schema()["masks.class"].classes if name != GROUND]


def at_random(
    found: Iterable[rewritten.Found], names: list[str], seed: int
) -> Iterator[rewritten.Found]:
    """Yield concepts with random other names of the list in the places of their own."""
    for at, (scores, clusters) in enumerate(found):
        drawn = generator(seed, "names", at).choice(names, len(scores), replace=False).tolist()
        by = dict(zip(scores, drawn, strict=True))
        yield (
            {by[name]: score for name, score in scores.items()},
            [[by[name] for name in own] for own in clusters],
        )


def begin(method: Any) -> None:
    """Give the method the weights of `tiny`; its groupings stay new."""
    tiny = load("tiny").encoder
    encoder = method.model.encoder
    tower = encoder.image
    tower.patch_embed.load_state_dict(tiny.image.patch_embed.state_dict())
    tower.positions.data.copy_(tiny.image.positions)
    blocks = [block for stage in tower.stages for block in stage.transformer.layers]
    for own, given in zip(blocks, tiny.image.transformer.layers, strict=True):
        own.load_state_dict(given.state_dict())
    tower.norm.load_state_dict(tiny.image.norm.state_dict())
    encoder.text.load_state_dict(tiny.text.state_dict())
    for name in ("image_projection", "text_projection"):
        getattr(encoder, name).load_state_dict(getattr(tiny, name).state_dict())


def trained(
    arm: str, *, rate: float = RATES["cocu"], **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the method on the concepts of that name."""

    def run_arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "cocu",
            {"train": trial.prelude[arm]},
            image_tower=TOWER,
            text_tower=TEXT_TOWER,
            tokenizer=f"saved:{trial.prelude['words']}",
            embed_dim=192,
            config={"projection": "linear", "background": BACKGROUND, "scale": 10.0, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=4),
                "lr": rate,
                "warmup": 0.1,
                "batch_size": BATCH,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=begin)
        return measure(load(trial.folder / "run"), trial, arm)

    return run_arm


def measure(model: Any, trial: Trial, arm: str) -> dict[str, float]:
    """Return how well scenes are segmented, and how many of the added concepts they show."""
    found = evaluate(model, open_source(trial.prelude["test"]), ["segment"], templates=("a {}",))
    return {
        "miou": found["segment"]["miou"],
        "accuracy": found["segment"]["accuracy"],
        "added": added(open_source(trial.prelude[arm])),
    }


def added(source: Any, best: int = 3) -> float:
    """The share of the best concepts of images, but for those in the caption, that the image shows; 0
    where none was added."""
    names = source.schema()["masks.class"].classes
    right = []
    for sample in source:
        shown = {int(number) for number in np.unique(np.asarray(sample.masks["class"].decode()))}
        shown_names = {names[number] for number in shown if number < len(names)}
        said = " ".join(sample.captions())
        chosen = [text.text for text in sample.texts if text.role == rewritten.ROLE][:best]
        right += [name in shown_names for name in chosen if name not in said]
    return float(np.mean(right)) if right else 0.0


ARMS = {  # which scenes, and how many neighbours
    "nouns": ("one", 1),
    "cocu": ("one", 8),
    "random_concepts": ("one", 8),
    "random_retrieval": ("one", 8),
    "all_told": ("all", 1),
}
claim = Claim(
    question=(
        "With concepts from the captions of similar images as further texts, a model of groups segments scenes "
        "whose captions name one thing better than with the names in the caption alone."
    ),
    prelude=draw,
    arms={
        "nouns": trained("nouns", rate=RATES["nouns"]),
        "cocu": trained("cocu"),
        "random_concepts": trained("random_concepts"),
        "random_retrieval": trained("random_retrieval"),
        "top": trained("cocu", sampling="top"),
        "all_told": trained("all_told", rate=RATES["nouns"]),
    },
    headline=(better("miou", "cocu", over="nouns"),),
    mechanism=("random_concepts", "random_retrieval"),
    checks=(
        better("added", "cocu", over="random_concepts"),
        better("added", "cocu", over="random_retrieval"),
        better("miou", "all_told", over="nouns"),
        better("miou", "cocu", over="top"),
    ),
    delta=0.01,
    floor=Floor("miou", chance=1 / CLASSES, arms=("nouns", "cocu", "all_told")),
    table=("miou", "accuracy", "added"),
)
