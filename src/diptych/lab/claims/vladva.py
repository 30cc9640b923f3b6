"""Does the prediction of long captions teach embeddings of a language model which attribute belongs to which
thing, where the contrast of short captions does not?

Scenes of two things. A short caption leaves half of the facts out; a long one states all of each thing. In
the prelude an adapter learns to show 16 cells of the frozen `tiny` to the frozen `tiny-lm`, which writes
long captions. All arms go on from there with as many steps on the same scenes:

    zero          the state at the last token of the prompts, without training
    con           the contrast of images with short captions
    both          and the prediction of long captions behind the image: the method
    shuffled      both, with the long captions of other images
    long_in_con   all captions are contrasted, the long ones too, and none is predicted
    soft          both, with soft prompts alone: the language model stays as it is
    lora          both, without soft prompts

`swap` is the accuracy of held-out images between their caption and that of the scene in which two things
have exchanged their colours, or their places (chance 1/2), `group` that of both images and both captions
(1/6). `r1` is the mean of recall at 1 both ways by captions that state all, on other scenes.

That recall is not lost is a check, and no part of the headline: it still rises with the steps in all arms.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Source
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only, Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better, not_worse
from diptych.methods.base import Method
from diptych.methods.fuse.vladva.model import SummaryLM
from diptych.methods.store import load
from diptych.rng import generator
from diptych.towers.nn.parts import freeze
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2:same=0:size=64:long=objects"
FIELDS = ("images.main", "texts.caption", "texts.long")
LEARNT = 3000
SWAPPED = 300  # held-out scenes, of which most have an edit
FOUND = 300  # held-out scenes for recall
SHORT = 28  # tokens; a caption with fewer is contrasted
ALIGN = 200
STEPS = 150
BATCH = {"align": 64, "tune": 32}
ALIGN_RATE = 2e-3
READS: dict[str, Any] = {"lm": "tiny-lm", "grid": 4}
# to be filled with means of `swap` on seeds 100 and 101
RATES: dict[str, Rates] = {}
RATE = 1e-3


class Others(Wrapped):
    """The samples of a source, each with the long captions of another one."""

    def __init__(self, source: Source, seed: int):
        super().__init__(source, name=f"{source.name}:shuffled")
        order = generator(seed, "vladva", "shuffled").permutation(len(source))
        self.other = np.empty(len(source), np.int64)
        self.other[order] = np.roll(order, 1)  # one cycle: no sample keeps its own

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        other = self.source[int(self.other[range(len(self))[index]])]
        own = [text for text in sample.texts if text.role != "long"]
        return replace(sample, texts=[*own, *(text for text in other.texts if text.role == "long")])


def begin(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, and train the adapter; their places."""
    count = LEARNT // 30 if trial.quick else LEARNT
    spec = f"{SCENES}:texts=caption+long:drop=0.5:seed={trial.seed}:count={count}"
    learnt: Any = Only(open_source(spec), FIELDS)
    places = {}
    for name, source in {"learnt": learnt, "shuffled": Others(learnt, trial.seed)}.items():
        write_shards(source, trial.folder / name)
        places[name] = f"{trial.folder / name}/*.tar"
    settings = resolve(
        "cg_vlm",
        {"train": places["learnt"]},
        init="tiny",
        config={**READS, "tune": "none", "contrast": 0.0, "role": "long*", "cached": True},
        recipe={
            "steps": trial.steps(ALIGN, quick=3),
            "lr": ALIGN_RATE,
            "batch_size": 8 if trial.quick else BATCH["align"],
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "base")
    return {**places, "base": str(trial.folder / "base")}


def trained(
    *,
    data: str = "learnt",
    like: str = "both",
    steps: int = STEPS,
    change: Callable[[Method], None] | None = None,
    rate: float | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm at its rate, or the best one of the arm `like`: the model of the prelude, which learns to embed."""

    def arm(trial: Trial) -> dict[str, float]:
        scores = RATES.get(like)
        recipe: dict[str, Any] = {
            "steps": trial.steps(steps, quick=3),
            "lr": rate or (best(scores) if scores else RATE),
            "batch_size": 8 if trial.quick else BATCH["tune"],
        }
        if not steps:
            recipe |= {"steps": 1, "lr": 1e-12}
        settings = resolve(
            "vladva",
            {"train": trial.prelude[data]},
            init=trial.prelude["base"],
            config={**READS, "role": "caption+long*", "short": SHORT, "long": SHORT, **config},
            recipe=recipe,
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measured(trial, load(trial.folder / "run"))

    return arm


def prompts_alone(method: Method) -> None:
    """Leave the low-rank factors as they start, where they change nothing."""
    assert isinstance(method.model, SummaryLM)
    assert method.model.factors is not None, "the language model is lent"
    freeze(method.model.factors)


def measured(trial: Trial, model: Any) -> dict[str, float]:
    """Return how often swapped scenes are told apart, and recall, on held-out scenes."""
    world = f"{SCENES}:texts=caption:drop=0:seed={trial.seed}:split=val"
    swapped, found = (20, 20) if trial.quick else (SWAPPED, FOUND)
    edited = open_source(f"{world}:edits=swap:count={swapped}")
    apart = evaluate(model, edited, ["composition"], role="caption")["composition"]
    other = open_source(f"{world}:start={swapped}:count={found}")
    recall = evaluate(model, other, ["retrieval"], role="caption")["retrieval"]
    return {
        "swap": apart["i2t_2way"],
        "group": apart["group"],
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
    }


claim = Claim(
    question=(
        "With the prediction of long captions beside the contrast of short ones, embeddings of a vision-language model "
        "tell more scenes of swapped attributes apart than with the contrast alone."
    ),
    prelude=begin,
    arms={
        "zero": trained(steps=0, n_ctx=0),
        "con": trained(like="con", predict=0.0),
        "both": trained(),
        "shuffled": trained(data="shuffled"),
        "long_in_con": trained(like="con", predict=0.0, short=500),
        "soft": trained(change=prompts_alone),
        "lora": trained(n_ctx=0),
    },
    headline=(better("swap", "both", over="con"),),
    mechanism=("shuffled",),
    checks=(
        not_worse("r1", "both", than="con", margin=0.02),
        better("r1", "con", over="zero"),
        better("swap", "both", over="long_in_con"),
        better("r1", "lora", over="soft"),
        not_worse("r1", "both", than="lora", margin=0.02),
        better("group", "both", over="con"),
    ),
    delta=0.02,
    rates=RATES,
    floor=Floor("r1", chance=1 / FOUND, arms=("con", "both"), least=0.1),
    table=("swap", "group", "r1"),
)
