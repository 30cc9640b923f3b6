"""Does one perturbation, made by generators on one model, break the retrieval of images that it has
not seen, on that model and on another, far more than random signs of the same size do?

Scenes show one drawing in one style on a ground that can be named, with five wordings each. Two CLIP
models (the prelude) are trained on scenes of their own: the surrogate, and a victim with other
widths and another seed. All arms make a change of pixels of at most 4 of 255 and one word on the
surrogate, from the scenes that it was trained on and in as many steps; a random one needs none.

    c_pgc           the method
    noise           random signs and a random word: a change for which nothing was learnt
    distance        the distance from unchanged features alone, without the contrast
    contrast        the contrast alone
    no_target       own partners are pushed away, and nothing is pulled closer
    flipped         the sign of the whole loss reversed: images and texts are kept together
    swapped         partners and targets exchanged in the contrast, the distance as it is
    pgd             the same losses, minimised by signed steps on the change itself
    wide            the method at 12 of 255, as published, and `wide_noise` random signs of that size

`asr` is the success rate at rank 1 of the change of images alone, the mean of both directions: of the
queries among held-out scenes that the surrogate got right, how many it gets wrong. `transfer` is the
same on the victim. `texts` and `both` are those of the word alone and of word and images together,
on the surrogate, `both_transfer` on the victim. `r1` and `victim_r1` are the recalls before.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, Tuned, better, not_worse
from diptych.methods.base import At, Features, Losses, Method
from diptych.methods.robust.c_pgc.contrast import inverted_contrast, log_mean
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=32:styles=plain:texts=caption+paraphrase:drop=0"
POOL = 2000  # scenes that each model learns from
GALLERY = 400  # held out
EPS = 4
WIDE = 12
MODEL_STEPS = 600
STEPS = 200
MODEL_RATE = 4e-3
RATES: dict[str, dict[float, float]] = {
    "c_pgc": {2.5e-5: 0.175, 1e-4: 0.181, 2e-4: 0.175, 4e-4: 0.176, 8e-4: 0.166},
    "distance": {2.5e-5: 0.175, 2e-4: 0.178, 4e-4: 0.173, 8e-4: 0.165},
}
TOWERS = {
    "surrogate": "vit:image_size=32:patch=8:width=64:depth=2:heads=2",
    "victim": "vit:image_size=32:patch=8:width=96:depth=3:heads=3",
}
MODEL_RECIPE = {"batch_size": 64, "warmup": 0.2, "ema": None, "lr": MODEL_RATE}
PERTURBATION = {
    "eps": EPS,
    "role": "paraphrase",
    "layers": 3,
    "channels": 64,
    "text_channels": 64,
}


def pretrain(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, and train both models, each on scenes of its own."""
    world = f"{SCENES}:seed={trial.seed}"
    sources = {
        "surrogate": f"{world}:count={POOL}",
        "victim": f"{world}:start={POOL}:count={POOL}",
        "gallery": f"{world}:split=val:count={GALLERY}",
    }
    found = {}
    for name, source in sources.items():
        write_shards(open_source(source), trial.folder / name)
        found[f"{name}_data"] = f"{trial.folder / name}/*.tar"
    for number, (name, tower) in enumerate(TOWERS.items()):
        settings = resolve(
            "clip",
            {"train": found[f"{name}_data"]},
            image_tower=tower,
            config={"augment": None, "role": "paraphrase"},
            recipe={**MODEL_RECIPE, "steps": trial.steps(MODEL_STEPS, quick=100)},
            options={"seed": 1000 * number + trial.seed, "quiet": True},
        )
        run(settings, trial.folder / f"{name}_run")
        found[name] = str(trial.folder / f"{name}_run")
    return found


