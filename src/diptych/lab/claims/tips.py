"""Do self-distillation and masked prediction beside two captions make the patches of an image tell more of what
is there?

Images of two or three different things. The web caption of each names one of them, in three of ten with one
false fact; the synthetic caption describes all of them, with kinds in place of names. All arms have the same
towers, images, steps and batches, and one global crop an image:

    web         both CLS tokens learn from the web caption
    synthetic   both CLS tokens learn from the synthetic caption
    dual        one CLS token for each caption
    full        dual, with self-distillation of local crops and prediction of hidden patches: the method
    dealt       full, with the teacher's outputs of another image as targets of both losses
    uncentred   full, without centres, and with the student of the step before as teacher

`miou` is the mean intersection over union of a linear probe of the kind of thing at each patch, the ground
among the kinds, on held-out images; `zero` that of the names of the kinds in the space `synthetic` by the
route `values`, without a probe; `rmse` the error of a linear probe of the depth there; `knn` the accuracy of
nearest neighbours of the largest thing's kind. `r1_web` and `r1_synthetic` are recalls of an image by its
caption, each in its own space; `swapped` is the recall by the synthetic caption in the web space less that in
its own.

Not asked: how much each of both losses adds, whether recall gains from them, and the stage of high resolution.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diptych.data.sample import Sample, Schema
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, at_most, best, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2-3:same=0:size=48:texts=web+synthetic:noise=wrong=0.3"
PARTS = {"train": 3000, "val": 500, "test": 300}  # probes learn from `val`
FIELDS = ("images.main", "texts.web", "texts.synthetic", "masks.coarse", "labels.coarse")
VIT = "cls=2:cls_std=0:layer_scale=1.0:mask_token=true:any_size=true:interpolation=bilinear"
TOWER = f"vit:image_size=48:patch=8:stem=conv:depth=2:width=96:heads=4:{VIT}"
TEXT = (
    "text:depth=1:width=96:heads=4:activation=relu:causal=false:pooling=mean:positions=sinusoidal:"
    "scale_embedding=true"
)
TOKENIZER = "bpe:vocab_size=512:context=64"
WIDTH = 96
HEADS = {
    "head": "mlp:hidden=192:layers=3:bias=true:last_bias=true:norm=none:activation=gelu",
    "head_width": 192,
    "prototypes": 256,
    "crops": 2,
    "crop_size": 24,
    "momentum": 0.98,
}
STEPS = 260
BATCH = 64
PATCHES = 8000  # of `val`, that probes learn from
RATES: Mapping[str, Rates] = {}
RATE = 4e-3

Change = Callable[[Method], None]


class Described(Wrapped):
    """Images, both captions, and the kinds and depths of a source, without what else a scene holds, which
    takes longer to read than a step to compute."""

    def __init__(self, source: Any, depth: bool):
        super().__init__(source)
        self.fields = (*FIELDS, "arrays.depth") if depth else FIELDS

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return Sample(
            key=sample.key,
            source=sample.source,
            images={"main": sample.images["main"]},
            texts=tuple(text for text in sample.texts if f"texts.{text.role}" in self.fields),
            masks={"coarse": sample.masks["coarse"]},
            arrays={"depth": sample.arrays["depth"]} if "arrays.depth" in self.fields else {},
            labels={"coarse": sample.labels["coarse"]},
        )

    def schema(self) -> Schema:
        full = super().schema()
        return {name: full[name] for name in self.fields}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards."""
    shrink = 10 if trial.quick else 1
    start = 0
    for part, count in PARTS.items():
        split = "train" if part == "train" else "val"  # two parts of one split have the same kinds
        count //= shrink
        spec = f"{SCENES}:seed={trial.seed}:split={split}:start={start}:count={count}"
        write_shards(Described(open_source(spec), depth=part != "train"), trial.folder / part)
        start += count
    return {part: f"{trial.folder / part}/*.tar" for part in PARTS}


# ---- the arms


