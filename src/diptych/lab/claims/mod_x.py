"""Is the base better kept where each phase is held to the similarities of the phase before, and at
what cost?

All arms start from one CLIP (the prelude), trained on plain scenes of one thing, and learn from
three further domains one after the other: scenes in another style, with grounds, palette and words
of their own. Nothing of an earlier domain is shown again. Each phase has as many steps, a new
optimiser, warm-up and cosine.

    start               the base model as it is
    finetune            alpha = 0: CLIP, phase by phase
    alpha1, alpha5, alpha20     the method
    unscreened          alpha = 20, rows that the old model got wrong included
    stranger            alpha = 20, held to a model that never learnt: nothing is worth keeping
    joint               as many steps on all domains at once, which continual learning does without

`base` is recall at 1 on held-out plain scenes, `earlier` the mean of that on the domains between,
`last` on the newest: what the method pays. Each is the mean of both ways. The overlap of the
domains and the length of a phase were chosen on seed 100; seeds 0, 1 and 2 were run once before
with nothing else changed, and tied for want of seeds.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.models.model import Model
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=1:size=32:texts=caption:drop=0:overlap=0.5"
DOMAINS = ("plain", "sketch", "dusk", "poster")
LEARNT = (2000, 400, 400, 400)
BASE_STEPS = 400
STEPS = 100
PAIRS = 300  # held out, of each domain
TOWER = "conv:image_size=32:widths=(32,64,128):depths=(1,1,1):pooling=max"
RECIPE = {
    "batch_size": 64,
    "warmup": 0.2,
    "ema": None,
}  # so short a phase has no use for averaged weights


def pretrain(trial: Trial) -> dict[str, str]:
    """The domains of the seed as shards, no scene in two of them, and CLIP on the first."""
    found = {}
    start = 0
    for domain, count in zip(DOMAINS, LEARNT, strict=True):
        count = count // 4 if trial.quick else count
        spec = f"{SCENES}:styles={domain}:seed={trial.seed}:start={start}:count={count}"
        write_shards(open_source(spec), trial.folder / domain)
        found[domain] = f"{trial.folder / domain}/*.tar"
        start += count
    settings = resolve(
        "clip",
        {"train": found["plain"]},
        image_tower=TOWER,
        config={"augment": {}},
        recipe={**RECIPE, "steps": trial.steps(BASE_STEPS, quick=40)},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "base")
    return {**found, "base": str(trial.folder / "base")}


def held(
    change: Callable[[Method], None] | None = None, **config: Any
) -> Callable[[Trial], dict[str, float]]:
    """An arm: the base model taught one domain after another."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "mod_x",
            dict(
                zip(
                    ("train", "phase1", "phase2"),
                    (trial.prelude[name] for name in DOMAINS[1:]),
                    strict=True,
                )
            ),
            init=trial.prelude["base"],
            config={"phases": 3, "pretrained": True, "augment": {}, **config},
            recipe={**RECIPE, "steps": _steps(trial)},
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)  # type: ignore[arg-type]

    return arm


def joint(trial: Trial) -> dict[str, float]:
    """The base model taught all domains at once."""
    settings = resolve(
        "clip",
        {"train": ",".join(trial.prelude[name] for name in DOMAINS)},
        init=trial.prelude["base"],
        config={"augment": {}},
        recipe={**RECIPE, "steps": 3 * _steps(trial)},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "run")
    return measure(load(trial.folder / "run"), trial)  # type: ignore[arg-type]


def start(trial: Trial) -> dict[str, float]:
    """The base model itself."""
    return measure(load(trial.prelude["base"]), trial)  # type: ignore[arg-type]


def estrange(method: Method) -> None:
    """Make the old model one that never learnt, in every phase."""
    old: Any = method.old.module  # type: ignore[union-attr]
    for module in old.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    method._keep = lambda run: None  # type: ignore[method-assign]


def measure(model: Model, trial: Trial) -> dict[str, float]:
    """Recall at 1 on held-out scenes of each domain."""
    recall = {}
    for domain in DOMAINS:
        source = open_source(f"{SCENES}:styles={domain}:seed={trial.seed}:split=val:count={PAIRS}")
        told = evaluate(model, source, ["retrieval"])["retrieval"]
        recall[domain] = float(np.mean([told["i2t_r1"], told["t2i_r1"]]))
    base, *earlier, last = recall.values()
    return {
        "base": base,
        "earlier": float(np.mean(earlier)),
        "last": last,
        "all": float(np.mean(list(recall.values()))),
    }


def _steps(trial: Trial) -> int:
    return trial.steps(STEPS, quick=20)


claim = Claim(
    question=(
        "Held to the similarities of the phase before, CLIP keeps more of the base domain as it learns further ones; "
        "what it pays on the newest is told, and learning all domains at once is the ceiling."
    ),
    prelude=pretrain,
    arms={
        "start": start,
        "finetune": held(alpha=0.0),
        "alpha1": held(alpha=1.0),
        "alpha5": held(alpha=5.0),
        "alpha20": held(alpha=20.0),
        "unscreened": held(alpha=20.0, screen=False),
        "stranger": held(alpha=20.0, change=estrange),
        "joint": joint,
    },
    headline=(better("base", "alpha20", over="finetune"),),
    mechanism=("stranger",),
    checks=(
        better("base", "alpha5", over="finetune"),
        better("all", "joint", over="alpha20"),
        better("all", "joint", over="finetune"),
    ),
    delta=0.02,
    floor=Floor(
        "base", chance=1 / PAIRS, arms=("start", "finetune", "alpha1", "alpha5", "alpha20", "joint")
    ),
    table=("base", "earlier", "last", "all"),
)
