"""Do several sentences of a long caption teach more than one, and does grouping show which patches
each speaks of?

Scenes of four to six different things have a raw text that names one of them, and a long caption: a
sentence for each thing, with all that is stated of it, and one for the ground. All arms tune `tiny`,
a small ViT with 8 x 8 patches that knows scenes of fewer things, for as many steps on the same
scenes, and are measured on held-out ones, by captions of a role that no arm has read: one sentence
that states everything.

    start               tiny as it is
    raw                 the raw text
    cut                 the long caption as one text, cut at the tokenizer's 64 tokens
    one                 one sentence of it, drawn anew each time
    one_longer          the same for four times as many steps: as many sentences are read as by `several`
    several             the raw text and three sentences, each a positive; no grouping
    grouped             and the grouping loss: the method
    even                grouping by even weights: all sentences of an image then gather the same patches

`r1` is the mean of recall at 1 both ways, `pointing` the share of sentences of one thing whose best
patch lies on it, `iou` the overlap of its patches (W > .5) with it, `miou` that of
segmentation by the names of things.

Earlier forms trained from scratch: on two or three things and a map of 3 x 3, nine positions each of
which sees the whole image, there was no room for grouping; on these scenes and a map of 6 x 6, 200
steps at half a second each left recall near chance.
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

SCENES = "scenes:number=4-6:same=0:long=objects"
LEARNT = 3000
STEPS = 100
SENTENCES = 3
PAIRS = 300  # held out
RATES = {"one": 1e-3, "several": 1e-3, "grouped": 1e-3}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards; those held out are drawn as they are read."""
    learnt = f"texts=web+long:seed={trial.seed}:count={60 if trial.quick else LEARNT}"
    held_out = f"drop=0:seed={trial.seed}:split=val:count={20 if trial.quick else PAIRS}"
    write_shards(open_source(f"{SCENES}:{learnt}"), trial.folder / "learnt")
    return {"learnt": f"{trial.folder / 'learnt'}/*.tar", "held_out": f"{SCENES}:{held_out}"}


def trained(
    method: str,
    *,
    rate: float,
    times: int = 1,
    change: Callable[[Method], None] | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method on the scenes at a rate for `times` as many steps, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            method,
            {"train": trial.prelude["learnt"]},
            init="tiny",
            config={"augment": {}, **config},
            recipe={"steps": trial.steps(times * STEPS, quick=times * 4), "lr": rate},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The arm without training."""
    return measure(load("tiny"), trial)


def even(method: Method) -> None:
    """Gather all patches evenly, whatever a text says."""
    encode = method.encode

    def changed(batch: Any, at: Any) -> dict[str, Any]:
        found = encode(batch, at)
        encoded = method.model.encode_image(batch.image.flat)  # type: ignore[operator, union-attr]
        kept = encoded.tokens[:, encoded.prefix :]
        patches = normalize(method.model.project_image(kept), dim=-1)  # type: ignore[operator, union-attr]
        mean = normalize(patches.mean(1, keepdim=True), dim=-1)
        return {**found, "groups": mean.expand_as(found["texts"])}

    method.encode = changed  # type: ignore[method-assign]


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return recall by whole captions, pointing by sentences and segmentation by names, on held-out
    scenes."""
    source = open_source(trial.prelude["held_out"])
    recall = evaluate(model, source, ["retrieval"], role="caption")["retrieval"]
    where = evaluate(model, source, ["pointing"], role="long")["pointing"]
    segments = evaluate(model, source, ["segment"], mask="class")["segment"]
    return {
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
        "r5": float(np.mean([recall["i2t_r5"], recall["t2i_r5"]])),
        "pointing": where["pointing"],
        "iou": where["iou"],
        "chance": where["chance_pointing"],
        "miou": segments["miou"],
    }


SEVERAL = {"role": "web", "pool": "long", "sentences": SENTENCES}

claim = Claim(
    question=(
        "Several sentences of a long caption teach more than one of them and than the long caption cut at the context, "
        "which teaches more than the raw text; grouping shows which patches a sentence speaks of, at no loss of recall."
    ),
    prelude=draw,
    arms={
        "start": start,
        "raw": trained("clip", rate=RATES["one"], role="web"),
        "cut": trained("clip", rate=RATES["one"], role="long*"),
        "one": trained("clip", rate=RATES["one"], role="long"),
        "one_longer": trained("clip", rate=RATES["one"], role="long", times=1 + SENTENCES),
        "several": trained("dreamlip", rate=RATES["several"], **SEVERAL, subcaption=0.0),
        "grouped": trained("dreamlip", rate=RATES["grouped"], **SEVERAL),
        "even": trained("dreamlip", rate=RATES["grouped"], **SEVERAL, change=even),
    },
    headline=(
        better("pointing", "grouped", over="several"),
        better("r1", "several", over="one"),
        not_worse("r1", "grouped", than="several", margin=0.03),
    ),
    mechanism=("even",),
    checks=(
        better("iou", "grouped", over="several"),
        better("miou", "grouped", over="several"),
        better("miou", "several", over="one"),
        better("r1", "several", over="cut"),
        better("r1", "cut", over="raw"),
        better("r1", "several", over="one_longer"),
    ),
    delta=0.03,
    floor=Floor("r1", chance=1 / PAIRS, arms=("cut", "one", "one_longer", "several", "grouped")),
    table=("r1", "r5", "pointing", "iou", "chance", "miou"),
)
