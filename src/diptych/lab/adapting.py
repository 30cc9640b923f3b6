"""Shared parts of the claims on adaptation: a small set of labelled images, unlike those that
`tiny` was trained on.

Classes are objects in a colour ("blue crab"), sampled by the seed: five objects, four colours. Half
of the combinations, alternating as on a chessboard, are base classes; the others are novel, and
consist of the same parts. The images are scenes of one object in styles that are not in the
training data of `tiny`, with the noise of a poor camera, the same in training and test.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.images import BytesImage
from diptych.data.sample import EncodedImage, Sample, Source, labels_of
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.sources.subset import shots as draw_shots
from diptych.data.worlds.scenes.concepts import COMMON
from diptych.data.worlds.scenes.words import COLOURS, RESERVED_STYLES
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Trial
from diptych.methods.base import Method
from diptych.methods.registry import method_class
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

THINGS = 5
TINTS = 4
SHOTS = 16  # images of each class in training
TESTED = 25  # and in the test
# scenes for each combination of all objects and colours, more if a class has too few of them
DRAWN = 40
TEMPLATE = "a picture of a {}"
LABEL = "pair"


class Noisy(Wrapped):
    """A source whose images have Gaussian noise of standard deviation `noise` (of 255), which
    depends on their keys."""

    def __init__(self, source: Source, noise: float):
        super().__init__(source, name=f"{source.name}:noise={noise:g}")
        self.noise = noise

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        grain = generator(0, "noise", sample.key)
        return replace(
            sample, images={role: self._worn(image, grain) for role, image in sample.images.items()}
        )

    def _worn(self, image: EncodedImage, grain: np.random.Generator) -> BytesImage:
        pixels = np.asarray(image.decode().convert("RGB"), np.float32)
        pixels = (
            np.clip(pixels + grain.normal(0, self.noise, pixels.shape), 0, 255)
            .round()
            .astype(np.uint8)
        )
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return BytesImage(file.getvalue())


def classes(seed: int) -> tuple[list[str], list[str]]:
    """Return the base and novel classes of a seed.

    >>> base, novel = classes(0)
    >>> len(base), len(novel), sorted({name.split()[0] for name in base}) == sorted({n.split()[0] for n in novel})
    (10, 10, True)
    """
    draw = generator(seed, "adapting")
    things = draw.permutation(COMMON)[:THINGS].tolist()
    colours = draw.permutation(list(COLOURS))[:TINTS].tolist()
    halves: tuple[list[str], list[str]] = ([], [])
    for row, thing in enumerate(things):
        for column, colour in enumerate(colours):
            halves[(row + column) % 2].append(f"{colour} {thing}")
    return halves


def images(
    trial: Trial,
    *,
    options: str = "number=1",
    styles: Sequence[str] = RESERVED_STYLES,
    noise: float = 0.0,
    shots: int = SHOTS,
    tested: int = TESTED,
) -> dict[str, Any]:
    """Write the images of a seed as shards: `train`, `shots` of each base class, and `test`,
    `tested` of each class. Return their paths, and `novel`, the names of the novel classes.

    `options` are those of the world `scenes`.
    """
    base, novel = classes(trial.seed)
    found: dict[str, Any] = {"novel": novel}
    for name, split, names, number in (
        ("train", "train", base, min(shots, 4) if trial.quick else shots),
        ("test", "val", base + novel, 3 if trial.quick else tested),
    ):
        scenes = 2 * number if trial.quick else DRAWN * -(-number // TESTED)
        count = scenes * len(COMMON) * len(COLOURS)
        spec = (
            f"scenes:{options}:held_out=0.0:styles={'+'.join(styles)}:texts=caption:seed={trial.seed}:split={split}:"
            f"classes={'+'.join(names)}:of={LABEL}"
        )
        drawn = open_source(f"{spec}:count={count}")
        while np.bincount(labels_of(drawn, LABEL), minlength=len(names)).min() < number:
            count *= 2  # this seed sampled too few of one class
            drawn = open_source(f"{spec}:count={count}")
        write_shards(
            Noisy(draw_shots(drawn, number, trial.seed, LABEL), noise), trial.folder / name
        )
        found[name] = f"{trial.folder / name}/*.tar"
    return found


def adapted(
    method: str,
    *,
    recipe: Mapping[str, Any],
    change: Callable[[Method], None] | None = None,
    measure: Callable[[Any, Trial], dict[str, float]] | None = None,
    shots: int | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """Return an arm: `tiny`, adapted by a method to the images of `trial.prelude`, or to `shots`
    images of each class of them.

    Methods that read names and have no groups of templates get the template of this module.
    """
    named = getattr(method_class(method), "named", True) and "templates" not in config
    words = {"template": TEMPLATE} if named else {}

    def arm(trial: Trial) -> dict[str, float]:
        few = "" if shots is None else f":shots={shots}:draw={trial.seed}:of={LABEL}"
        settings = resolve(
            method,
            {"train": f"{trial.prelude['train']}{few}"},
            init="tiny",
            config={"label": LABEL, "augment": {}, **words, **config},
            recipe={**recipe, "steps": trial.steps(recipe["steps"], quick=5)},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return (measure or halves)(load(trial.folder / "run"), trial)

    return arm


def names_alone(trial: Trial) -> dict[str, float]:
    """An arm: `tiny` without training, with the class names in the template."""
    return halves(load("tiny"), trial, templates=(TEMPLATE,))


def halves(model: Any, trial: Trial, **options: Any) -> dict[str, float]:
    """Return the accuracy among the base classes, among the novel ones, the harmonic mean H of
    both, and the accuracy among all classes, on the test images."""
    source = open_source(trial.prelude["test"])
    reported = evaluate(
        model, source, ["zeroshot"], label=LABEL, novel=trial.prelude["novel"], **options
    )["zeroshot"]
    return {
        "base": reported["base_top1"],
        "novel": reported["novel_top1"],
        "H": reported["harmonic"],
        "all": reported["top1"],
    }