def made(
    rates: str | None = "c_pgc",
    change: Callable[[Method], None] | None = None,
    rate: float | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a perturbation made on the surrogate."""

    def arm(trial: Trial) -> dict[str, float]:
        data = trial.prelude["surrogate_data"]
        recipe: dict[str, Any] = {"steps": trial.steps(STEPS, quick=40)}
        if rates is not None:
            recipe["lr"] = rate or best(rates)
        settings = resolve(
            "c_pgc",
            {"train": data, "targets": data},
            init=trial.prelude["surrogate"],
            config={**PERTURBATION, **config},
            recipe=recipe,
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def best(arm: str) -> float:
    """Return the best rate of an arm; ablations have that of `c_pgc`."""
    return max(RATES[arm], key=lambda rate: RATES[arm][rate])


def flip(method: Method) -> None:
    """Reverse the sign of the whole loss."""
    loss = method.loss

    def flipped(features: Features, batch: Any, at: At) -> Losses:
        found = loss(features, batch, at)
        return replace(found, terms={name: -term for name, term in found.terms.items()})

    method.loss = flipped  # type: ignore[method-assign]


def swap(method: Method) -> None:
    """Exchange partners and targets in the contrast, and leave the distance as it is."""

    def swapped(own: Tensor, far: Tensor, temperature: float) -> Tensor:
        return inverted_contrast(far, own, temperature)

    method.contrast = swapped  # type: ignore[assignment]


def drop_targets(method: Method) -> None:
    """Leave the targets out: log P alone."""

    def pushed(own: Tensor, far: Tensor, temperature: float) -> Tensor:
        return log_mean(own, temperature)

    method.contrast = pushed  # type: ignore[assignment]


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return success rates among held-out scenes on the surrogate and on the victim."""
    gallery = open_source(trial.prelude["gallery_data"])
    found: dict[str, float] = {}
    for name, end in (("surrogate", ""), ("victim", "_transfer")):
        victim = load(trial.prelude[name])
        result = evaluate(model, gallery, ["attack"], victim=victim, role="caption")["attack"]
        for what, rates in result["by_changed"].items():
            found[f"{what}{end}"] = float(np.mean([rates["i2t_asr1"], rates["t2i_asr1"]]))
        found[f"r1{end}"] = (result["i2t_r1"] + result["t2i_r1"]) / 2
    return {
        "asr": found["images"],
        "transfer": found["images_transfer"],
        "texts": found["texts"],
        "both": found["both"],
        "both_transfer": found["both_transfer"],
        "r1": found["r1"],
        "victim_r1": found["r1_transfer"],
    }


claim = Claim(
    question=(
        "One change of at most 4 of 255, made on one model, breaks more of the retrieval of unseen images than random "
        "signs of that size do, on that model and on another."
    ),
    prelude=pretrain,
    arms={
        "c_pgc": made(),
        "noise": made(rates=None, by="noise"),
        "distance": made("distance", contrast=0.0),
        "contrast": made(alpha=0.0),
        "no_target": made(change=drop_targets),
        "flipped": made(change=flip),
        "swapped": made(change=swap),
        "pgd": made(rates=None, by="pgd"),
        "wide": made(eps=WIDE),
        "wide_noise": made(rates=None, by="noise", eps=WIDE),
    },
    headline=(
        better("asr", "c_pgc", over="noise"),
        better("transfer", "c_pgc", over="noise"),
    ),
    mechanism=("swapped", "flipped"),
    checks=(
        better("both", "c_pgc", over="noise"),
        better("texts", "c_pgc", over="noise"),
        better("both_transfer", "c_pgc", over="noise"),
        not_worse("asr", "c_pgc", than="distance", margin=0.015),
        better("asr", "c_pgc", over="no_target"),
        better("asr", "c_pgc", over="contrast"),
        better("asr", "wide", over="wide_noise"),
        better("transfer", "wide", over="wide_noise"),
    ),
    delta={"asr": 0.015, "transfer": 0.009},
    looks=(5, 10, 20),
    tuned=Tuned(effect=0.161, sd=0.025, best=0.181, chance=0.02, seconds=700),
    rates=RATES,
    floor=Floor("r1", chance=1 / GALLERY, arms=("c_pgc", "noise")),
    table=("asr", "transfer", "texts", "both", "both_transfer", "r1", "victim_r1"),
)
