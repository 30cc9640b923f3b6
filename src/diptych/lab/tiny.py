"""The tiny model that ships with the package: its training data, what is held out, and the scores
that it must reach.

    object, colour, count, quadrant   of scenes of one object, or several alike: a linear probe of frozen image
                                      vectors, and zero-shot by captions of all objects that differ in the factor
    swap                              2-way: the caption of a scene against that of its twin with swapped attributes
    pair                              16-way: a colour and an object that never occur together in training, among 4 x 4

Scenes of the split `test` are held out; they include combinations that never occur in training.
Probes are trained on scenes of `val`. Ties count as wrong throughout. `make tiny` trains the model
(tools/make_tiny.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych import collectives
from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.tokenizers import train_bpe
from diptych.data.worlds.scenes.concepts import catalogue
from diptych.data.worlds.scenes.config import RESERVED, Config
from diptych.data.worlds.scenes.words import (
    COLOURS,
    NUMBERS,
    PLACES,
    RESERVED_STYLES,
    article,
    plural,
)
from diptych.evaluation import evaluate
from diptych.evaluation.suites.probe import linear
from diptych.files import write_atomic
from diptych.metrics import class_ranks
from diptych.models.model import Model
from diptych.rng import generator
from diptych.training.config import RunConfig, resolve
from diptych.training.run import run


def _asked(*facts: str) -> str:
    """Return the roles of an image's texts: a caption, and a sentence about each of these facts, or
    about any other if it has none."""
    return ";".join(
        ["caption=0.4,paraphrase=0.6", *(f"long[fact={fact}],long=0.001" for fact in facts)]
    )


FACTS = "styles=seen:texts=caption+paraphrase+long:drop=0.4"
STAGES = {  # name: data, what differs from METHOD, what differs from RECIPE
    # Objects and their attributes without ambiguous texts: scenes of one object, or several alike.
    "facts": (
        f"scenes:count=68000:same=1:{FACTS},scenes:count=32000:number=1:seed=1:{FACTS}",
        {},
        {"epochs": 1.0, "min_lr": 0.1},
    ),
    # Which object has which colour and place, from scenes in a batch with their twins and edits.
    "scenes": (
        f"scenes:count=60000:same=0:number=2-4:siblings=2:edits=swap:seed=2:{FACTS},"
        f"scenes:count=30000:siblings=4:edits=replace+move:seed=3:{FACTS},"
        f"scenes:count=30000:same=1:seed=4:{FACTS}",
        {"together": 4},
        {"epochs": 1.0, "lr": 1e-3},
    ),
    # The same for two objects, in a batch with their twin only: each sentence about colour or place
    # is wrong for the twin.
    "twins": (
        f"scenes:count=24000:same=0:number=2:siblings=2:edits=swap:seed=5:{FACTS},"
        f"scenes:count=12000:same=0:number=2-4:siblings=2:edits=swap:seed=6:{FACTS},"
        f"scenes:count=12000:same=1:seed=7:{FACTS}",
        {"together": 2, "role": _asked("place", "colour", "colour", "number")},
        {"epochs": 3.0, "ema": 0.99},
    ),
}
WORDS = "scenes:count=8000:styles=all:objects=all:split=test:texts=caption+paraphrase+long"
IMAGE = "vit:image_size=64:patch=8:stem=conv:width=160:depth=6:heads=5:cls=0:pooling=mean:patch_dropout=0.25"
TEXT = "text:width=96:depth=6:heads=3:causal=false:pooling=mean"
EMBED_DIM = 192
VOCABULARY = 1536
CONTEXT = 64
RECIPE = {
    "optimizer": "muon", "lr": 2e-3, "weight_decay": 0.05, "warmup": 0.03, "clip": 1.0, "ema": 0.999,
    "batch_size": 128, "precision": "bfloat16",
}  # fmt: skip
METHOD = {"role": _asked("there", "place", "colour", "number"), "scale": 10.0, "augment": {}}

SCENES = "scenes:styles=seen:texts=caption"
ALIKE = f"{SCENES}:same=1"
FACTORS = ("object", "colour", "count", "quadrant")
BARS = {  # linear probe, zero-shot
    "object": (0.65, 0.50),
    "colour": (0.90, 0.80),
    "count": (0.75, 0.50),
    "quadrant": (0.75, 0.50),
    "swap": (None, 0.70),
    "pair": (None, 3 / 16),
}
CHANCE = {
    "object": 1 / 20,
    "colour": 1 / 8,
    "count": 1 / 4,
    "quadrant": 1 / 4,
    "swap": 1 / 2,
    "pair": 1 / 16,
}

Table = Mapping[str, np.ndarray]


def config(
    stage: str, *, words: Path | None = None, init: Path | None = None, seed: int = 0, **recipe: Any
) -> RunConfig:
    """Return the config of a stage's run: `words` is the tokenizer's file, or `init` the run to
    start from; `recipe` overrides the stage's."""
    data, method, differs = STAGES[stage]
    start: dict[str, Any] = (
        {"init": str(init)}
        if init
        else {
            "image_tower": IMAGE,
            "text_tower": TEXT,
            "tokenizer": f"saved:{words}",
            "embed_dim": EMBED_DIM,
        }
    )
    return resolve(
        "clip",
        {"train": data},
        val=f"{SCENES}:split=val:count=100",
        config={**METHOD, **method},
        recipe={**RECIPE, **differs, **recipe},
        options={"seed": seed},
        **start,
    )


