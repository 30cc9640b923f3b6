"""Does the error of a frozen denoiser teach a CLIP to tell swapped colours apart, beyond its own loss?

Scenes of two shapes in two colours, at two places that the caption names. A denoiser of 16 pixels learns
them, and a small CLIP does, in whose batches hardly two captions differ by a swap alone. All arms but the
first two go on from this CLIP on the same scenes, in as many steps, and train its norms alone.

    start       the CLIP before
    teacher     the denoiser: minus its error is the score of an image with a caption
    norms       CLIP's loss (weight 0)
    sds         CLIP's loss and the denoiser's error: the method
    shuffled    the denoiser reads the caption of another scene of the batch
    detached    the error trains the map to latents alone, not the CLIP

`swap` is how often an image is nearer to its own caption than to that with the colours exchanged, over
both images of a pair (.5 by chance). `error` is the denoiser's error of mapped images of held-out scenes.
`r1` is the mean of recall at 1 both ways among held-out scenes, `zeroshot` the accuracy of the shape in
scenes of one.

The floor is the precondition: a teacher that cannot tell swaps apart has nothing to teach, and the claim is then
untrained. An experiment with 72 scenes and two seeds saw no gain over `norms`, so the question is open, and
`null` is a possible answer.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only, Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

LOOK = (
    "size=32:objects=circle+square+triangle+star:colours=red+green+blue+yellow:drop=0:occlusion=0"
)
SCENES = f"scenes:number=2:same=0:styles=plain:texts=caption:{LOOK}"
SINGLES = f"scenes:number=1:styles=plain:texts=caption:{LOOK}"
FIELDS = ("images.main", "texts.caption")
LEARNT = 3000
MEASURED = 1000  # pairs of a scene and its swap, of which the teacher is measured on the first
TEACHER_MEASURED = 200
RETRIEVED = 500
STEPS = {"teacher": 1000, "start": 400, "map": 150, "train": 250}
BATCH = 64
TUNE_BATCH = 32
TOWER = "conv:image_size=32:stem=2:widths=(16,32,64):depths=(1,1,1):pooling=max"
TEXT_TOWER = "text:width=64:depth=2:heads=2"
WIDTH = 64  # of the space
DENOISER = {"size": 16, "patch": 4, "width": 128, "depth": 3}
DENOISER_TEXT = "text:width=64:depth=2:heads=2:causal=false"
START_RATE = 4e-3
TEACHER_RATE = 1e-3
MAP_RATE = 1e-2
RATES = {"norms": 1e-2, "sds": 1e-2}

Change = Callable[[Method], None]


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, train the denoiser and the CLIP that all arms go on from;
    sources by name, and both models."""
    found = {}
    for name, spec, count in (
        ("pairs", f"{SCENES}:split=train", LEARNT),
        ("swaps", f"{SCENES}:split=val:edits=swap", MEASURED),
        ("held_out", f"{SCENES}:split=val:start={MEASURED}", RETRIEVED),
        ("singles", f"{SINGLES}:split=val", RETRIEVED),
    ):
        count = count // 10 if trial.quick else count
        more = {"swaps": ("edits",), "singles": ("labels.object",)}.get(name, ())
        source = open_source(f"{spec}:seed={trial.seed}:count={count}")
        write_shards(Only(source, (*FIELDS, *more)), trial.folder / name)
        found[name] = f"{trial.folder / name}/*.tar"
    options = {"seed": trial.seed, "quiet": True}
    teacher = resolve(
        "denoise",
        {"train": found["pairs"]},
        text_tower=DENOISER_TEXT,
        embed_dim=WIDTH,
        config={**DENOISER, "augment": {}},
        recipe={
            "steps": 10 if trial.quick else STEPS["teacher"],
            "batch_size": BATCH,
            "lr": TEACHER_RATE,
        },
        options=options,
    )
    student = resolve(
        "clip",
        {"train": found["pairs"]},
        image_tower=TOWER,
        text_tower=TEXT_TOWER,
        embed_dim=WIDTH,
        config={"augment": {}},
        recipe={
            "steps": 20 if trial.quick else STEPS["start"],
            "batch_size": BATCH,
            "lr": START_RATE,
        },
        options=options,
    )
    for name, settings in (("teacher", teacher), ("start", student)):
        run(settings, trial.folder / name)
        found[name] = str(trial.folder / name)
    return found


