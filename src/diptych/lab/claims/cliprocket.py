"""Does a richer recipe give plain CLIP what an extra loss without negatives seemed to add?

All arms learn the same 800 scenes of one plain shape with the noisy texts of the web ("hexagon | photo
no. 3779"), and are measured by naming the shapes of other scenes, 1 of 8, from their names alone.

    clip                one weak view, texts as they are, no second head
    longer              clip for three times as many passes: as many images go through the tower as by `improved`
    siamlip             clip with SiamLIP's loss on top
    improved            weak and two strong views, second head, smoothing, text dropout
    improved_siamlip    the same with SiamLIP's loss on top
    plain               the improved recipe without augmentation: strong images varied as weak ones, texts as they are

Strong crops go down to .2 of the image, not .08 as published: of 32 pixels little else is left. Arms of
the basic recipe have the rate of `clip`, the others that of `improved`.

Rates matter more than the recipe. At 16e-3, where `improved` has .96, `clip` has .75, and after twice
as many passes .58; at 64e-3 it has .97. With 400 scenes, with a fifth of the texts exchanged, or with the
20 drawn things in place of the shapes, names are learnt in a jump that comes early or late, and seeds
differ by as much as the recipes. An earlier form learnt drawings of one design and was measured by recall
of another design's, where all stayed below .2.

The block `real` does the same with photographs of ten classes, at the same rates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source, Text
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.views import VariedTextView, View
from diptych.data.wrap import Only, Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, Tuned, best, better, equal, not_worse
from diptych.methods.base import Method, Stage
from diptych.methods.pretrain.cliprocket import STRONG
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=32:drop=0:texts=web:objects=shapes"
FIELDS = ("images.main", "texts.web", "labels.object")
LEARNT = 800
PHOTOGRAPHS = 1600
MEASURED = 2400
THINGS = 8
EPOCHS = 45
BATCH = 64
TOWER = "conv:image_size=32:stem=2:widths=(16,32,64):depths=(1,1,1):pooling=max"
TEXT_TOWER = "text:width=64:depth=2:heads=2"
WIDTH = 64  # of the space
# top1 on seeds 100 and 101, of `improved` at the lowest and the highest rate on seed 100 alone
RATES: dict[str, dict[float, float]] = {
    "clip": {16e-3: 0.7504, 32e-3: 0.9123, 64e-3: 0.9735, 128e-3: 0.2915},
    "improved": {8e-3: 0.8642, 16e-3: 0.9645, 32e-3: 0.984, 64e-3: 0.9529},
}
WEAK: Mapping[str, Any] = {"crop": (0.5, 1.0)}
VARIED: Mapping[str, Any] = {**STRONG, "crop": (0.2, 1.0)}
BASIC = {"local": 0, "stop_words": 0.0}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards; sources by name."""
    found = {}
    parts = {"learnt": ("train", LEARNT), "measured": ("val", MEASURED)}
    for name, (split, count) in parts.items():
        count = count // 10 if trial.quick else count
        spec = f"{SCENES}:seed={trial.seed}:count={count}:split={split}"
        write_shards(Only(open_source(spec), FIELDS), trial.folder / name)
        found[name] = f"{trial.folder / name}/*.tar"
    return found | {"label": "object"}


class Named(Wrapped):
    """Photographs with texts of the web: the name of the class and a number that says nothing."""

    def __init__(self, source: Source, rows: np.ndarray, seed: int):
        super().__init__(source, rows)
        self.numbers = np.random.default_rng(seed).integers(1, 10_000, len(rows))
        self.names = source.schema()["labels.class"].classes

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        text = f"{self.names[int(sample.labels['class'])]} | photo no. {self.numbers[index]}"
        return replace(sample, texts=(Text(text=text, role="web"),))

    def schema(self) -> Schema:
        return {**super().schema(), "texts.web": Field(kind="text")}


def photographs(trial: Trial) -> dict[str, str]:
    """Write photographs of training, drawn by the seed, as shards with texts of the web."""
    source = open_source("cifar10-subset:split=train")
    rng = np.random.default_rng(trial.seed)
    rows = rng.permutation(len(source))[: PHOTOGRAPHS // 10 if trial.quick else PHOTOGRAPHS]
    write_shards(Named(source, rows, trial.seed), trial.folder / "learnt")
    return {
        "learnt": f"{trial.folder / 'learnt'}/*.tar",
        "measured": "cifar10-subset:split=test",
        "label": "class",
    }


def trained(
    *, epochs: int = EPOCHS, change: Callable[[Method], None] | None = None, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the method with some options for some passes over the scenes, measured."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "cliprocket",
            {"train": trial.prelude["learnt"]},
            image_tower=TOWER,
            text_tower=TEXT_TOWER,
            embed_dim=WIDTH,
            config={"augment": WEAK, "strong": VARIED, "role": "web", **config},
            recipe={
                "epochs": trial.steps(epochs, quick=epochs // EPOCHS),
                "batch_size": BATCH,
                "lr": best(RATES["improved" if config.get("local", 2) else "clip"]),
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        model: Any = load(trial.folder / "run")
        source = open_source(trial.prelude["measured"])
        found = evaluate(model, source, ["zeroshot"], label=trial.prelude["label"])["zeroshot"]
        return {"top1": found["top1"]}

    return arm


def keep_texts(method: Method) -> None:
    """Leave texts as they are, in the strong views too."""
    views = method.views

    def changed(stage: Stage, stream: str = "train") -> Sequence[View]:
        as_is = {"stop_words": 0.0, "strong": False}
        return [
            replace(view, **as_is) if isinstance(view, VariedTextView) else view
            for view in views(stage, stream)
        ]

    method.views = changed  # type: ignore[method-assign]


claim = Claim(
    question=(
        "The improved recipe beats plain CLIP and loses its gain without augmentation; a loss without negatives is no "
        "worse on plain CLIP, and adds nothing to the improved recipe."
    ),
    prelude=draw,
    arms={
        "clip": trained(**BASIC),
        "longer": trained(**BASIC, epochs=3 * EPOCHS),
        "siamlip": trained(**BASIC, extra="siamlip"),
        "improved": trained(),
        "improved_siamlip": trained(extra="siamlip"),
        "plain": trained(strong=WEAK, change=keep_texts),
    },
    headline=(better("top1", "improved", over="clip"),),
    mechanism=("plain",),
    checks=(
        better("top1", "improved", over="longer"),
        not_worse("top1", "siamlip", than="clip", margin=0.02),
        equal("top1", "improved_siamlip", to="improved", margin=0.02),
    ),
    delta=0.05,
    rates=RATES,
    tuned=Tuned(effect=0.01, sd=0.022, best=0.984, chance=1 / THINGS, seconds=640),
    looks=(5, 10),
    floor=Floor("top1", chance=1 / THINGS),
)
real = replace(
    claim,
    question=(
        "On photographs, the improved recipe beats plain CLIP, and loses its gain without augmentation."
    ),
    prelude=photographs,
    arms={name: claim.arms[name] for name in ("clip", "longer", "improved", "plain")},
    checks=(better("top1", "improved", over="longer"),),
    tuned=None,
    floor=Floor("top1", chance=0.1),
)
