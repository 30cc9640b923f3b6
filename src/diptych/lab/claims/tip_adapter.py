"""Are the labelled pictures themselves an adapter that needs no training, and a better start of one than words?

All arms start from `tiny` and learn from 16 pictures of each of ten classes, a thing in a colour, in two styles that
`tiny` never saw and under noise (`lab.adapting`), or from one picture of each (`…_1`).

    names       zero-shot
    probe       logistic regression on the pictures' vectors, which reads no names
    coop        vectors in place of the template's words
    tip         the method: votes of the pictures' vectors beside the names, nothing is trained
    tuned       the vectors are trained as well, for as many steps as in coop
    dealt       tip, the labels of the cache dealt out anew among its pictures

`base` is the accuracy among the ten classes. Noise and steps are those of the claim on `maple`; `alpha` and `beta` were
chosen on seed 100, of nine and five values each. There base came to .65 (names), .82, .80, .72, .83, .60 and with one
picture to .40 (probe) and .65 (tip), so that with one the votes hardly change what the names say.
"""

from typing import Any

import torch

from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.adapting import LABEL, TEMPLATE, adapted, classes, pictures
from diptych.lab.claim import Arm, Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.rng import generator

NOISE = 30.0
TESTED = 50  # pictures of each class
VOTES = {"alpha": 3.0, "beta": 10.0}
STEPS = {"steps": 150, "batch_size": 16, "warmup": 0.1}


def prelude(trial: Trial) -> dict[str, Any]:
    """The pictures of the seed."""
    return pictures(trial, noise=NOISE, tested=TESTED)


def measure(model: Any, trial: Trial, **how: Any) -> dict[str, float]:
    """Accuracy among the classes that all arms learnt."""
    base, _ = classes(trial.seed)
    source = open_source(f"{trial.prelude['test']}:classes={'+'.join(base)}:of={LABEL}")
    return {"base": evaluate(model, source, ["zeroshot"], label=LABEL, **how)["zeroshot"]["top1"]}


def names_alone(trial: Trial) -> dict[str, float]:
    """An arm: `tiny` as it is, told the names in the template."""
    return measure(load("tiny"), trial, templates=(TEMPLATE,))


def dealt(method: Method) -> None:
    """Deal the labels of the cache out anew."""
    fill: Any = method.fill

    def filled(run: Any) -> None:
        fill(run)
        owners: Any = method.model.owners
        owners.copy_(owners[torch.from_numpy(generator(run.at.seed, "dealt").permutation(len(owners)))])

    method.fill = filled  # type: ignore[assignment]


def probe(**how: Any) -> Arm:
    """An arm: the linear probe."""
    return adapted("linear_probe", recipe=STEPS, measure=measure, **how)


def tip(**how: Any) -> Arm:
    """An arm: the method, not trained unless `how` says so."""
    return adapted("tip_adapter", recipe=STEPS, measure=measure, **{"tune": False, **VOTES, **how})


claim = Claim(
    question=(
        "Votes of the labelled pictures beside the names are better than the names alone without any training, and at "
        "one picture of each class better than a linear probe; trained, they are better still and no worse than CoOp."
    ),
    seeds=(0, 1, 2, 3, 4),
    prelude=prelude,
    arms={
        "names": names_alone,
        "probe": probe(),
        "coop": adapted("coop", recipe={**STEPS, "lr": 0.05}, measure=measure),
        "tip": tip(),
        "tuned": tip(tune=True),
        "dealt": tip(change=dealt),
        "probe_1": probe(shots=1),
        "tip_1": tip(shots=1),
    },
    expect=(
        better("base", "tip", over="names", breaking=("dealt",)),
        better("base", "tip_1", over="probe_1"),
        better("base", "tuned", over="tip"),
        not_worse("base", "tuned", than="coop", margin=0.02),
    ),
    floor=Floor("base", chance=0.1, arms=("probe", "coop", "tip", "tuned", "tip_1")),
)
