"""Does training the head of a detector on random boxes, from captions alone, teach it to name things that no
caption of this training names?

Scenes of three things, of which captions name one; 14 of 20 concepts occur. All arms but `start` go on from
`tiny` for as many steps on these pairs, with the text tower frozen and the image tower at the same rate. They
name given boxes of the other six concepts, in scenes of six things that hide each other. Boxes are never used
in training. `tiny` knows all 20 names.

    start            tiny as it is
    image            the image by its vector: CLIP
    dito             the pyramid and the head of a detector on eight random boxes, their maximum: the method
    whole_box        the same on one box, the whole image
    mean             the mean of the boxes in place of the maximum

`novel` is the share of boxes of the six whose name is the first among the six, `base` that of the 14. Both are
by the ordinary tokens of the last layer, which `image` pools as they are, and `dito` through the pyramid and
the head. `tokens` and `values` are `novel` by these two routes of the image tower, for all arms alike:
without any training `values` names twice as many boxes as `tokens`, so no arm is compared by one with
another by the other.

Windows are asked about without any training, on `tiny`:

    everywhere       all patches attend to each other
    windowed         2 x 2 windows in four of six layers
    shifted          the same, averaged with a copy that is shifted by half a window

`moved` is the mean distance of the unit vectors of positions of an image and of its copy that was moved by
half a window (what leaves on one side enters on the other), laid on each other. `boxes` is the share of all
boxes that are named among 20.

Not asked: the detector itself, its score fusion, published towers.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from typing import Any

import torch

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.models.regions import squashed
from diptych.models.two_stage.windows import Windows, in_windows
from diptych.rng import generator
from diptych.towers.nn.parts import freeze
from diptych.towers.regions import position_maps
from diptych.training.config import resolve
from diptych.training.run import run

HELD_OUT = 6  # of the 20 concepts
LEARNT = 3000
BOXED = 300  # held-out scenes of six boxes
MOVED = 100  # of them
STEPS = 300
BATCH = 32
TOWER_RATE = 3e-4
RATES = {"image": 3e-4, "dito": 3e-3}
HEAD = {"pyramid": 64, "width": 128, "regions": "random:count=8"}
WINDOWS = {"count": 2, "everywhere": 2}


def draw(trial: Trial) -> dict[str, Any]:
    """Write the scenes of training as shards, and draw the held-out concepts. Scenes with boxes are drawn
    as they are read, since shards keep no class names of boxes."""
    chosen = generator(trial.seed, "dito", "novel").choice(len(COMMON), HELD_OUT, replace=False)
    novel = [COMMON[at] for at in sorted(chosen.tolist())]
    base = "+".join(name for name in COMMON if name not in novel)
    learnt = 120 if trial.quick else LEARNT
    boxed = 10 if trial.quick else BOXED
    pairs = f"number=3:same=0:described=1:objects={base}:count={learnt}"
    write_shards(open_source(f"scenes:{pairs}:seed={trial.seed}"), trial.folder / "learnt")
    return {
        "novel": novel,
        "learnt": f"{trial.folder / 'learnt'}/*.tar",
        "boxed": f"scenes:number=6:same=0:occlusion=1:split=val:count={boxed}:seed={trial.seed}",
    }


def trained(*, rate: float = RATES["dito"], **config: Any) -> Callable[[Trial], dict[str, float]]:
    """An arm: the head of a detector on `tiny`, read by it."""
    options = {**HEAD, "backbone_rate": TOWER_RATE / rate, **config}
    return _tuned("dito", rate, "head", **options)


def continued(*, rate: float = RATES["image"]) -> Callable[[Trial], dict[str, float]]:
    """The arm of whole images, by the same frozen text tower."""
    return _tuned("clip", rate, "tokens", change=hold_texts, augment={})


def hold_texts(method: Any) -> None:
    """Keep the text tower as it is, as the method does: else names that no caption has are forgotten."""
    freeze(method.model.text, method.model.text_projection)


def _tuned(
    method: str,
    rate: float,
    route: str,
    *,
    change: Callable[[Method], None] | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            method,
            {"train": trial.prelude["learnt"]},
            init="tiny",
            config=config,
            recipe={
                "steps": trial.steps(STEPS, quick=3),
                "batch_size": BATCH,
                "lr": rate,
                "warmup": 0.1,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial, route)

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The arm without training."""
    return measure(load("tiny"), trial, "tokens")


def measure(model: Any, trial: Trial, route: str) -> dict[str, float]:
    """Return how many boxes are named by the route of an arm, and by both of the image tower."""
    source = open_source(trial.prelude["boxed"])
    by = {
        each: evaluate(model, source, ["regions"], route=each, novel=trial.prelude["novel"])
        for each in dict.fromkeys((route, "tokens", "values"))
    }
    own = by[route]["regions"]
    return {
        "novel": own["novel_top1"],
        "base": own["base_top1"],
        "tokens": by["tokens"]["regions"]["novel_top1"],
        "values": by["values"]["regions"]["novel_top1"],
    }


def windows(count: int, shift: int | None) -> Callable[[Trial], dict[str, float]]:
    """An arm without training: `tiny`, which attends in windows, with a shifted copy (None) or without
    (0)."""

    def arm(trial: Trial) -> dict[str, float]:
        model = load("tiny")
        tower: Any = model.encoder.image
        chosen = Windows(**{**WINDOWS, "count": count}, shift=shift)
        tower.forward = lambda x: in_windows(tower, x, chosen)
        source = open_source(trial.prelude["boxed"])
        found = evaluate(model, source, ["regions"], route="tokens")["regions"]
        return {"moved": moved(model, source), "boxes": found["top1"]}

    return arm


@torch.no_grad()
def moved(model: Any, source: Any) -> float:
    """The mean distance of positions of images and of their copies that were moved by half a window."""
    preprocess = squashed(model.preprocess)
    images = [source[at].images["main"] for at in range(min(MOVED, len(source)))]
    pixels = torch.stack([preprocess.read(image) for image in images])
    grid = model.encoder.image.grid(pixels)
    half = grid[0] // WINDOWS["count"] // 2
    by = half * (pixels.shape[-1] // grid[1])
    still = position_maps(model.encoder, pixels, "tokens")
    rolled = position_maps(model.encoder, pixels.roll((by, by), (2, 3)), "tokens")
    return float((still - rolled.roll((-half, -half), (2, 3))).norm(dim=1).mean())


claim = Claim(
    question=(
        "The head of a detector, trained on random boxes of captioned images, names boxes of things that no caption "
        "named better than an image tower that was trained for as many steps on whole images."
    ),
    prelude=draw,
    arms={
        "start": start,
        "image": continued(),
        "dito": trained(),
        "whole_box": trained(regions="grid:side=1"),
        "mean": trained(pool="mean"),
        "everywhere": windows(1, 0),
        "windowed": windows(WINDOWS["count"], 0),
        "shifted": windows(WINDOWS["count"], None),
    },
    headline=(better("novel", "dito", over="image"),),
    mechanism=("whole_box", "mean"),
    checks=(
        better("novel", "dito", over="start"),
        better("novel", "dito", over="whole_box"),
        better("tokens", "dito", over="image"),
        better("values", "dito", over="image"),
        better("moved", "shifted", over="windowed", higher=False),
        not_worse("boxes", "shifted", than="windowed", margin=0.02),
    ),
    delta=0.03,
    floor=Floor("base", chance=1 / (len(COMMON) - HELD_OUT), arms=("image", "dito")),
    table=("novel", "base", "tokens", "values", "moved", "boxes"),
)
