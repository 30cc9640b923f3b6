"""Do coupled prompts in both towers adapt better than vectors beside the names, where the images
look unlike before?

All arms start from `tiny` and learn from 16 images of each of ten base classes, a thing in a
colour, in two styles that `tiny` never saw and under noise (`lab.adapting`). Ten novel classes are
the same things in the other colours.

    names       zero-shot
    coop        vectors in place of the template's words
    cocoop      the same, shifted by each image
    ivlp        prompts in both towers, each for itself, of the same length and depth
    maple       the method, at all six blocks of `tiny`'s towers
    shallow     depth 1: prompts at the inputs alone
    uncoupled   the functions that make the image tower's prompts are zero and stay so

`base` and `novel` are accuracies among the classes of their half, H is their harmonic mean. The
noise, the learning rates and the number of steps were chosen on seed 100. The small gap to `ivlp`
is told, and asked only not to be a loss.
"""

from typing import Any

import torch

from diptych.lab.adapting import adapted, images, names_alone
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.towers.nn.parts import freeze

NOISE = 30.0
DEPTH = 6  # of both towers of `tiny`
RECIPE = {"steps": 150, "batch_size": 16, "lr": 0.05, "warmup": 0.1}


def prelude(trial: Trial) -> dict:
    """The images of the seed."""
    return images(trial, noise=NOISE)


def uncoupled(method: Method) -> None:
    """No signal to the image tower: its prompts are zero, whatever the text tower's are."""
    functions: Any = method.model.couple  # type: ignore[union-attr]
    freeze(functions)
    with torch.no_grad():
        for parameter in functions.parameters():
            parameter.zero_()


claim = Claim(
    question=(
        "Under a shift of style, deep prompts in both towers, those of the image tower made from those of the text "
        "tower, are better than CoOp on base and novel classes together, and on the novel ones alone."
    ),
    prelude=prelude,
    arms={
        "names": names_alone,
        "coop": adapted("coop", recipe=RECIPE),
        "cocoop": adapted("cocoop", recipe=RECIPE),
        "ivlp": adapted("ivlp", recipe=RECIPE, depth=DEPTH, image_depth=DEPTH),
        "maple": adapted("maple", recipe=RECIPE, depth=DEPTH),
        "shallow": adapted("maple", recipe=RECIPE, depth=1),
        "uncoupled": adapted("maple", recipe=RECIPE, depth=DEPTH, change=uncoupled),
    },
    headline=(better("H", "maple", over="coop"),),
    mechanism=("uncoupled",),
    checks=(
        better("base", "maple", over="shallow"),
        not_worse("H", "maple", than="ivlp", margin=0.02),
    ),
    delta=0.02,
    floor=Floor("base", chance=0.1, arms=("coop", "cocoop", "ivlp", "maple")),
    table=("base", "novel", "H"),
)
