"""Do positions that are trained to agree with the near positions of another crop tell more of what is there
than a pooled vector that is trained to agree with that of another crop?

Images of three of four shapes, all red, on any ground: what tells the things of an image apart is their shape.
All arms have the same tower, a map of 6 x 6, the same images, augmentations, steps and batches:

    byol        pooled vectors agree with those of a momentum copy: the instance level
    pixpro      positions agree with near positions of the copy: the method
    both        pixpro, with a branch of pooled vectors beside it
    contrast    PixContrast: near positions against the others of the other crop
    dealt       pixpro, with as many positive pairs for a position, of positions drawn at random
    copied      pixpro, with the encoder itself in place of its momentum copy, and with its gradient
    pyramid     pixpro, with a feature pyramid that learns by the same loss
    untrained   the tower at its start

`miou` is the mean intersection over union of a linear probe of the shape at each position, the ground among
the classes, of held-out images; that of `pyramid` is of its finest level. `probe` is the accuracy of a linear
probe of the largest shape on the pooled vector, `correspondence` that of positions of two crops that find
each other.

What was tried, on seed 100: with three or four of eight shapes in eight colours, `pixpro` after 400 steps at
4e-3 has a `miou` of .135 and a `correspondence` of .57.

Not asked: whether pooled vectors are better, which the paper does not say, and transfer to detection.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.data.sample import Sample, Schema
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SHAPES = ("circle", "square", "star", "cross")
SCENES = (
    f"scenes:number=3:same=0:size=48:objects={'+'.join(SHAPES)}:colours=red:held_out=0:styles=plain"
)
PARTS = {"train": 3000, "val": 600, "test": 400}  # probes learn from `val`
TOWER = "conv:image_size=48:widths=(32,64):depths=(1,1)"  # a map of 6 x 6
HEAD = "mlp:hidden=128"
WIDTH = 64  # of the projections
AUGMENT = {"crop": (0.2, 1.0), "flip": True, "colour": (0.4, 0.4, 0.2, 0.1), "recoloured": 0.8}
STEPS = 400
BATCH = 64
POSITIONS = 8000  # of `val`, that the probe learns from
RATES: Mapping[str, Rates] = {}
RATE = 4e-3

Change = Callable[[Method], None]


class Masked(Wrapped):
    """Images, the shape at each pixel and the largest one of a source, without what else a scene holds,
    which takes longer to read than a step to compute."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return Sample(
            key=sample.key,
            source=sample.source,
            images=sample.images,
            masks={"class": sample.masks["class"]},
            labels={"object": sample.labels["object"]},
        )

    def schema(self) -> Schema:
        full = super().schema()
        return {name: full[name] for name in ("images.main", "masks.class", "labels.object")}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards."""
    shrink = 10 if trial.quick else 1
    for part, count in PARTS.items():
        source: Any = open_source(
            f"{SCENES}:seed={trial.seed}:split={part}:count={count // shrink}"
        )
        write_shards(Masked(source), trial.folder / part)
    return {part: f"{trial.folder / part}/*.tar" for part in PARTS}


# ---- the arms


def trained(
    arm: str, change: Change | None = None, *, rate: float | None = None, **config: Any
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm: PixPro's options are `config`, and `byol` is BYOL."""
    instance = arm == "byol"

    def learn(trial: Trial) -> Mapping[str, float]:
        views = {"augment": AUGMENT} if instance else {"augment": AUGMENT, "second": AUGMENT}
        settings = resolve(
            "byol" if instance else "pixpro",
            {"train": trial.prelude["train"]},
            image_tower=TOWER,
            embed_dim=WIDTH,
            config={**views, "projector": HEAD, "predictor": HEAD, "momentum": 0.98, **config},
            recipe={
                "steps": 1 if arm == "untrained" else trial.steps(STEPS, quick=20),
                "batch_size": BATCH,
                "lr": 1e-9 if arm == "untrained" else rate or rate_of(arm),
                "ema": None,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        folder = trial.folder / "run"
        run(settings, folder, change=change)
        return measure(trial, level=0 if config.get("levels") else None)

    return learn


def rate_of(arm: str) -> float:
    """Return the best rate of an arm; all but `byol` have that of `pixpro`."""
    rates = RATES.get(arm, RATES.get("pixpro"))
    return RATE if rates is None else best(rates)


def deal(method: Any) -> None:
    """Give each position as many positive pairs as it has, with positions drawn at random."""
    own = method.positives

    def dealt(batch: Any, grid: tuple[int, int]) -> Tensor:
        near = own(batch, grid)
        order = torch.rand(near.shape[0], near.shape[2]).argsort(1).to(near.device)
        return near.gather(2, order[:, None].expand_as(near))

    method.positives = dealt


def copy(method: Any) -> None:
    """Compare with the encoder itself, whose gradient passes on both sides."""
    own = method.project

    def project(branch: Any, view: Tensor) -> Any:
        with torch.enable_grad():
            return own(method.slow.online, view)

    method.project = project


def measure(trial: Trial, level: int | None = None) -> dict[str, float]:
    """Return what probes read at positions and of pooled vectors, and whether crops find each other."""
    model = load(trial.folder / "run")
    test = open_source(trial.prelude["test"])
    val = trial.prelude["val"]
    dense = evaluate(
        model, test, ["dense"], train=val, mask="class", max_positions=POSITIONS, level=level
    )["dense"]
    probe = evaluate(model, test, ["probe"], train=val, label="object", features="pooled")["probe"]
    found = evaluate(model, test, ["correspondence"], level=level)["correspondence"]
    return {
        "miou": dense["miou"],
        "probe": probe["linear_top1"],
        "correspondence": found["accuracy"],
    }


claim = Claim(
    question=(
        "Positions that agree with the near positions of another crop tell a linear probe more of the shape that is "
        "there than the positions of a tower whose pooled vectors agree."
    ),
    prelude=draw,
    arms={
        "byol": trained("byol"),
        "pixpro": trained("pixpro"),
        "both": trained("both", instance=1.0),
        "contrast": trained("contrast", objective="contrast"),
        "dealt": trained("dealt", deal),
        "copied": trained("copied", copy),
        "pyramid": trained("pyramid", levels=2, channels=WIDTH),
        "untrained": trained("untrained"),
    },
    headline=(better("miou", "pixpro", over="byol"),),
    mechanism=("dealt", "copied"),
    checks=(
        better("correspondence", "pixpro", over="byol"),
        better("miou", "pixpro", over="untrained"),
        better("miou", "both", over="byol"),
        better("probe", "both", over="pixpro"),
    ),
    delta=0.02,
    floor=Floor("correspondence", chance=1 / 36, arms=("pixpro",), least=0.4),
    table=("miou", "probe", "correspondence"),
)
