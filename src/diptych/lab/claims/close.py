"""Does noise on vectors of texts let what was learnt from texts alone write about images?

The prelude trains a CLIP from scratch on drawn scenes of one thing, among small things that no text
tells of, by captions that leave out half of the facts, at the temperature to which CLIP's own goes.
It should have a gap, as those have that were trained on photographs. All arms learn full captions
of further scenes from it with the same small encoder-decoder and recipe, and write about the images
of scenes held out, by greedy decoding. [choice: beam search, five times as dear, is the method's
own]

    encoder             measured alone: `excess`, the cosine of images with their captions less that of unrelated
                        captions, is below 0 where there is a gap
    w0, w02, w04, w16, w32    the noise in hundredths, at 768 dimensions; here w √(768 / d)
    images              learnt from the images of the same scenes, without noise
    halfway             no model: the mean of w0 and images, which noise has to exceed to win half of what images win
    mean_shift          no noise, texts moved by the mean difference of the pairs that the CLIP has seen
    random_shift        noise as w04, texts moved by a constant of length .5
    answers, entailment, news    three other tasks, each with the noise of w04 and, as `…_w0`, with none

`facts` is how much of object, colour, place, texture, size and ground a caption states rightly, what
it does not state counting as wrong; `texts` the same of captions written from held-out captions in
place of images; `own` that of both which the arm has learnt from; `shuffled` the same of captions
and the images behind theirs. CHANCE is always stating the commonest value. `exact` is the share of
right answers: to questions about a scene, or whether a statement follows from it, contradicts it or
neither. News are captions with a name, which an article gives: `facts` are those of the image.

What the prelude's captions leave out, how long it learns and the noise that counts as tuned were
chosen on seeds 100 to 106. If captions state all, there is no gap (`excess` .43 on seed 100). If
they leave out half, there is one that closes as the CLIP learns: after 300 steps `excess` is between
-.11 and .08, after 220 it is -.20 and -.17 on seeds 104 and 105. The rates were chosen on seeds 100
and 101: all arms that learn from texts have that of w04 (without noise, and with .32, captions of
images are near chance at each rate that was tried). Earlier forms of the claim, on seeds 0 to 60,
asked the tuned noise to be within .11 of images, a bound that lay on the effect.

The first edition of this form, on seeds 200 to 204, was undecided: the tuned noise was .044 above
halfway (interval -.002 to .090). This one asks the same on fresh seeds, with a second look at ten.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Text
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds.scenes.parse import parse
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, Tuned, at_most, best, better, not_worse
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=32:distractors=2"
LITTLE = "texts=caption:drop=0.5"  # captions give half of the facts
ALL = "texts=caption:drop=0"  # captions give all of them
ASKED = "texts=caption+question+hypothesis:drop=0"
FACTS = ("object", "colour", "quadrant", "texture", "size", "ground")
CHANCE = 0.25
PAIRS = 3000
LEARNT = 3000
ASKED_OF = 1500  # scenes of each of the other tasks
HELD_OUT = 300
CLIP_STEPS = 220
STEPS = 300
WIDTH = 64  # of the space
TUNED = 0.04
RATES = {
    "w04": {2e-3: 0.466, 4e-3: 0.480, 8e-3: 0.486, 1.6e-2: 0.464},
    "images": {2e-3: 0.575, 4e-3: 0.586, 8e-3: 0.579},
}
"""Rates that were tried on seeds 100 and 101, and the mean of `facts`."""
NAMES = ("anna", "bruno", "carla", "david", "emma", "felix", "greta", "hugo", "ida", "jonas")
TASKS: Mapping[str, Mapping[str, Any]] = {
    "answers": {"context": "question", "target": "answer", "max_tokens": 16},
    "entailment": {"context": "question", "target": "answer", "max_tokens": 8},
    "news": {"context": "article"},
}


class Entailment(Wrapped):
    """Scenes whose questions are statements, and whose answers say whether these follow."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        texts = [Text(text=text) for text in sample.captions()]
        for text in sample.texts:
            if text.role == "hypothesis":
                texts.append(Text(text=text.text, role="question"))
                texts.append(Text(text=text.attrs["label"], role="answer"))
        return replace(sample, texts=tuple(texts))