def train(out: str | Path, *, seed: int = 0, **recipe: Any) -> list[Path]:
    """Train into the folder `out`, or resume there, and return the runs' folders: the last one
    holds the model.

    Each epoch ends with a measurement on scenes of `val`, written to the log. Raises Interrupted
    after a signal, with the state saved.
    """
    out = Path(out)
    words = out / "tokenizer.json"
    if collectives.rank() == 0 and not words.exists():
        out.mkdir(parents=True, exist_ok=True)
        saved = json.dumps(train_bpe(_words(), VOCABULARY, CONTEXT).to_dict())
        write_atomic(words, lambda path: path.write_text(saved, encoding="utf-8"))
    collectives.barrier()
    done: list[Path] = []
    for stage in STAGES:
        found = (
            config(stage, init=done[-1], seed=seed, **recipe)
            if done
            else config(stage, words=words, seed=seed, **recipe)
        )
        done.append(out / stage)
        begun, ended = collectives.broadcast_object(
            ((done[-1] / "config.yaml").exists(), (done[-1] / "model.json").exists())
        )
        if not ended:
            run(found, done[-1], resume=begun, validate=looked)
    return done


def _words() -> Iterator[str]:
    """Yield texts of all objects, textures and styles, the reserved ones included: only words, no
    images."""
    source = open_source(WORDS)
    for index in range(len(source)):
        yield from source[index].captions("*")


def looked(model: Model, source: Source) -> dict[str, float]:
    """Return the scores on a few scenes like those of training."""
    found = scores(model, "val", train=2000, count=1000)
    return {
        f"val/{name}_{kind}": value
        for name, row in found.items()
        for kind, value in row.items()
        if kind != "n"
    }


