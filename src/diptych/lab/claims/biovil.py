"""Does a text encoder that has learnt how reports say the same in two ways help images to find phrases?

Drawn radiographs: few have a report with them, many reports have no image. All arms go on from one image
tower that has learnt from the images alone (SimCLR), have the same encoders and as many steps in all, but
for `short`.

    contrast        the joint stage alone: no masked words, sentences in the order of the report
    short           the same for as many steps as the joint stage of `biovil`
    biovil          masked words, then sections of reports that match, then the joint stage: the method
    no_matching     without the loss of sections
    permuted        sections match those of other reports
    fixed_order     sentences in the order of the report in all stages

Findings and impressions share no name of what is seen. Held-out images are measured by phrases in the
words of impressions (`cnr`, contrast to noise of the phrase's map; `signed`, where a map that is low
in the box counts against it) and in those of findings, which no pair of image and text has shown
(`cnr_findings`). `r1` is the mean of recall at 1 both ways among images and impressions. The headline is
on `signed`, since a model before training has a `cnr` of .6 and a `signed` of -.1. Recall, which the paper's
sentence names too, is a check.

Not asked: the local loss of BioViL-L, and the suites of entailment and masked words.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Source
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

PAIRS = 600
REPORTS = 6000  # without an image
MEASURED = 300
STEPS = {"images": 100, "language": 150, "sections": 250, "joint": 200}
BATCH = 48
TOWER = "conv:image_size=48:stem=2:widths=(16,32,64):depths=(1,1,1)"
TEXT_TOWER = "text:width=64:depth=2:heads=2:causal=false:pooling=first:dropout=0.1"
TOKENIZER = "wordpiece:vocab_size=1024:context=80"
WIDTH = 128  # of the space
IMAGES_RATE = 4e-3
RATES = {"contrast": 4e-3, "biovil": 4e-3}


class OtherImpressions(Wrapped):
    """Reports with the impression of a random other one."""

    def __init__(self, source: Source, seed: int):
        super().__init__(source)
        order = generator(seed, "other impression").permutation(len(source)).tolist()
        self.other = dict(zip(order, [*order[1:], order[0]], strict=True))

    def __getitem__(self, index: int) -> Sample:
        own = self.source[index]
        other = self.source[self.other[index]]
        kept = [text for text in own.texts if text.role != "impression"]
        taken = [text for text in other.texts if text.role == "impression"]
        return replace(own, texts=(*kept, *taken))


def draw(trial: Trial) -> dict[str, str]:
    """Write the images and reports of the seed as shards and train the image tower on the images;
    sources by name, and the model."""
    shrink = 5 if trial.quick else 1
    world = f"reports:size=48:seed={trial.seed}"
    texts = f"{world}:images=false:start={PAIRS}:count={REPORTS // shrink}"
    held_out = f"{world}:split=test:count={MEASURED // shrink}"
    sources = {
        "pairs": open_source(f"{world}:count={PAIRS // shrink}"),
        "reports": open_source(texts),
        "permuted": OtherImpressions(open_source(texts), trial.seed),
        "measured": open_source(held_out),
        "measured_findings": open_source(f"{held_out}:phrases=findings"),
    }
    for name, source in sources.items():
        write_shards(source, trial.folder / name)
    found = {name: f"{trial.folder / name}/*.tar" for name in sources}
    settings = resolve(
        "biovil",
        {"train": found["pairs"], "reports": found["reports"]},
        image_tower=TOWER,
        text_tower=TEXT_TOWER,
        tokenizer=TOKENIZER,
        embed_dim=WIDTH,
        config={"stages": ("images",), "recipes": {}},
        recipe={
            "steps": 5 if trial.quick else STEPS["images"],
            "batch_size": BATCH,
            "lr": IMAGES_RATE,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "start")
    return {**found, "start": str(trial.folder / "start")}


def trained(
    stages: tuple[str, ...],
    reports: str = "reports",
    like: str = "biovil",
    steps: int = STEPS["joint"],
    rate: float | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: some stages of the method, from the image tower that has seen images, at a rate of RATES or
    another one."""

    def arm(trial: Trial) -> dict[str, float]:
        found = trial.prelude
        lengths = {name: trial.steps(STEPS[name], quick=5) for name in stages if name != "joint"}
        settings = resolve(
            "biovil",
            {"train": found["pairs"], "reports": found[reports]},
            init=found["start"],
            preset="small",
            config={
                "stages": stages,
                "recipes": {name: {"steps": count} for name, count in lengths.items()},
                **config,
            },
            recipe={
                "steps": trial.steps(steps, quick=5),
                "batch_size": BATCH,
                "lr": rate or RATES[like],
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run")
        return measure(load(trial.folder / "run"), trial)

    return arm


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return how phrases stand out in held-out images, and recall by impressions."""
    own, findings = (open_source(trial.prelude[name]) for name in ("measured", "measured_findings"))
    maps = evaluate(model, own, ["heatmaps"])["heatmaps"]
    recall = evaluate(model, own, ["retrieval"], role="impression")["retrieval"]
    return {
        "cnr": maps["cnr"],
        "miou": maps["miou"],
        "signed": evaluate(model, own, ["heatmaps"], signed=True)["heatmaps"]["cnr"],
        "cnr_findings": evaluate(model, findings, ["heatmaps"])["heatmaps"]["cnr"],
        "r1": float(np.mean([recall["i2t_r1"], recall["t2i_r1"]])),
        "r5": float(np.mean([recall["i2t_r5"], recall["t2i_r5"]])),
    }


STAGES = ("language", "sections", "joint")
PLAIN: dict[str, Any] = {"like": "contrast", "masking": 0.0, "shuffle": False}

claim = Claim(
    question=(
        "A text encoder that first learns the words of reports, and to match their sections, lets phrases stand out in "
        "images more than contrast of the pairs alone."
    ),
    prelude=draw,
    arms={
        "contrast": trained(("joint",), **PLAIN, steps=sum(STEPS[name] for name in STAGES)),
        "short": trained(("joint",), **PLAIN),
        "biovil": trained(STAGES),
        "no_matching": trained(STAGES, matching=0.0),
        "permuted": trained(STAGES, "permuted"),
        "fixed_order": trained(STAGES, shuffle=False),
    },
    headline=(better("signed", "biovil", over="contrast"),),
    mechanism=("permuted",),
    checks=(
        better("r1", "biovil", over="contrast"),
        better("signed", "biovil", over="short"),
        better("cnr_findings", "biovil", over="no_matching"),
        better("r1", "biovil", over="no_matching"),
        better("r1", "biovil", over="fixed_order"),
    ),
    delta=0.05,
    floor=Floor("r1", chance=1 / MEASURED, arms=("contrast", "biovil"), least=0.03),
    table=("cnr", "signed", "cnr_findings", "miou", "r1", "r5"),
)
