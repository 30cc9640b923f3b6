"""Does a contrast of images make a model answer from the image where it contradicts the language prior?

Scenes of one thing, which has the usual colour of its concept in nine of ten. A vision-language model,
frozen `tiny` and `tiny-lm`, learns captions and questions of such scenes, and with them what colour to
expect. All arms but `base` go on from it with pairs of a scene and its twin of another colour, one of which
has the usual colour, as often the first as the second. The pairs, steps and questions are the same:

    base      the model before
    svco      the image of a response is preferred to none, and none to the other image: the method
    vco       the same for one response of a pair
    dpo       the response that is true of an image is preferred to the other one
    sft       both responses are learnt
    noise     svco with noise in place of the other image

They are judged on scenes against the prior, with their twins. `paired` is the share of questions that are
answered correctly of both; `against` that of the scenes alone, where the answer of the prior is wrong, and
`blind` the same without the images. `hallucination` is the share of scenes against the prior that are said
to have the usual colour. `contrast` and `prefer` are orderings of log-probabilities. `prior` and `seen` are
the accuracies of `base` on scenes like those it has learnt, without images and with them.

That no more is answered without the image is a check, by `blind` of `svco` and of `base`.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better, not_worse
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=64"
ASKED = "texts=question:asks=colour"
BIAS = 0.9
LEARNT = 4000  # scenes of captions, and as many others of questions
PAIRS = 2000
MEASURED = 400  # scenes of two questions each
CHANCE = 5 / 32  # of pairs of questions, half with four choices and half with two
ALIGN = 300
INSTRUCT = 300
STEPS = 200
BATCH = {"base": 64, "pairs": 32}
QUICK = 8  # of a batch
BASE_RATES = {"align": 2e-3, "instruct": 1e-3}
# to be filled with means of `paired` on seeds 100 and 101
RATES: dict[str, Rates] = {}
RATE = 5e-4


def scenes(trial: Trial, options: str, count: int, *, start: int = 0, **others: str) -> str:
    """The spec of scenes of the seed, a twentieth of the count for a quick run."""
    if trial.quick:
        count = max(count // 20, QUICK)
        start //= 20
    more = "".join(f":{name}={value}" for name, value in others.items())
    return f"{SCENES}:{options}{more}:seed={trial.seed}:start={start}:count={count}"


def begin(trial: Trial) -> str:
    """Train the model that all arms start from on scenes with the prior, and return its folder."""
    data = {
        "train": scenes(trial, f"bias={BIAS}:texts=caption:drop=0", LEARNT),
        "instructions": scenes(trial, f"bias={BIAS}:texts=question", LEARNT, start=LEARNT),
    }
    settings = resolve(
        "cg_vlm",
        data,
        init="tiny",
        config={
            "lm": "tiny-lm",
            "grid": 4,
            "turns": 2,
            "cached": True,
            "instruction": {"steps": trial.steps(INSTRUCT, quick=3), "lr": BASE_RATES["instruct"]},
        },
        recipe={
            "steps": trial.steps(ALIGN, quick=3),
            "batch_size": QUICK if trial.quick else BATCH["base"],
            "lr": BASE_RATES["align"],
        },
        options={"seed": trial.seed, "quiet": True},
    )
    folder = trial.folder / "base"
    run(settings, folder)
    return str(folder)


def pairs(trial: Trial) -> str:
    """The spec of the pairs that arms learn from: further scenes, with twins of another colour."""
    options = f"bias=0.5:{ASKED}:edits=recolour"
    return scenes(trial, options, PAIRS, start=2 * LEARNT)


def against(trial: Trial) -> Source:
    """Scenes against the prior that no arm has learnt from, with their twins."""
    return open_source(scenes(trial, f"bias=0:{ASKED}:edits=recolour:split=val", MEASURED))


def tuned(
    objective: str, *, rate: float | None = None, **config: Any
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm at its rate, or the best one of its objective: the model of the prelude, trained on the pairs.

    `vco` and ablations have the rate of `svco`.
    """

    def arm(trial: Trial) -> Mapping[str, float]:
        scores = RATES.get(objective) or RATES.get("svco")
        settings = resolve(
            "s_vco",
            {"train": pairs(trial)},
            init=trial.prelude,
            config={"objective": objective, "lm": "tiny-lm", "grid": 4, **config},
            recipe={
                "steps": trial.steps(STEPS, quick=3),
                "batch_size": QUICK if trial.quick else BATCH["pairs"],
                "lr": rate or (best(scores) if scores else RATE),
            },
            options={"seed": trial.seed, "quiet": True},
        )
        folder = trial.folder / "tuned"
        run(settings, folder)
        return measured(load(folder), trial)

    return arm


def base(trial: Trial) -> Mapping[str, float]:
    """The model of the prelude as it is, and what it has learnt of the prior."""
    model = load(trial.prelude)
    alike = open_source(scenes(trial, f"bias={BIAS}:{ASKED}:split=val", MEASURED, start=MEASURED))
    found = evaluate(model, alike, ["answers"], by="log_prob", blind=True)["answers"]
    prior = {"prior": found["blind_chosen"], "seen": found["chosen"]}
    return {**measured(model, trial), **prior}


def measured(model: Any, trial: Trial) -> Mapping[str, float]:
    """The accuracies on scenes against the prior and their twins."""
    source = against(trial)
    answers = evaluate(model, source, ["answers"], by="log_prob", blind=True)["answers"]
    told = evaluate(model, source, ["hallucination"], by="log_prob")["hallucination"]
    order = evaluate(model, source, ["orderings"])["orderings"]
    return {
        "paired": answers["paired"],
        "against": answers["chosen"],
        "blind": answers["blind_chosen"],
        "hallucination": told["hallucination"],
        "contrast": order["contrast"],
        "prefer": order["prefer"],
    }


claim = Claim(
    question=(
        "From pairs of images that differ in a colour, a vision-language model with a language prior learns to answer "
        "more questions about both of a pair correctly if the images are contrasted than by preferences between "
        "answers or by the answers alone."
    ),
    prelude=begin,
    arms={
        "base": base,
        "svco": tuned("svco"),
        "vco": tuned("vco"),
        "dpo": tuned("dpo"),
        "sft": tuned("sft"),
        "noise": tuned("svco", negative="noise"),
    },
    headline=(
        better("paired", "svco", over="dpo"),
        better("paired", "svco", over="sft"),
    ),
    mechanism=("noise",),
    checks=(
        not_worse("blind", "svco", than="base", margin=0.02, higher=False),
        better("paired", "svco", over="base"),
        better("paired", "svco", over="vco"),
        better("hallucination", "svco", over="dpo", higher=False),
    ),
    delta=0.02,
    rates=RATES,
    floor=Floor("paired", chance=CHANCE, arms=("svco", "sft")),
    table=("paired", "against", "blind", "hallucination", "contrast", "prefer", "prior", "seen"),
)