def scores(
    model: Any, split: str = "test", *, train: int = 4000, count: int = 2000
) -> dict[str, dict[str, float]]:
    """Return `probe` and `zero_shot` of each factor, and `zero_shot` of swap and pair; probes are
    trained on `train` scenes of val."""
    found: dict[str, dict[str, float]] = {}
    x, y = _read(model, open_source(f"{ALIKE}:split=val:seed=1:count={train}"))
    test_x, test_y = _read(model, open_source(f"{ALIKE}:split={split}:count={count}"))
    objects = _objects()
    for factor in FACTORS:
        known = y[factor] >= 0
        test_known = test_y[factor] >= 0
        right = test_y[factor][test_known]
        by_line = linear(x[known], y[factor][known], test_x[test_known], right, cs=(0.01, 0.1, 1.0))
        classes = torch.stack([_direction(model, prompts) for prompts in _prompts(factor, objects)])
        rank = class_ranks(torch.from_numpy(test_x[test_known]) @ classes.T, right)
        found[factor] = {
            "probe": by_line["top1"],
            "zero_shot": float((rank <= 1).mean()),
            "n": len(right),
        }
    swapped = open_source(
        f"{SCENES}:split={split}:edits=swap:number=2-4:same=0:drop=0:count={count // 2}"
    )
    reported = evaluate(model, swapped, ["composition"])["composition"]
    found["swap"] = {"zero_shot": reported["i2t_2way"], "n": reported["pairs"]}
    found["pair"] = pairs(model, count=count // 2)
    return found


def pairs(model: Any, *, count: int, split: str = "unseen") -> dict[str, float]:
    """Return the accuracy of naming a colour and an object that never occur together in training,
    among 4 colours x 4 objects that include both."""
    source = open_source(f"{SCENES}:split={split}:number=1:count={count}")
    x, y = _read(model, source)
    names = tuple(COLOURS)
    objects = _objects()
    unseen = [at for at in range(len(x)) if y["unseen"][at] in _COLOUR_UNSEEN]
    phrases = [f"{article(f'{colour} {name}')}" for colour in names for name in objects]
    vectors = torch.as_tensor(model.embed_texts(phrases)).unflatten(0, (len(names), len(objects)))
    hits = []
    for at in unseen:
        lot = generator(0, "pairs", at)
        colour = int(y["colour"][at])
        name = int(y["object"][at])
        colours = [
            colour,
            *lot.permutation([c for c in range(len(names)) if c != colour])[:3].tolist(),
        ]
        kinds = [name, *lot.permutation([o for o in range(len(objects)) if o != name])[:3].tolist()]
        scores = (vectors[colours][:, kinds] @ torch.from_numpy(x[at])).flatten()
        hits.append(bool((scores[1:] < scores[0]).all()))
    return {"zero_shot": float(np.mean(hits)), "n": len(hits)}


_COLOUR_UNSEEN = (1, 3)


def _objects() -> tuple[str, ...]:
    return open_source(f"{SCENES}:count=1").schema()["labels.object"].classes


def _read(model: Any, source: Source) -> tuple[np.ndarray, Table]:
    """Return vectors (N, E) of all images, and their labels."""
    samples = [source[i] for i in range(len(source))]
    vectors = model.embed_images([sample.images["main"] for sample in samples])
    names = (*FACTORS, "unseen")
    return np.asarray(vectors), {
        name: np.array([sample.labels[name] for sample in samples]) for name in names
    }


def _prompts(factor: str, objects: Sequence[str]) -> list[list[str]]:
    """Return for each value of a factor the captions of all objects that have it."""
    if factor == "object":
        return [
            [article(name), f"there is {article(name)}", *(article(f"{c} {name}") for c in COLOURS)]
            for name in objects
        ]
    if factor == "colour":
        return [[article(f"{colour} {name}") for name in objects] for colour in COLOURS]
    if factor == "count":
        return [
            [f"{NUMBERS[n]} {name if n == 1 else plural(name)}" for name in objects]
            for n in range(1, 5)
        ]
    return [
        [f"{article(name)} {way}" for name in objects for way in ways] for ways in PLACES.values()
    ]


def _direction(model: Any, prompts: Sequence[str]) -> Tensor:
    return normalize(torch.as_tensor(model.embed_texts(list(prompts))).mean(0), dim=0)


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line for each score: probe and its bar, zero-shot and its bar, chance, how many."""
    return "\n".join(["score | probe | bar | zero-shot | bar | chance | n", *_rows(found)])


_CARD = """\
# tiny

A dual encoder of {millions:.1f} million parameters for images of 64 pixels, trained by `make tiny` (method `clip`) on
scenes that the package draws: `diptych.load("tiny")`. It is for trying things out, not for photographs.

## Scores on held-out scenes

| score | probe | bar | zero-shot | bar | chance | n |
|---|---|---|---|---|---|---|
{rows}

The scenes are those of the split `test`, among them combinations of colour, object and place that training never shows.
Factors are those of scenes of one thing, or several alike; a linear probe learns them from 4,000 scenes of `val`.
`diptych.lab.tiny` measures all of it.

## Training

{minutes:.0f} minutes on {ranks} processes of one thread, seed {seed}, in {count} stages, each from where the one
before it ended. Towers: `{image}`, `{text}`. Each image has several texts, each with a loss of its own.

{stages}

## Never seen

- The design `twemoji`, and the concepts of the glyphs' test split.
- The reserved objects: {reserved}.
- The styles {styles}.
- A fifth of all pairs of a colour with an object, and of an object with a place. Of the objects it knows:

| object | never in the colours | never in the places |
|---|---|---|
{pairs}
"""


def card(
    model: Model,
    found: Mapping[str, Mapping[str, float]],
    trainings: Sequence[Mapping[str, Any]],
    seconds: float,
) -> str:
    """Return the model's card, in Markdown; `trainings` are the training records of the runs'
    descriptions, one for each stage."""
    objects = catalogue(Config())

    def unseen(name: str, aspect: str) -> str:
        return ", ".join(objects.values(name, aspect, "unseen"))

    return _CARD.format(
        millions=sum(parameter.numel() for parameter in model.encoder.parameters()) / 1e6,
        rows="\n".join(f"| {row} |" for row in _rows(found)),
        seed=trainings[0]["seed"],
        minutes=seconds / 60,
        ranks=collectives.world_size(),
        image=IMAGE,
        text=TEXT,
        count=len(STAGES),
        stages="\n".join(map(_stage, STAGES, trainings)),
        reserved=", ".join(RESERVED),
        styles=" and ".join(RESERVED_STYLES),
        pairs="\n".join(
            f"| {name} | {unseen(name, 'colour')} | {unseen(name, 'place')} |"
            for name in objects.classes
        ),
    )


def _stage(name: str, training: Mapping[str, Any]) -> str:
    recipe = ", ".join(
        f"{key} {value}" for key, value in training["recipe"].items() if value is not None
    )
    method = {**METHOD, **STAGES[name][1]}
    together = method.get("together", 1)
    meet = f", {together} neighbours together in a batch" if together > 1 else ""
    return (
        f"- **{name}**: {training['steps']:,} steps on `{training['data']['train']}`; texts `{method['role']}`{meet}; "
        f"{recipe}."
    )


def _rows(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = []
    for name, (probe, zero_shot) in BARS.items():
        reported = found[name]
        line = ["", ""] if probe is None else [f"{reported['probe']:.3f}", f"{probe:.2f}"]
        line += [
            f"{reported['zero_shot']:.3f}",
            f"{zero_shot:.3f}",
            f"{CHANCE[name]:.3f}",
            f"{reported['n']:,}",
        ]
        rows.append(" | ".join([name, *line]))
    return rows