def shuffle(method: Method) -> None:
    """Have the denoiser read the caption of the next sample of the batch."""
    teacher: Any = method.teacher
    rows_of = teacher.rows

    def rows(batch: Batch) -> tuple[Tensor, Tensor]:
        rows, mask = rows_of(batch)
        return rows.roll(1, 0), mask.roll(1, 0)

    teacher.rows = rows


def detach(method: Method) -> None:
    """Have the error train the map alone: no gradient passes from it to the vectors."""
    setup = method.setup

    def detached(sources: Any) -> None:
        setup(sources)
        mapper: Any = method.mapper
        mapper.register_forward_pre_hook(lambda module, given: (given[0].detach(),))

    method.setup = detached  # type: ignore[method-assign]


def tuned(
    like: str = "sds",
    weight: float = 1.0,
    change: Change | None = None,
    held_out: bool = False,
    rate: float | None = None,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the norms of the CLIP tuned with this weight of the error, at a rate of RATES or another
    one; with `held_out` the error of held-out scenes is measured."""

    def arm(trial: Trial) -> dict[str, float]:
        found = trial.prelude
        names = {"train": "pairs", **({"held_out": "held_out"} if held_out else {})}
        settings = resolve(
            "sds_clip",
            {stream: found[name] for stream, name in names.items()},
            init=found["start"],
            config={
                "denoiser": found["teacher"] if weight else "",
                "weight": weight,
                "warm": {"steps": trial.steps(STEPS["map"], quick=3), "lr": MAP_RATE},
                "augment": {},
            },
            recipe={
                "steps": trial.steps(STEPS["train"], quick=5),
                "batch_size": TUNE_BATCH,
                "lr": rate or RATES[like],
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        measured = measure(load(trial.folder / "run"), trial)
        if held_out:
            error = json.loads((trial.folder / "run" / "sds_error.json").read_text("utf-8"))
            measured["error"] = error["error"]
        return measured

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The arm without further training."""
    return measure(load(trial.prelude["start"]), trial)


def teacher(trial: Trial) -> dict[str, float]:
    """The denoiser itself."""
    source = open_source(trial.prelude["swaps"])
    first = Wrapped(source, range(min(TEACHER_MEASURED, len(source))))
    found = evaluate(load(trial.prelude["teacher"]), first, ["composition"], by="match")
    return {"swap": found["composition"]["i2t_2way"]}


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return how often swaps are told apart, recall, and the accuracy of shapes."""
    found = trial.prelude
    swaps, held_out, singles = (
        open_source(found[name]) for name in ("swaps", "held_out", "singles")
    )
    recall = evaluate(model, held_out, ["retrieval"])["retrieval"]
    return {
        "swap": evaluate(model, swaps, ["composition"])["composition"]["i2t_2way"],
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
        "zeroshot": evaluate(model, singles, ["zeroshot"], label="object")["zeroshot"]["top1"],
    }


claim = Claim(
    question=(
        "A CLIP whose norms are also tuned by the error of a denoiser tells swapped colours apart better than one that "
        "is tuned by its own loss alone."
    ),
    prelude=draw,
    arms={
        "start": start,
        "teacher": teacher,
        "norms": tuned("norms", weight=0.0),
        "sds": tuned(held_out=True),
        "shuffled": tuned(change=shuffle),
        "detached": tuned(change=detach, held_out=True),
    },
    headline=(better("swap", "sds", over="norms"),),
    mechanism=("shuffled",),
    checks=(
        better("swap", "teacher", over="start"),
        better("error", "sds", over="detached", higher=False),
        not_worse("r1", "sds", than="norms", margin=0.02),
        not_worse("zeroshot", "sds", than="start", margin=0.02),
    ),
    delta=0.015,
    looks=(5, 10, 20),
    floor=Floor("swap", chance=0.5, arms=("teacher",), least=0.8),
    table=("swap", "error", "r1", "zeroshot"),
)
