"""Do the names of classes help a segmentor that has few masks to learn from?

32 scenes of three things have masks. All arms fine-tune `tiny` with the same feature pyramid and head, for
as many steps on crops of these scenes at the same rate of the image tower, and segment held-out scenes by
their heads. `tiny` knows the names of the things.

    fpn              the head reads the maps of the tower alone, without scores: no text
    denseclip        scores of class names beside a map, their loss, and texts in the context of images: the method
    plain            the same without the context decoder
    shuffled         each class has the text of another one
    random           fixed random vectors in place of the texts
    random_fpn       fpn, on an image tower that was never trained
    random_dense     denseclip, on such a tower

`miou` is that of the suite `segment` over things and ground, `accuracy` the share of pixels that are named
correctly. `gain` is the mIoU of a method on a tower less that of `fpn` on the same tower: what texts are
worth where the image tower knows them, and where it does not. All arms are read by the same head.

Not asked: detection, instances, published towers, the decoder before the text tower.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

LEARNT = 32  # scenes with masks
MEASURED = 300
STEPS = 300
BATCH = 16
RATES = {"fpn": 3e-3, "denseclip": 3e-3}
SCENES = "scenes:number=3:same=0"
CHANCE = 0.04  # the ground everywhere: about .78 of the pixels, one of 21 classes
Change = Callable[[Any, int], None]
"""Modifies a segmentor, by the seed, before it knows its classes; in training and again where its weights were
loaded."""


def draw(trial: Trial) -> dict[str, str]:
    """Return the scenes of the seed. They are drawn as they are read: shards name only the classes that
    their masks show, and 32 scenes may lack one."""
    measured = 10 if trial.quick else MEASURED
    return {
        "learnt": f"{SCENES}:seed={trial.seed}:count={LEARNT}",
        "test": f"{SCENES}:seed={trial.seed}:split=val:count={measured}",
    }


def trained(
    *changes: Change, rate: float = RATES["denseclip"], untrained: bool = False, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a segmentor on `tiny`, or on a tower of its form that is `untrained`, with changes."""

    def arm(trial: Trial) -> dict[str, float]:
        return fitted(trial, "run", *changes, rate=rate, untrained=untrained, **config)

    return arm


def fitted(
    trial: Trial, folder: str, *changes: Change, rate: float, untrained: bool, **config: Any
) -> dict[str, float]:
    """Train a segmentor in a folder of the trial, and measure it."""

    def change(method: Any) -> None:
        if untrained:
            forget(method.model.image)
        for each in changes:
            each(method.model, trial.seed)

    settings = resolve(
        "denseclip",
        {"train": trial.prelude["learnt"]},
        init="tiny",
        config=config,
        recipe={"steps": trial.steps(STEPS, quick=3), "batch_size": BATCH, "lr": rate},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / folder, change=change)
    model = load(trial.folder / folder)
    for each in changes:
        each(model.delivered, trial.seed)
    found = evaluate(model, open_source(trial.prelude["test"]), ["segment"])["segment"]
    return {"miou": found["miou"], "accuracy": found["accuracy"]}


def both(
    plain: str, dense: str, *, untrained: bool = False
) -> Callable[[Trial], dict[str, dict[str, float]]]:
    """Two arms on one tower, of these names: the head alone, and the method with its gain over it."""

    def arms(trial: Trial) -> dict[str, dict[str, float]]:
        head = fitted(
            trial,
            plain,
            without_scores,
            rate=RATES["fpn"],
            untrained=untrained,
            context="none",
            scores_weight=0.0,
        )
        method = fitted(trial, dense, rate=RATES["denseclip"], untrained=untrained)
        return {plain: head, dense: {**method, "gain": method["miou"] - head["miou"]}}

    return arms


def without_scores(segmentor: Any, seed: int) -> None:
    """Have the head read scores of 0; the text tower is not run."""

    def nothing(dense: Any, texts: Any = None) -> Tensor:
        vector = dense.vector
        return vector.new_zeros(len(vector), len(segmentor.classes), vector.shape[-1])

    segmentor.class_texts = lambda: None
    segmentor.texts_of = nothing


def shuffled(segmentor: Any, seed: int) -> None:
    """Give each class the text of another one, by a cycle through the classes in random order."""
    own = segmentor.class_texts

    def others() -> Tensor:
        texts = own()
        order = torch.as_tensor(generator(seed, "denseclip", "shuffled").permutation(len(texts)))
        given = torch.empty_like(order)
        given[order] = order.roll(1)
        return texts[given]

    segmentor.class_texts = others


def at_random(segmentor: Any, seed: int) -> None:
    """Put random vectors in the place of the texts of classes."""

    def drawn() -> Tensor:
        shape = (len(segmentor.classes), segmentor.encoder.embed_dim)
        values = generator(seed, "denseclip", "random").standard_normal(shape)
        return torch.as_tensor(values, dtype=torch.float32)

    segmentor.class_texts = drawn


def forget(tower: Any) -> None:
    """Draw the weights of an image tower anew."""
    for module in tower.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.nn.init.normal_(tower.positions, std=0.02)


claim = Claim(
    question=(
        "With 32 masked scenes to learn from, a segmentor that reads the scores of class names segments better than "
        "one with the same head and no text."
    ),
    prelude=draw,
    arms={
        ("fpn", "denseclip"): both("fpn", "denseclip"),
        "plain": trained(context="none"),
        "shuffled": trained(shuffled),
        "random": trained(at_random),
        ("random_fpn", "random_dense"): both("random_fpn", "random_dense", untrained=True),
    },
    headline=(better("miou", "denseclip", over="fpn"),),
    mechanism=("shuffled", "random"),
    checks=(
        better("gain", "denseclip", over="random_dense"),
        better("miou", "denseclip", over="plain"),
        better("miou", "plain", over="fpn"),
    ),
    delta=0.02,
    floor=Floor("miou", chance=CHANCE, arms=("fpn", "denseclip")),
    table=("miou", "accuracy", "gain"),
)
