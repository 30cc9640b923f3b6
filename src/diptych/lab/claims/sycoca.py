"""Does a model that draws masked patches from a text use the text, and finds images and texts no worse for
it than CoCa?

Scenes of three different things, whose captions describe the largest alone: the others are clutter. A
small CoCa learns them first, and each arm goes on from it for as many steps on the same pairs.

    coca         contrast and captions, nothing masked (shares 0, no image decoder)
    drop         captions do not read the patches that are least like the text
    random       drop, and reconstruction from the text, both by random masks
    sycoca       both by similarities: the method
    reversed     captions do not read the patches most like the text, the least like it are reconstructed
    dealt        sycoca, where patches are drawn from the text of another image

`sycoca`, `coca` and `dealt` have each a rate of their own, the others that of `sycoca`. Held-out scenes; the
patches that are masked are chosen by each model's own similarities to the caption, as many in each:

    gain         how much larger the error of masked pixels is with another image's caption than with the
                 own, as a share of the error of grey patches (`chance_error` of the suite reconstruction)
    iou          of the masked patches with the described thing
    r1, recall   recall at 1, and the mean of recall at 1, 5 and 10, both ways
    probe        the accuracy of a linear probe of the described object on the image vectors

`dealt` is plain masked image modelling, in which a text tells nothing. Not asked: the shares of patches,
raw pixels, answers (a captioner reads no questions), and what is drawn where nothing is masked. The
rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import At
from diptych.methods.fuse.sycoca.attentive import highest, lowest
from diptych.methods.store import load
from diptych.towers.encoded import Encoded
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=3:same=0:described=1:size=48:texts=caption:drop=0"
FIELDS = ("images.main", "texts.caption")
LEARNT = 4000
MEASURED = 300
PROBED = 1500  # scenes that the probe learns from
WARM_UP = 300  # steps
STEPS = 200
BATCH = 64
TOWER = "vit:image_size=48:patch=8:stem=conv:width=128:depth=3:heads=4:cls=0:pooling=mean"
WIDTH = 128  # of the space
START_RATE = 4e-3
RATES = {"coca": 2e-3, "sycoca": 2e-3, "dealt": 2e-3}
PLAIN: Mapping[str, Any] = {"drop": 0.0, "reconstruction": 0.0}

Change = Callable[[Any], None]


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, and train the model that all arms go on from; sources by
    name, and the model."""
    count = LEARNT // 20 if trial.quick else LEARNT
    write_shards(
        Only(open_source(f"{SCENES}:seed={trial.seed}:count={count}"), FIELDS),
        trial.folder / "train",
    )
    found = {"train": f"{trial.folder}/train/*.tar", "start": str(trial.folder / "start")}
    settings = resolve(
        "coca",
        {"train": found["train"]},
        image_tower=TOWER,
        embed_dim=WIDTH,
        config={"augment": {}, "directions": "mean"},
        recipe={
            "steps": 20 if trial.quick else WARM_UP,
            "batch_size": BATCH,
            "lr": START_RATE,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, found["start"])
    return found


def held_out(trial: Trial, split: str = "val", count: int = MEASURED) -> str:
    """The scenes of a split that are measured, with the masks of what captions describe."""
    count = count // 10 if trial.quick else count
    return f"{SCENES}:seed={trial.seed}:split={split}:count={count}"


def trained(
    like: str = "sycoca",
    rate: float | None = None,
    change: Change | None = None,
    **config: Any,
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm: the method with some options, at a rate, else that of `like`, measured."""

    def arm(trial: Trial) -> Mapping[str, float]:
        settings = resolve(
            "sycoca",
            {"train": trial.prelude["train"]},
            init=trial.prelude["start"],
            preset="small",
            config={"augment": {}, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=10),
                "batch_size": BATCH,
                "lr": rate or RATES[like],
            },
            options={"seed": trial.seed, "quiet": True},
        )

        run(settings, trial.folder / "run", change=change)
        draws = bool(config.get("reconstruction", 1))
        return measure(load(trial.folder / "run"), trial, draws=draws)

    return arm


def exchanged(method: Any) -> None:
    """Exchange the two shares of patches: captions do not read those of high similarity, and those of
    low similarity are reconstructed."""
    config = method.config

    def masks(
        image: Encoded, text: Encoded, lengths: Tensor, batch: Batch, at: At
    ) -> tuple[Tensor, Tensor]:
        if at.progress < config.random_masks:
            return batch.fields["captions.hidden"], batch.fields["main.hidden"]
        scores = method.model.scores(image, text, lengths)
        return highest(scores, config.drop), lowest(scores, config.mask)

    method.masks = masks


def dealt(method: Any) -> None:
    """Draw the patches of each image from the text of the next one of the batch."""
    draw_from = method.model.draw

    def drawn(patches: Tensor, masked: Tensor, text: Encoded, lengths: Tensor) -> Tensor:
        other = replace(text, tokens=text.tokens.roll(1, 0), pooled=text.pooled.roll(1, 0))
        return draw_from(patches, masked, other, lengths.roll(1, 0))

    method.model.draw = drawn


def measure(model: Any, trial: Trial, *, draws: bool) -> Mapping[str, float]:
    """Return recall on held-out scenes, the accuracy of a probe, and of a model that draws what the own
    text is worth to it."""
    source = open_source(held_out(trial))
    recall = evaluate(model, source, ["retrieval"])["retrieval"]
    ways = [recall[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    found = {"r1": float(np.mean(ways[::3])), "recall": float(np.mean(ways))}
    learnt = held_out(trial, "test", PROBED)
    probe = evaluate(model, source, ["probe"], train=learnt, label="object")["probe"]
    found["probe"] = probe["linear_top1"]
    if draws:
        drawn = evaluate(model, source, ["reconstruction"])["reconstruction"]
        found["gain"] = (drawn["other_error"] - drawn["error"]) / drawn["chance_error"]
        found |= {"error": drawn["error"] / drawn["chance_error"], "iou": drawn["iou"]}
    return found


claim = Claim(
    question=(
        "Trained to draw the patches that a text is about, a captioner draws them better from the own text than from "
        "another one, and recall is not worse than CoCa's."
    ),
    prelude=draw,
    arms={
        "coca": trained("coca", **PLAIN),
        "drop": trained(reconstruction=0.0),
        "random": trained(random_masks=1.0),
        "sycoca": trained(),
        "reversed": trained(change=exchanged),
        "dealt": trained("dealt", change=dealt),
    },
    headline=(
        better("gain", "sycoca", over="dealt"),
        not_worse("r1", "sycoca", than="coca", margin=0.03),
    ),
    mechanism=("reversed",),
    checks=(
        better("iou", "sycoca", over="reversed"),
        better("recall", "sycoca", over="coca"),
        better("recall", "drop", over="coca"),
        better("recall", "sycoca", over="random"),
        better("probe", "sycoca", over="coca"),
        better("error", "sycoca", over="dealt", higher=False),
    ),
    delta={"gain": 0.005, "r1": 0.03},
    floor=Floor("r1", chance=1 / MEASURED, arms=("coca", "sycoca", "dealt"), least=0.1),
    table=("gain", "error", "iou", "r1", "recall", "probe"),
)
