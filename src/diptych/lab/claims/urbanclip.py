"""Do captions of satellite tiles teach an image encoder what indicators of places depend on?

Tiles of an invented city, whose light and season change most pixels and no indicator, have captions of
what is seen. Each arm trains the same image tower on the same tiles for as many steps; then it is frozen,
and a network learns three indicators from 320 other tiles. It is judged on blocks of the city that neither
has seen.

    simclr       images alone
    random       the tower as it starts
    urbanclip    contrast and captions: the method
    shuffled     captions of other tiles
    con          the contrast alone
    cap          captions alone
    noisy        half of what captions tell is wrong
    no_works     captions leave out the works, on which carbon depends

`r2` is the mean of three indicators, `r2_NAME` one of them. `others` is the same in three other cities, by
networks that learn there; `transfer` judges there what was learnt in the first. Both are measured of `simclr`
and `urbanclip` alone.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds.tiles import INDICATORS
from diptych.data.wrap import Only, Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

SIZE = 48
IMAGE = f"conv:image_size={SIZE}:widths=(32,64,128):depths=(1,1,1):pooling=max"
UNLABELLED = 3072
LABELLED = 320
JUDGED = 640
CITIES = (2, 3, 4)
STEPS = 400
BATCH = 64
# to be filled with means of `r2` on seeds 100 and 101
RATES: dict[str, Rates] = {}
RATE = 4e-3
CAPTIONS = {"plain": "", "noisy": ":wrong=0.5", "no_works": ":less=works"}


class Others(Wrapped):
    """The samples of a source, each with the texts of another one, by a permutation."""

    def __init__(self, source: Any, seed: int):
        super().__init__(source)
        order = generator(seed, "urbanclip", "shuffled").permutation(len(source))
        self.other = np.empty(len(source), np.int64)
        self.other[order] = np.roll(order, 1)  # one cycle: no sample keeps its own

    def __getitem__(self, index: int) -> Sample:
        at = range(len(self))[index]
        return replace(super().__getitem__(at), texts=self.source[int(self.other[at])].texts)


def city(trial: Trial, count: int, number: int = 1, options: str = "") -> str:
    """Tiles of a city of the seed."""
    seed = f"seed={trial.seed}:size={SIZE}"
    return f"tiles:count={count}:city={number}:{seed}{options}"


def draw(trial: Trial) -> dict[str, str]:
    """Write the unlabelled tiles with each kind of captions as shards, without their indicators."""
    count = UNLABELLED // 16 if trial.quick else UNLABELLED
    places = {}
    for name, options in CAPTIONS.items():
        source = open_source(city(trial, count, options=options))
        kinds = {name: source} | ({"shuffled": Others(source, trial.seed)} if not options else {})
        for kind, tiles in kinds.items():
            write_shards(Only(tiles, ("images.main", "texts.caption")), trial.folder / kind)
            places[kind] = f"{trial.folder / kind}/*.tar"
    return places


def measured(trial: Trial, model: Any, elsewhere: bool) -> dict[str, float]:
    """R² on blocks that were not seen, in the city of the captions, and in others if `elsewhere`."""
    labelled, judged = (100, 64) if trial.quick else (LABELLED, JUDGED)
    start = f":start={UNLABELLED}"  # blocks behind those with captions

    def r2(learnt: int, there: int) -> dict[str, float]:
        found = evaluate(
            model,
            open_source(city(trial, judged, there, ":split=test")),
            ["indicators"],
            train=city(trial, labelled, learnt, start),
            group="block",
        )["indicators"]
        rows = found["by_indicator"]
        return {"mean": found["mean_r2"], **{name: rows[name]["r2"] for name in INDICATORS}}

    own = r2(1, 1)
    found = {"r2": own["mean"], **{f"r2_{name}": own[name] for name in INDICATORS}}
    if not elsewhere:
        return found
    return found | {
        "others": float(np.mean([r2(each, each)["mean"] for each in CITIES])),
        "transfer": float(np.mean([r2(1, each)["mean"] for each in CITIES])),
    }


def trained(
    method: str = "urbanclip",
    captions: str = "plain",
    steps: int = STEPS,
    *,
    elsewhere: bool = False,
    rate: float | None = None,
    **config: float,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method on tiles with these captions at its rate, or the best one of the method, frozen and
    measured."""

    def arm(trial: Trial) -> dict[str, float]:
        scores = RATES.get(method)
        lr = rate or (best(scores) if scores else RATE)
        recipe = {"batch_size": BATCH, "lr": lr, "steps": trial.steps(steps, quick=3)}
        if not steps:
            recipe |= {"steps": 1, "lr": 1e-12, "ema": None}
        settings = resolve(
            method,
            {"train": trial.prelude[captions]},
            image_tower=IMAGE,
            config=config,
            recipe=recipe,
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run")
        return measured(trial, load(trial.folder / "run"), elsewhere)

    return arm


claim = Claim(
    question=(
        "Frozen embeddings of an encoder that learns from tiles and captions predict indicators of unseen blocks "
        "better than those of one that learns from the tiles alone."
    ),
    prelude=draw,
    arms={
        "simclr": trained("simclr", elsewhere=True),
        "random": trained(steps=0),
        "urbanclip": trained(elsewhere=True),
        "shuffled": trained(captions="shuffled"),
        "con": trained(caption=0.0),
        "cap": trained(contrastive=0.0),
        "noisy": trained(captions="noisy"),
        "no_works": trained(captions="no_works"),
    },
    headline=(better("r2", "urbanclip", over="simclr"),),
    mechanism=("shuffled",),
    checks=(
        better("r2", "urbanclip", over="random"),
        better("r2", "urbanclip", over="con"),
        better("r2", "urbanclip", over="cap"),
        better("r2", "urbanclip", over="noisy"),
        better("r2_carbon", "urbanclip", over="no_works"),
        better("others", "urbanclip", over="simclr"),
        better("transfer", "urbanclip", over="simclr"),
    ),
    delta=0.02,
    rates=RATES,
    floor=Floor("r2", chance=0.0, arms=("simclr", "urbanclip"), least=0.1),
    table=("r2", *(f"r2_{name}" for name in INDICATORS), "others", "transfer"),
)