class News(Wrapped):
    """Scenes whose captions begin with a name, which is in an article alone."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        name = str(generator(0, "close", sample.key).choice(NAMES))
        article = f"on monday {name} showed a new picture to the press"
        captions = [Text(text=f"{name}: {text}") for text in sample.captions()]
        return replace(sample, texts=(*captions, Text(text=article, role="article")))


def draw(trial: Trial) -> dict[str, str]:
    """A CLIP of its own pairs, the scenes of all tasks as shards, and the captions alone."""
    folder = trial.folder
    places = {}
    start = 0
    for name, texts, count in (
        ("pairs", LITTLE, PAIRS),
        ("task", ALL, LEARNT),
        ("answers", ASKED, ASKED_OF),
        ("entailment", ASKED, ASKED_OF),
        ("news", ALL, ASKED_OF),
    ):
        count = count // 20 if trial.quick else count
        source = open_source(f"{SCENES}:{texts}:seed={trial.seed}:start={start}:count={count}")
        write_shards(of_task(name, source), folder / name)
        places[name] = f"{folder / name}/*.tar"
        start += count
    task: Any = open_source(places["task"])
    rows = [json.dumps({"caption": task[at].captions()[0]}) for at in range(len(task))]
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
            # the encoder is given: it is not trained for longer where arms take twice their steps
            "steps": 5 if trial.quick else CLIP_STEPS,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, folder / "clip")
    return {**places, "texts": str(folder / "texts.jsonl"), "clip": str(folder / "clip")}


def of_task(name: str, source: Any) -> Any:
    """Return the source with the texts of a task."""
    wrapped = {"entailment": Entailment, "news": News}.get(name)
    return source if wrapped is None else wrapped(source)


def trained(trial: Trial, noise: float, data: Mapping[str, str], **config: Any) -> Any:
    """Return a model with this noise at 768 dimensions, and options of the method."""
    rates = RATES["images" if config.get("train_on") == "images" else "w04"]
    settings = resolve(
        "close",
        data,
        init=trial.prelude["clip"],
        config={"noise": noise * (768 / WIDTH) ** 0.5, **config},
        recipe={
            "batch_size": 64,
            "steps": trial.steps(STEPS, quick=5),
            "lr": best(rates),
        },
        options={"seed": trial.seed, "quiet": True},
    )
    folder = trial.folder / f"run-{noise:g}-{config.get('train_on', 'texts')}"
    run(settings, folder)
    return load(folder)


def written(noise: float, **config: Any) -> Callable[[Trial], dict[str, float]]:
    """An arm: captions, learnt with this noise."""
    images = config.get("train_on") == "images"

    def arm(trial: Trial) -> dict[str, float]:
        data = {"train": trial.prelude["task" if images else "texts"]}
        if config.get("gap") == "mean":
            data["pairs"] = trial.prelude["pairs"]
        found = measure(trained(trial, noise, data, **config), trial)
        return found | {"own": found["facts" if images else "texts"]}

    return arm


def bounds(trial: Trial) -> dict[str, dict[str, float]]:
    """The arms without noise, from texts and from images, and what is halfway between them."""
    none = written(0.0)(trial)
    images = written(0.0, train_on="images")(trial)
    halfway = {"facts": (none["facts"] + images["facts"]) / 2}
    return {"w0": none, "images": images, "halfway": halfway}


def another(task: str, noise: float) -> Callable[[Trial], dict[str, float]]:
    """An arm: one of the other tasks, learnt with this noise."""

    def arm(trial: Trial) -> dict[str, float]:
        model = trained(trial, noise, {"train": trial.prelude[task]}, **TASKS[task])
        if task == "news":
            return news(model, trial)
        source = of_task(task, held_out(trial, ASKED))
        return {"exact": evaluate(model, source, ["answers"])["answers"]["exact"]}

    return arm


def news(model: Any, trial: Trial) -> dict[str, float]:
    """Return the share of facts of images that captions of news state rightly, and of names."""
    source = of_task("news", held_out(trial))
    samples = [source[at] for at in range(len(source))]
    articles = [text.text for sample in samples for text in sample.texts if text.role == "article"]
    images = [sample.images["main"] for sample in samples]
    captions = model.generate(images, articles, strategy="greedy")
    parted = [caption.partition(":") for caption in captions]
    named = [
        name.strip() in article for (name, _, _), article in zip(parted, articles, strict=True)
    ]
    facts = rightly([text.strip() for _, _, text in parted], facts_of(samples))
    return {"facts": facts, "named": float(np.mean(named))}


def encoder(trial: Trial) -> dict[str, float]:
    """The gap of the prelude's CLIP."""
    found = evaluate(load(trial.prelude["clip"]), held_out(trial), ["gap"])["gap"]
    return {
        "matched": found["matched_cosine"],
        "unrelated": found["mean_cosine_text"],
        "excess": found["matched_cosine"] - found["mean_cosine_text"],
    }


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """What captions of held-out images state rightly, those of their texts, and those of the images
    before."""
    source = held_out(trial)
    samples = [source[at] for at in range(len(source))]
    facts = facts_of(samples)
    captions = model.generate([sample.images["main"] for sample in samples], strategy="greedy")
    again = model.generate(texts=[sample.captions()[0] for sample in samples], strategy="greedy")
    return {
        "facts": rightly(captions, facts),
        "texts": rightly(again, facts),
        "shuffled": rightly([*captions[1:], captions[0]], facts),
    }


