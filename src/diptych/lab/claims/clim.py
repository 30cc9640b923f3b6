"""Do the tiles of mosaics teach a model what is in a region, from captions alone?

All arms continue `tiny` on captioned scenes of one thing, by the same blocks, rate, steps and share of
the weights, and are asked for the names of given boxes in scenes of six things that hide each other.
Boxes are never used in training. Every arm is read by the same two routes: `values`, where a position
attends to itself alone in the last block, and `tokens`.

    start       tiny as it is
    plain       each image whole, by the vector of the image: CLIP
    clim        the method: mosaics of 2 x 2 and 3 x 3 tiles, and images that stay single
    single      each image by itself, pooled from its positions: no mosaic
    permuted    tiles are pooled from the box of another tile of their mosaic
    whole       every tile is pooled from the whole mosaic

`region` is the share of boxes whose class is the first by `values`, `mean_region` its mean over
classes, `tokens` the same by `tokens`; `zeroshot` is the accuracy for whole images of one thing.

Without any training `values` names twice as many boxes as `tokens` do: an arm must not be compared by
one route with another one by the other.

`clim` and `plain` have each a rate of their own, the other arms that of `clim`. Zero-shot accuracy is also
compared with that of `start`, since an arm that learns little loses little.

Not asked: the training of a detector on captions, published towers.

Rates were chosen by the mean of `region` and `zeroshot` on seeds 100 and 101: at 2.4e-3 `clim` names as many
boxes, and fewer whole images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, Tuned, best, better, not_worse
from diptych.methods.base import Method
from diptych.methods.dense.clim.mosaic import tile_boxes
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

LEARNT = 3000
BOXED = 300  # held-out scenes of six boxes
WHOLE = 500  # held-out images of one thing
STEPS = 150
GROUP = 32
RATES: dict[str, Rates] = {
    "plain": {7.5e-5: 0.787, 1.5e-4: 0.789, 3e-4: 0.786, 6e-4: 0.777},
    "clim": {6e-4: 0.876, 1.2e-3: 0.901, 2.4e-3: 0.893},
}
LEAST = 0.3  # of boxes: the floor
CLASSES = 20
MOSAICS: dict[str, Any] = {"choices": (2, 3), "group": GROUP, "tile": 32, "size": 96}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, but for those with boxes: shards keep no class names of
    boxes."""
    sizes = {"learnt": (LEARNT, 128), "boxed": (BOXED, 10), "whole": (WHOLE, 20)}
    specs = {
        "learnt": "scenes:number=1",
        "boxed": "scenes:number=6:same=0:occlusion=1:split=val",
        "whole": "scenes:number=1:split=val",
    }
    found = {}
    for name, spec in specs.items():
        many, few = sizes[name]
        found[name] = f"{spec}:seed={trial.seed}:count={few if trial.quick else many}"
        if name != "boxed":
            write_shards(open_source(found[name]), trial.folder / name)
            found[name] = f"{trial.folder / name}/*.tar"
    return found


def trained(
    change: Callable[[Method], None] | None = None,
    *,
    like: str = "clim",
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: `tiny`, continued by the method at the rate of the arm `like`, with a change."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "clim",
            {"train": trial.prelude["learnt"]},
            init="tiny",
            config={**MOSAICS, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=4),
                "lr": best(RATES[like]),
                "warmup": 0.1,
                "batch_size": GROUP,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The arm without training."""
    return measure(load("tiny"), trial)


def plainly(method: Any) -> None:
    """Embed every image whole, at the image tower's own size."""
    method.tile = method.model.image.image_size

    def encode(batch: Any, at: Any) -> dict[str, Tensor]:
        return {"image": method.model.embed_images(batch.image.flat)}

    method._encode_images = encode


def pooled_from(boxes: Callable[[int], Tensor], method: Any) -> None:
    """Pool the tiles of a mosaic of s x s from other boxes."""
    method.boxes = boxes


def permuted(side: int) -> Tensor:
    """The boxes of the tiles in another order, drawn anew at each step."""
    boxes = tile_boxes(side)
    return boxes[torch.randperm(len(boxes))]


def of_all(side: int) -> Tensor:
    """The box of the whole mosaic, for every tile."""
    return tile_boxes(1).expand(side**2, -1)


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return how many boxes are named by either route, and how many whole images."""
    boxed = open_source(trial.prelude["boxed"])
    by = {
        route: evaluate(model, boxed, ["regions"], route=route)["regions"]
        for route in ("values", "tokens")
    }
    whole = open_source(trial.prelude["whole"])
    return {
        "region": by["values"]["top1"],
        "mean_region": by["values"]["mean_top1"],
        "tokens": by["tokens"]["top1"],
        "zeroshot": evaluate(model, whole, ["zeroshot"], label="object")["zeroshot"]["top1"],
    }


claim = Claim(
    question=(
        "Trained on mosaics of captioned images, a model names given boxes better than after as many steps on "
        "whole images, without a loss on whole images."
    ),
    prelude=draw,
    arms={
        "start": start,
        "plain": trained(plainly, like="plain"),
        "clim": trained(),
        "single": trained(choices=(1,), tile=64, size=64),
        "permuted": trained(partial(pooled_from, permuted)),
        "whole": trained(partial(pooled_from, of_all)),
    },
    headline=(
        better("region", "clim", over="plain"),
        not_worse("zeroshot", "clim", than="plain", margin=0.03),
    ),
    mechanism=("permuted", "whole"),
    checks=(
        better("region", "clim", over="start"),
        better("region", "clim", over="single"),
        better("tokens", "clim", over="plain"),
        not_worse("zeroshot", "clim", than="start", margin=0.03),
    ),
    delta=0.05,
    rates=RATES,
    tuned=Tuned(effect=0.231, sd=0.009, best=0.812, chance=1 / CLASSES, seconds=370),
    floor=Floor("region", chance=1 / CLASSES, arms=("plain", "clim", "single"), least=LEAST),
    table=("region", "mean_region", "tokens", "zeroshot"),
)
