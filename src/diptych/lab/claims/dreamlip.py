"""Do several sentences of a long caption teach more than one, and does grouping show which patches
each speaks of?

Scenes of two or three different things have a raw text that names one of them, and a long caption:
a sentence for each thing, with all that is told of it, and one for the ground. All arms are trained
for as many steps of the same small recipe on the same scenes and are measured on held-out ones, by
captions of a role that no arm has read: one sentence that tells everything.

    raw                 the raw text
    cut                 the long caption as one text, cut at the tokenizer's 32 tokens
    one                 one sentence of it, drawn anew each time
    one_longer          the same for four times as many steps: as many sentences are read as by `several`
    several             the raw text and three sentences, each a positive; no grouping
    grouped             and the grouping loss
    even                grouping by even weights: all sentences of an image then gather the same patches

`r1` is the mean of recall at 1 both ways, `pointing` the share of sentences of one thing whose best
patch lies on it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.nn.functional import normalize

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2-3:same=0:size=48:long=objects"
LEARNT = 3000
STEPS = 200
SENTENCES = 3
PAIRS = 300  # held out
TOWER = "conv:image_size=48:widths=(32,64,128):depths=(1,1,1):pooling=max"


def draw(trial: Trial) -> str:
    """The scenes of the seed as shards."""
    count = 150 if trial.quick else LEARNT
    spec = f"{SCENES}:texts=web+long:seed={trial.seed}:count={count}"
    write_shards(open_source(spec), trial.folder / "scenes")
    return f"{trial.folder / 'scenes'}/*.tar"


def trained(
    method: str, *, times: int = 1, change: Callable[[Method], None] | None = None, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method on the scenes for `times` as many steps, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            method,
            {"train": trial.prelude},
            image_tower=TOWER,
            config={"augment": {}, **config},
            recipe={"steps": trial.steps(times * STEPS, quick=times * 4)},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(trial)

    return arm


def even(method: Method) -> None:
    """Gather all patches evenly, whatever a text says."""
    encode = method.encode

    def changed(batch: Any, at: Any) -> dict[str, Any]:
        found = encode(batch, at)
        encoded = method.model.encode_image(batch.image.flat)  # type: ignore[operator, union-attr]
        patches = normalize(method.model.project_image(encoded.patches), dim=-1)  # type: ignore[operator, union-attr]
        mean = normalize(patches.mean(1, keepdim=True), dim=-1)
        return {**found, "groups": mean.expand_as(found["texts"])}

    method.encode = changed  # type: ignore[method-assign]


def measure(trial: Trial) -> dict[str, float]:
    """Recall by whole captions and pointing by sentences, on held-out scenes."""
    model = load(trial.folder / "run")
    source = open_source(
        f"{SCENES}:drop=0:seed={trial.seed}:split=val:count={50 if trial.quick else PAIRS}"
    )
    told = evaluate(model, source, ["retrieval"], role="caption")["retrieval"]  # type: ignore[arg-type]
    where = evaluate(model, source, ["pointing"], role="long")["pointing"]  # type: ignore[arg-type]
    return {
        "r1": float(np.mean([told["i2t_r1"], told["t2i_r1"]])),
        "r5": float(np.mean([told["i2t_r5"], told["t2i_r5"]])),
        "pointing": where["pointing"],
        "iou": where["iou"],
        "chance": where["chance_pointing"],
    }


SEVERAL = {"role": "web", "pool": "long", "sentences": SENTENCES}

claim = Claim(
    question=(
        "Several sentences of a long caption teach more than one of them and than the long caption cut at the context, "
        "which teaches more than the raw text; grouping shows which patches a sentence speaks of, at no loss of recall."
    ),
    prelude=draw,
    arms={
        "raw": trained("clip", role="web"),
        "cut": trained("clip", role="long*"),
        "one": trained("clip", role="long"),
        "one_longer": trained("clip", role="long", times=1 + SENTENCES),
        "several": trained("dreamlip", **SEVERAL, subcaption=0.0),
        "grouped": trained("dreamlip", **SEVERAL),
        "even": trained("dreamlip", **SEVERAL, change=even),
    },
    headline=(
        better("pointing", "grouped", over="several"),
        better("r1", "several", over="one"),
        not_worse("r1", "grouped", than="several", margin=0.03),
    ),
    mechanism=("even",),
    checks=(better("r1", "cut", over="raw"), better("r1", "several", over="cut")),
    delta=0.03,
    floor=Floor("r1", chance=1 / PAIRS, arms=("cut", "one", "one_longer", "several", "grouped")),
    table=("r1", "r5", "pointing", "iou", "chance"),
)
