"""Does noise on vectors of texts let what was learnt from texts alone write about images?

The prelude trains a CLIP from scratch on drawn scenes of one thing, among small things that no text
tells of, by captions that leave out half of the facts, at the temperature to which CLIP's own goes.
It should have a gap, as those have that were trained on photographs. All arms learn full captions
of further scenes from it with the same small encoder-decoder and recipe, and write about the images
of scenes held out, by greedy decoding. [choice: beam search, five times as dear, is the method's
own]

    encoder                     measured alone: `excess`, the cosine of images with their captions less that of
                                unrelated captions, is below 0 where there is a gap; its `facts` are those of another
                                image's true caption
    w0, w02, w04, w08, w16, w32 the noise in hundredths, at 768 dimensions; here w √(768 / d)
    images                      learnt from the images of the same scenes, without noise
    mean_shift                  no noise, texts moved by the mean difference of the pairs that the CLIP has seen
    not_unit                    noise as w04, the noisy vectors not made unit again
    random_shift                noise as w04, texts moved by a constant of length .5

`facts` is how much of object, colour, place, texture, size and ground a caption tells rightly, what
it does not tell counting as wrong; `texts` the same of captions written from held-out captions in
place of images; `own` that of both which the arm has learnt from; `shuffled` the same of captions
and the images behind theirs. CHANCE is always telling the commonest value.

What the prelude's captions leave out, how long it learns and the noise that counts as tuned were
chosen on seeds 100 to 106. If captions tell all, there is no gap (`excess` .43 on seed 100). If
they leave out half, or seven tenths, there is one that closes as the CLIP learns: after 300 steps
`excess` is between -.11 and .08, above 0 on seeds 0, 1 and 3, where earlier forms of the claim were
begun and ended; after 220 it is -.20 and -.17 on seeds 104 and 105. There, on seed 105, `facts` are
.25 without noise, .47, .49 and .43 at .02, .04 and .08, and .60 from images; .18, .37, .42, .38 and
.58 where the CLIP's captions leave out seven tenths. Seeds begin at 4. "Near" is what the paper
loses at its common noise, a third of what noise can win: .11 on seeds 100 and 101, where the margin
comes from.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diptych.data.sample import Sample
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds.scenes.parse import parse
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, at_most, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=32:texts=caption:distractors=2"
LITTLE = "drop=0.5"  # captions give half of the facts
ALL = "drop=0"  # captions give all of them
FACTS = ("object", "colour", "quadrant", "texture", "size", "ground")
CHANCE = 0.25
PAIRS = 3000
LEARNT = 3000
HELD_OUT = 300
CLIP_STEPS = 220
STEPS = 300
WIDTH = 64  # of the space
TUNED = 0.04


def draw(trial: Trial) -> dict[str, str]:
    """A CLIP of its own pairs, the task's scenes as shards, and their captions alone."""
    folder = trial.folder
    places = {}
    start = 0
    for name, told, count in (("pairs", LITTLE, PAIRS), ("task", ALL, LEARNT)):
        count = count // 10 if trial.quick else count
        source = open_source(f"{SCENES}:{told}:seed={trial.seed}:start={start}:count={count}")
        write_shards(source, folder / name)
        places[name] = f"{folder / name}/*.tar"
        start += count
    rows = [json.dumps({"caption": source[at].captions()[0]}) for at in range(len(source))]
    (folder / "texts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = resolve(
        "contrastive_gap",
        {"train": places["pairs"]},
        image_tower="conv:image_size=32:widths=(32,64,128):depths=(1,1,1):pooling=max",
        text_tower="text:width=128:depth=3:heads=4",
        embed_dim=WIDTH,
        config={"mode": "clip", "tau": 0.01, "augment": {}},
        recipe={
            "lr": 1e-3,
            "ema": None,
            "batch_size": 128,
            "steps": trial.steps(CLIP_STEPS, quick=5),
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, folder / "clip")
    return {**places, "texts": str(folder / "texts.jsonl"), "clip": str(folder / "clip")}


def written(
    noise: float, change: Callable[[Method], None] | None = None, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: captions learnt with this noise at 768 dimensions, and options of the method."""

    def arm(trial: Trial) -> dict[str, float]:
        prelude = trial.prelude
        data = {
            "train": prelude["task"] if config.get("train_on") == "images" else prelude["texts"]
        }
        if config.get("gap") == "mean":
            data["pairs"] = prelude["pairs"]
        settings = resolve(
            "close",
            data,
            init=prelude["clip"],
            config={"noise": noise * (768 / WIDTH) ** 0.5, **config},
            recipe={"batch_size": 64, "steps": trial.steps(STEPS, quick=5)},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        found = measure(load(trial.folder / "run"), trial)
        return found | {"own": found["facts" if config.get("train_on") == "images" else "texts"]}

    return arm


def long(method: Method) -> None:
    """Leave noisy vectors as long as they are."""
    method.model.gap.finish = lambda z: z  # type: ignore[union-attr]


def encoder(trial: Trial) -> dict[str, float]:
    """The gap of the prelude's CLIP, and what the captions of other images tell of an image."""
    model = load(trial.prelude["clip"])
    source = held_out(trial)
    found = evaluate(model, source, ["gap"])["gap"]
    samples = [source[at] for at in range(len(source))]
    blind = rightly(
        [sample.captions()[0] for sample in [*samples[1:], samples[0]]], told_of(samples)
    )
    return {
        "matched": found["matched_cosine"],
        "unrelated": found["mean_cosine_text"],
        "excess": found["matched_cosine"] - found["mean_cosine_text"],
        "facts": blind,
    }


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """What captions of held-out images tell rightly, those of their texts, and those of the images
    before."""
    source = held_out(trial)
    samples = [source[at] for at in range(len(source))]
    facts = told_of(samples)
    captions = model.generate([sample.images["main"] for sample in samples], strategy="greedy")
    again = model.generate(texts=[sample.captions()[0] for sample in samples], strategy="greedy")
    return {
        "facts": rightly(captions, facts),
        "texts": rightly(again, facts),
        "shuffled": rightly([*captions[1:], captions[0]], facts),
    }


def held_out(trial: Trial) -> Any:
    """Scenes that no arm has learnt from."""
    return open_source(
        f"{SCENES}:{ALL}:seed={trial.seed}:split=val:count={20 if trial.quick else HELD_OUT}"
    )


def told_of(samples: Sequence[Sample]) -> list[dict[str, str]]:
    """The names of the facts of scenes."""
    schema = open_source(f"{SCENES}:count=1").schema()
    names = {fact: schema[f"labels.{fact}"].classes for fact in FACTS}
    return [{fact: names[fact][int(sample.labels[fact])] for fact in FACTS} for sample in samples]


def rightly(captions: Sequence[str], facts: Sequence[Mapping[str, str]]) -> float:
    """The share of facts that captions tell rightly; a fact that is not told is not.

    >>> scene = dict(zip(FACTS, ("cat", "red", "top left", "plain", "small", "grass")))
    >>> rightly(["a little solid red dog in the top left"], [scene])
    0.666...
    """
    hits = []
    for caption, right in zip(captions, facts, strict=True):
        told = parse(caption)
        thing = told.things[0] if told.things else None
        said = {"ground": told.ground} | (
            {}
            if thing is None
            else {
                "object": thing.noun,
                "colour": thing.colour,
                "quadrant": thing.place,
                "texture": thing.texture,
                "size": thing.size,
            }
        )
        hits += [said.get(fact) == value for fact, value in right.items()]
    return float(np.mean(hits))


claim = Claim(
    question=(
        "A captioner that has learnt from vectors of texts alone tells more of images where noise was added in "
        "training, and nearly as much as one that has learnt from images."
    ),
    prelude=draw,
    arms={
        "encoder": encoder,
        "w0": written(0.0),
        "w02": written(0.02),
        "w04": written(TUNED),
        "w08": written(0.08),
        "w16": written(0.16),
        "w32": written(0.32),
        "images": written(0.0, train_on="images"),
        "mean_shift": written(0.0, gap="mean"),
        "not_unit": written(TUNED, long),
        "random_shift": written(TUNED, gap="random:scale=0.5"),
    },
    headline=(
        better("facts", "w04", over="w0"),
        better("facts", "w04", over="w32"),
        not_worse("facts", "w04", than="images", margin=0.11),
    ),
    checks=(
        at_most("excess", "encoder", 0.0),
        better("facts", "w04", over="mean_shift"),
        not_worse("facts", "random_shift", than="w04", margin=0.03),
        at_most("shuffled", "w04", CHANCE),
    ),
    delta=0.11,
    floor=Floor("own", chance=CHANCE, arms=("w0", "w04", "images")),
    table=("facts", "texts", "shuffled", "excess", "matched", "unrelated"),
)