def trained(
    arm: str,
    change: Change | None = None,
    *,
    rate: float | None = None,
    role: str = "web;synthetic",
    **config: Any,
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm, with options of the method as `config`."""

    def learn(trial: Trial) -> Mapping[str, float]:
        settings = resolve(
            "tips",
            {"train": trial.prelude["train"]},
            image_tower=TOWER,
            text_tower=TEXT,
            tokenizer=TOKENIZER,
            embed_dim=WIDTH,
            config={"role": role, "temperature": 0.2, **HEADS, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=10),
                "batch_size": BATCH,
                "lr": rate or rate_of(arm),
                "ema": None,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(trial)

    return learn


def rate_of(arm: str) -> float:
    """Return the best rate of an arm; those that have none of their own have that of `full`."""
    rates = RATES.get(arm, RATES.get("full"))
    return RATE if rates is None else best(rates)


def deal(method: Any) -> None:
    """Take the teacher's outputs of another image for the targets of both losses on images."""
    distilled = method._distilled
    predicted = method._predicted

    def crops(batch: Any, taught: Any, teacher: Any) -> Any:
        return distilled(batch, taught.roll(1, 0), teacher)

    def patches(seen: Any, hidden: Any, taught: Any, teacher: Any, at: Any) -> Any:
        return predicted(seen, hidden, taught.roll(1, 0), teacher, at)

    method._distilled = crops
    method._predicted = patches


def follow(method: Any) -> None:
    """Take the student of the step before as teacher."""
    own = method.teacher.update

    def update(m: float | None = None) -> None:
        own(0.0)

    method.teacher.update = update


def measure(trial: Trial) -> dict[str, float]:
    """Return what probes read of frozen patches, and the recalls of both spaces."""
    model: Any = load(trial.folder / "run")
    test = open_source(trial.prelude["test"])
    probes = evaluate(
        model,
        test,
        ["dense", "depth"],
        train=trial.prelude["val"],
        mask="coarse",
        max_positions=PATCHES,
    )
    knn = evaluate(
        model, test, ["probe"], train=trial.prelude["val"], label="coarse", features="pooled"
    )
    kinds = model.space("synthetic")
    zero = evaluate(kinds, test, ["segment"], mask="coarse", route="values")
    synthetic = recall(kinds, test, "synthetic")
    return {
        "miou": probes["dense"]["miou"],
        "rmse": probes["depth"]["rmse"],
        "knn": knn["probe"]["knn_top1"],
        "zero": zero["segment"]["miou"],
        "r1_web": recall(model, test, "web"),
        "r1_synthetic": synthetic,
        "swapped": recall(model, test, "synthetic") - synthetic,
    }


def recall(model: Any, source: Any, role: str) -> float:
    """Return the recall of images by their caption of a role, the first of the ranking alone."""
    return evaluate(model, source, ["retrieval"], role=role)["retrieval"]["t2i_r1"]


claim = Claim(
    question=(
        "With self-distillation and masked prediction beside two captions, a linear probe reads more of the kind of "
        "thing at each patch than after the two captions alone."
    ),
    prelude=draw,
    arms={
        "web": trained("web", role="web;web", alpha=0.0, beta=0.0),
        "synthetic": trained("synthetic", role="synthetic;synthetic", alpha=0.0, beta=0.0),
        "dual": trained("dual", alpha=0.0, beta=0.0),
        "full": trained("full"),
        "dealt": trained("dealt", deal),
        "uncentred": trained("uncentred", follow, centre_momentum=1.0),
    },
    headline=(better("miou", "full", over="dual"),),
    mechanism=("dealt", "uncentred"),
    checks=(
        not_worse("r1_web", "dual", than="web", margin=0.02),
        not_worse("r1_synthetic", "dual", than="synthetic", margin=0.02),
        better("miou", "synthetic", over="web"),
        better("rmse", "full", over="dual", higher=False),
        not_worse("knn", "full", than="dual", margin=0.02),
        better("zero", "full", over="dual"),
        at_most("swapped", "full", 0.0),
    ),
    delta=0.02,
    floor=Floor("r1_synthetic", chance=1 / 300, arms=("synthetic", "dual", "full"), least=0.1),
    table=("miou", "zero", "rmse", "knn", "r1_web", "r1_synthetic", "swapped"),
)
