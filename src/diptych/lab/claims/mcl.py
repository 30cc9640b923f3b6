"""Does an encoder that learns from groups which the first cannot tell apart add the factor that the first
suppressed?

Images of one object with a coloured frame and faint lines in one of four directions. Their texts name
the colour of the object and of the frame, which are easy, and the lines, which are hard: in a batch of
64 the colours alone tell nearly all of 64 texts apart.

    long      CLIP with vectors of twice the width, for the steps of both stages
    random    two stages, the second on groups of the clusters' sizes, of samples drawn at random
    mcl       two stages, the second on the clusters of the first
    one       two stages, with one cluster: two models side by side
    untrained long at its start

`lines`, `frame` and `colour` are accuracies of linear probes on the embeddings of held-out images.
`pairs` is the accuracy of MMVP: of two images and two texts that differ in the lines alone, both texts
have to find their image. Not asked: whether one encoder could hold all factors with more steps, and what the
wider embeddings cost.

All arms learn the colours; the floor is there. What they learn of the lines is the question: on seed
100, 150 to 600 steps in all teach `long` nothing of lines of this strength, and nearly all of stronger
ones (.25: .80 after 300). A form without the object's colour in the texts was left: its 32 texts are so
few that the lines are learnt by every arm (seed 100: `mcl` .78, `long` .79, `random` .62 after 300
steps), and `long` gains with steps.

At this strength and twice the steps `long` gains (.26 to .51) and `mcl` (.94 at 8e-3) does not. Fainter lines (.10)
are learnt by no arm (`mcl` .27). With the ground named too and 64 clusters, `long` stays at .27 at twice the steps,
and `mcl` has .33 after these steps (`pairs` .21): it needs stronger lines or more steps there.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Text
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import RunConfig, resolve
from diptych.training.run import run

WORLD = "scenes:number=1:size=32:easy=0.9:hard=0.15:texts=caption"
PARTS = {"train": 4000, "test": 1000, "pairs": 300}
FACTORS = ("colour", "frame", "lines")
STEPS = 300  # of a stage
CLUSTERS = 32
BATCH = 64
WIDTH = 64  # of the embeddings of one stage
TOWER = "conv:image_size=32:widths=(32,64,128):depths=(1,1,1):pooling=max"
TEXT = "text:width=64:depth=1:heads=2:causal=false:pooling=mean"
TOKENIZER = "bpe:vocab_size=512:context=16"
RATES: Mapping[str, Rates] = {}
RATE = 4e-3


class Named(Wrapped):
    """Scenes whose text names three factors and nothing else."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return replace(self._named(sample), edits=tuple(map(self._named, sample.edits)))

    def _named(self, sample: Sample) -> Sample:
        schema = self.schema()
        names = {name: schema[f"labels.{name}"].classes for name in FACTORS}
        colour, frame, lines = (names[name][int(sample.labels[name])] for name in FACTORS)  # type: ignore[index]
        text = f"something {colour}, framed in {frame}, crossed by {lines} lines"
        return replace(sample, texts=(Text(text=text),))


def draw(trial: Trial) -> dict[str, str]:
    """Images to learn from, to measure on, and in pairs that differ in the lines alone."""
    places = {}
    start = 0
    for name, count in PARTS.items():
        count = count // 10 if trial.quick else count
        edits = ":edits=signal" if name == "pairs" else ""
        source = open_source(f"{WORLD}:seed={trial.seed}:start={start}:count={count}{edits}")
        write_shards(Named(source), trial.folder / name)
        places[name] = f"{trial.folder / name}/*.tar"
        start += count
    return places


# ---- the arms


def settings(trial: Trial, arm: str, rate: float | None = None) -> RunConfig:
    """How an arm is trained."""
    options = {"augment": None, "duplicates": "masked", "scale": 5.0}
    clusters = 1 if arm == "one" else CLUSTERS
    staged = {"options": options, "stages": 1, "clusters": clusters, "small_groups": "nearest"}
    steps = trial.steps(STEPS, quick=10)
    start = arm == "untrained"
    long = start or arm == "long"
    return resolve(
        "clip" if long else "mcl",
        {"train": trial.prelude["train"]},
        image_tower=TOWER,
        text_tower=TEXT,
        tokenizer=TOKENIZER,
        embed_dim=2 * WIDTH if long else WIDTH,
        config=options if long else staged,
        recipe={
            "lr": 1e-9 if start else rate or rate_of(arm),
            "steps": 1 if start else 2 * steps if long else steps,
            "batch_size": BATCH,
            "ema": None,
        },
        options={"seed": trial.seed, "quiet": True},
    )


def rate_of(arm: str) -> float:
    """Return the best rate of an arm; those that have none of their own have that of `mcl`."""
    rates = RATES.get(arm, RATES.get("mcl"))
    return RATE if rates is None else best(rates)


def deal(method: Method) -> None:
    """Give each sample the cluster of another one, drawn at random."""
    held: Any = method
    cluster = held.cluster

    def dealt(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        clusters, centroids = cluster(vectors, seed)
        return generator(seed, "deal").permutation(clusters), centroids

    held.cluster = dealt


def trained(arm: str, *, rate: float | None = None) -> Callable[[Trial], Mapping[str, float]]:
    """An arm."""

    def learn(trial: Trial) -> Mapping[str, float]:
        change = deal if arm == "random" else None
        run(settings(trial, arm, rate), trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial.prelude)

    return learn


def measure(model: Any, places: Mapping[str, str]) -> dict[str, float]:
    """What a model has learnt of each factor."""
    sources = {name: open_source(place) for name, place in places.items()}
    probes = evaluate(
        model, sources["test"], ["factors"], train=sources["train"], labels=list(FACTORS)
    )
    found = {name: each["top1"] for name, each in probes["factors"]["by_factor"].items()}
    pairs = evaluate(model, sources["pairs"], ["composition"])["composition"]
    return {**found, "pairs": pairs["image"]}


claim = Claim(
    question="An encoder trained on groups that the first cannot tell apart adds the factor that the first suppressed.",
    prelude=draw,
    arms={arm: trained(arm) for arm in ("long", "random", "mcl", "one", "untrained")},
    headline=(better("lines", "mcl", over="random"), better("lines", "mcl", over="long")),
    mechanism=("one",),
    checks=(
        better("pairs", "mcl", over="random"),
        better("pairs", "mcl", over="long"),
        not_worse("frame", "mcl", than="long", margin=0.03),
        not_worse("colour", "mcl", than="long", margin=0.03),
        better("frame", "mcl", over="untrained"),
    ),
    delta=0.05,
    floor=Floor("colour", chance=1 / 8, arms=("long", "random", "mcl"), least=0.8),
)
