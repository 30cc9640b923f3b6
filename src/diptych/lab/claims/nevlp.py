"""Do the losses of pairs show which are wrong, and does a softened target for these give better recall?

A Q-Former between `tiny`, frozen, and texts learns scenes of two things by contrast alone. Of the
noisy pairs, two fifths have the caption of another scene (wrong), two fifths one that leaves
attributes out (incomplete). All arms take as many steps, but for `half` on as many pairs, from tokens
that are computed once, and are measured on held-out clean scenes.

    plain, softened         noisy pairs, by InfoNCE and by the noise-adaptive contrast: the method
    half                    softened, on the first half of the noisy pairs in as many steps
    dealt                   softened, with the probabilities exchanged among the pairs
    known                   softened by the world's flags: what perfect probabilities would give
    clean, clean_softened   the same scenes with their own, whole captions

`r1` is the mean of recall at 1 both ways by the best query, `missed` 1 less the area under the curve with
which the probabilities of the last epoch find wrong pairs. `p_wrong`, `p_incomplete` and `p_clean`
are the means of these probabilities.

Matching and captions, with their concepts, are not part of this claim. Rates and lambda are to be chosen
on seeds 100 and 101. What was tried on seed 100, at 3e-4, 1e-3 and 3e-3: `plain` .58, .64 and .01, `softened` .53,
.84 (`missed` .04) and .02; at 1e-3 `dealt` .73, and at twice the steps `plain` .63 and `softened` .84. With four layers
`plain` is .67 at 1e-3 and `softened` .84.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.sample import Source, labels_of
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.evaluation.suites import noisy_pairs
from diptych.lab.claim import Claim, Floor, Trial, at_most, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2:same=0:size=64:texts=caption"
FIELDS = ("images.main", "texts.caption", "labels.noise")
NOISE = {"noisy": ":noise=swap=0.4+drop=0.4", "clean": ""}
LEARNT = 3200
MEASURED = 300
EPOCHS = 8
BATCH = 64
RATE = 1e-3
LAMBDA = 0.9

Change = Callable[[Any, Trial, Source], None]


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, once with noise and once without; sources by name."""
    count = LEARNT // 10 if trial.quick else LEARNT
    specs = {
        name: f"{SCENES}:seed={trial.seed}:count={count}{noise}" for name, noise in NOISE.items()
    }
    specs["half"] = f"{SCENES}:seed={trial.seed}:count={count // 2}{NOISE['noisy']}"
    specs["measured"] = f"{SCENES}:seed={trial.seed}:split=val:drop=0:count={MEASURED}"
    for name, spec in specs.items():
        write_shards(Only(open_source(spec), FIELDS), trial.folder / name)
    return {name: f"{trial.folder / name}/*.tar" for name in specs}


def trained(
    data: str,
    noise: float,
    change: Change | None = None,
    rate: float = RATE,
    epochs: int = EPOCHS,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: contrast alone on some pairs with this lambda, at a rate, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        source = open_source(trial.prelude[data])
        settings = resolve(
            "nevlp",
            {"train": trial.prelude[data]},
            init="tiny",
            preset="small",
            config={
                "noise": noise,
                "matching": 0.0,
                "caption": 0.0,
                "concepts": 0,
                "cached": True,
                "depth": 2,
            },
            recipe={"epochs": trial.steps(epochs, quick=2), "batch_size": BATCH, "lr": rate},
            options={"seed": trial.seed, "quiet": True},
        )

        def changed(method: Method) -> None:
            if change is not None:
                change(method, trial, source)

        run(settings, trial.folder / "run", change=changed)
        model: Any = load(trial.folder / "run")
        held_out = open_source(trial.prelude["measured"])
        recall = evaluate(model, held_out, ["retrieval"])["retrieval"]
        return {
            "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
            **flagged(trial.folder / "run", source),
        }

    return arm


def flagged(folder: Path, source: Source) -> dict[str, float]:
    """Return how well the probabilities of the last epoch find wrong pairs; nothing where there are
    none."""
    files = sorted(folder.glob("noise-*.jsonl"), key=lambda path: int(path.stem.split("-")[1]))
    kinds = labels_of(source, "noise")
    names = source.schema()["labels.noise"].classes
    if not files or not kinds.any():
        return {}
    rows = [json.loads(line) for line in files[-1].read_text(encoding="utf-8").splitlines()]
    found = {row["key"].rpartition("#")[0]: row["noise_probability"] for row in rows}
    keys = source.keys()
    noise = np.array([found[key] for key in keys])
    kind = {"wrong": "swap", "incomplete": "drop", "clean": "clean"}
    means = {
        f"p_{name}": float(noise[kinds == names.index(own)].mean()) for name, own in kind.items()
    }
    wrong = kinds == names.index("swap")
    return {"missed": 1 - noisy_pairs.report(noise, wrong)["auroc"], **means}


def dealt(method: Any, trial: Trial, source: Source) -> None:
    """Exchange the probabilities among the pairs."""
    found = method._noise

    def exchanged(run: Any, pairs: Source, keys: Sequence[str]) -> np.ndarray:
        return generator(trial.seed, "dealt", run.at.epoch).permutation(found(run, pairs, keys))

    method._noise = exchanged


def known(method: Any, trial: Trial, source: Source) -> None:
    """Take the world's flags of wrong pairs for the probabilities."""
    swap = source.schema()["labels.noise"].classes.index("swap")
    flags = dict(zip(source.keys(), labels_of(source, "noise") == swap, strict=True))

    def told(run: Any, pairs: Source, keys: Sequence[str]) -> np.ndarray:
        return np.array([float(flags[key.rpartition("#")[0]]) for key in keys])

    method._noise = told


claim = Claim(
    question=(
        "The losses of pairs find wrong ones with an area of at least .85; softened targets for these give better "
        "recall where there are wrong pairs, and none worse where there are none."
    ),
    prelude=draw,
    arms={
        "plain": trained("noisy", 0.0),
        "softened": trained("noisy", LAMBDA),
        "half": trained("half", LAMBDA, epochs=2 * EPOCHS),
        "dealt": trained("noisy", LAMBDA, dealt),
        "known": trained("noisy", LAMBDA, known),
        "clean": trained("clean", 0.0),
        "clean_softened": trained("clean", LAMBDA),
    },
    headline=(
        better("r1", "softened", over="plain"),
        at_most("missed", "softened", 0.15),
        not_worse("r1", "clean_softened", than="clean", margin=0.02),
    ),
    mechanism=("dealt",),
    checks=(
        better("r1", "known", over="softened"),
        not_worse("r1", "half", than="plain", margin=0.02),
    ),
    delta=0.02,
    floor=Floor("r1", chance=1 / MEASURED, arms=("plain", "softened", "clean", "clean_softened")),
    table=("r1", "missed", "p_wrong", "p_incomplete", "p_clean"),
)