def held_out(trial: Trial, texts: str = ALL) -> Any:
    """Scenes that no arm has learnt from."""
    count = 20 if trial.quick else HELD_OUT
    return open_source(f"{SCENES}:{texts}:seed={trial.seed}:split=val:count={count}")


def facts_of(samples: Sequence[Sample]) -> list[dict[str, str]]:
    """The names of the facts of scenes."""
    schema = open_source(f"{SCENES}:count=1").schema()
    names = {fact: schema[f"labels.{fact}"].classes for fact in FACTS}
    return [{fact: names[fact][int(sample.labels[fact])] for fact in FACTS} for sample in samples]


def rightly(captions: Sequence[str], facts: Sequence[Mapping[str, str]]) -> float:
    """The share of facts that captions state rightly; a fact that is not stated is not.

    >>> scene = dict(zip(FACTS, ("cat", "red", "top left", "plain", "small", "grass")))
    >>> rightly(["a little solid red dog in the top left"], [scene])
    0.666...
    """
    hits = []
    for caption, right in zip(captions, facts, strict=True):
        parsed = parse(caption)
        thing = parsed.things[0] if parsed.things else None
        said = {"ground": parsed.ground} | (
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
        "A captioner that has learnt from vectors of texts alone states far more of images where noise was added in "
        "training: at least half of what learning from images wins, and more than with much more noise."
    ),
    prelude=draw,
    arms={
        "encoder": encoder,
        ("w0", "images", "halfway"): bounds,
        "w02": written(0.02),
        "w04": written(TUNED),
        "w16": written(0.16),
        "w32": written(0.32),
        "mean_shift": written(0.0, gap="mean"),
        "random_shift": written(TUNED, gap="random:scale=0.5"),
        **{
            f"{task}{end}": another(task, noise)
            for task in TASKS
            for end, noise in (("", TUNED), ("_w0", 0.0))
        },
    },
    headline=(
        better("facts", "w04", over="halfway"),
        better("facts", "w04", over="w32"),
    ),
    checks=(
        at_most("excess", "encoder", 0.0),
        better("facts", "w04", over="w0"),
        better("facts", "images", over="w04"),
        better("facts", "w04", over="mean_shift"),
        not_worse("facts", "random_shift", than="w04", margin=0.03),
        at_most("shuffled", "w04", CHANCE),
        better("exact", "answers", over="answers_w0"),
        better("exact", "entailment", over="entailment_w0"),
        better("facts", "news", over="news_w0"),
    ),
    delta=0.02,
    edition=2,
    looks=(5, 10),
    rates=RATES,
    tuned=Tuned(effect=0.046, sd=0.012, best=0.47, chance=CHANCE, seconds=780),
    floor=Floor("own", chance=CHANCE, arms=("w0", "w04", "images")),
    table=("facts", "texts", "shuffled", "exact", "named", "excess"),
)
