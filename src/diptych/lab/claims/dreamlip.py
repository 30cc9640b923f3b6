"""Does grouping show which patches a sentence of a long caption speaks of, and do several sentences
teach more than one?

Scenes of four to six different things have a raw text that names one of them, and a long caption: a
sentence for each thing, with all that is stated of it, and one for the ground. All arms train the
same small convolution from scratch, for as many steps on the same scenes. An image has 6 x 6
patches, each of which sees a part of it; a thing covers about a seventh of the image.

    raw                 the raw text
    cut                 the long caption as one text, cut at the tokenizer's 32 tokens
    one                 one sentence of it, drawn anew each time
    several             the raw text and three sentences, each a positive; no grouping
    grouped             and the grouping loss: the method
    even                grouping by even weights: all sentences of an image then gather the same patches

On held-out scenes `pointing` is the share of sentences of one thing whose best patch lies on it,
`iou` the overlap of a sentence's patches (W > .5) with its thing, `miou` that of segmentation by the
names of things. `r1` is the mean of recall at 1 both ways, where a long caption is embedded as the
mean of its sentences, as the paper does; `caption` is the same by one text that states everything,
of a role that no arm has read.

`several` and `grouped` have each the rate of the best pointing, `one` that of the best recall (and on
seed 100 also of the best pointing); arms of one text take that of `one`, `even` that of `grouped`.

The first edition tuned `tiny`, a ViT, and joined recall to the headline. It was untrained: at twice
the steps grouping fell behind further. The second was chosen on seed 100, where the same ViT, at
rates at which it forgets what it knew, goes either way with batch and optimiser (pointing of
`grouped` and `several`: .78 and .57, .44 and .77, .40 and .51). The convolution settles: their
difference is -.345 after 1,200 steps and -.351 after 2,400. Recall is a check, since all its
differences shrink as arms learn. The second edition was stopped after its first seed, 220, in which
`grouped` at its rate of 4e-3 had a recall of .20, below the floor. So that seed counts for tuning in
this third edition, where `grouped` has 2e-3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.nn.functional import normalize

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, Tuned, best, better
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=4-6:same=0:long=objects"
TOWER = "conv:image_size=48:widths=(48,128):depths=(1,1):pooling=max"
LEARNT = 3000
STEPS = 1200
BATCH = 32
SENTENCES = 3
PAIRS = 300  # held out
# means of pointing on seeds 100 and 101; of `grouped` at 4e-3 also on 220 (.16; at 2e-3 it has .36 there); of
# `one`, recall on seed 100
RATES: dict[str, dict[float, float]] = {
    "one": {5e-4: 0.25, 1e-3: 0.338, 2e-3: 0.175, 8e-3: 0.03},
    "several": {2e-3: 0.833, 4e-3: 0.886, 8e-3: 0.82},
    "grouped": {1e-3: 0.452, 2e-3: 0.469, 4e-3: 0.388, 8e-3: 0.388},
}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards; those held out are drawn as they are read."""
    learnt = f"texts=web+long:seed={trial.seed}:count={60 if trial.quick else LEARNT}"
    held_out = f"drop=0:seed={trial.seed}:split=val:count={20 if trial.quick else PAIRS}"
    write_shards(open_source(f"{SCENES}:{learnt}"), trial.folder / "learnt")
    return {"learnt": f"{trial.folder / 'learnt'}/*.tar", "held_out": f"{SCENES}:{held_out}"}


def trained(
    method: str,
    *,
    like: str,
    change: Callable[[Method], None] | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method on the scenes at the best rate of an arm of RATES, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            method,
            {"train": trial.prelude["learnt"]},
            image_tower=TOWER,
            config={"augment": {}, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=4),
                "lr": best(RATES[like]),
                "batch_size": BATCH,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


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
    """Return recall, pointing by sentences and segmentation by names, on held-out scenes."""
    source = open_source(trial.prelude["held_out"])
    recall = evaluate(model, source, ["retrieval"], role="long", by_sentence=True)["retrieval"]
    caption = evaluate(model, source, ["retrieval"], role="caption")["retrieval"]
    where = evaluate(model, source, ["pointing"], role="long")["pointing"]
    segments = evaluate(model, source, ["segment"], mask="class")["segment"]
    return {
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
        "caption": float(np.mean([caption["i2t_r1"], caption["t2i_r1"]])),
        "pointing": where["pointing"],
        "iou": where["iou"],
        "chance": where["chance_pointing"],
        "miou": segments["miou"],
    }


SEVERAL = {"role": "web", "pool": "long", "sentences": SENTENCES}

claim = Claim(
    question=(
        "With the grouping loss the patch that is most like a sentence lies more often on what the sentence speaks of."
    ),
    edition=3,
    prelude=draw,
    arms={
        "raw": trained("clip", like="one", role="web"),
        "cut": trained("clip", like="one", role="long*"),
        "one": trained("clip", like="one", role="long"),
        "several": trained("dreamlip", like="several", **SEVERAL, subcaption=0.0),
        "grouped": trained("dreamlip", like="grouped", **SEVERAL),
        "even": trained("dreamlip", like="grouped", **SEVERAL, change=even),
    },
    headline=(better("pointing", "grouped", over="several"),),
    mechanism=("even",),
    checks=(
        better("r1", "several", over="one"),
        better("r1", "several", over="cut"),
        better("r1", "cut", over="raw"),
        better("r1", "grouped", over="several"),
        better("iou", "grouped", over="several"),
        better("miou", "grouped", over="several"),
        better("miou", "several", over="one"),
    ),
    rates=RATES,
    delta=0.07,
    tuned=Tuned(effect=-0.4, sd=0.05, best=0.89, chance=0.15, seconds=1000),
    floor=Floor("r1", chance=1 / PAIRS, arms=("several", "grouped"), least=0.3),
    table=("pointing", "iou", "chance", "r1", "caption", "miou"),
)
