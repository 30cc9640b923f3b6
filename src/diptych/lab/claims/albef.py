"""Does a multimodal encoder tell pairs apart better if its towers are aligned first, and do targets of a
momentum copy help where captions are wrong?

Drawn scenes of two things, whose captions state all of both. Three arms learn clean captions by matching
and masked words, with as many steps on the same pairs:

    unaligned    matching and masked words alone; other images and texts are drawn uniformly
    aligned      with the contrastive loss, by whose similarities they are drawn: the method
    random       with the contrastive loss; they are drawn uniformly

Three learn by the contrastive loss alone from the same scenes, three tenths of which have the caption of
another scene, and a fifth one with a false fact:

    plain        one-hot targets (alpha 0)
    distilled    .4 of the target is the momentum copy's (alpha .4)
    m0           the same, and the copy is the model itself (momentum 0)

`aligned`, `unaligned`, `plain` and `distilled` have each a rate of their own, `random` that of `aligned`, `m0`
that of `distilled`. On held-out scenes with whole, true captions:

    hard         the share of images whose own caption has a higher score of a match than one with a changed
                 colour, place or name, and of these edits' images likewise (chance .5)
    matched_r1   the mean of recall at 1 both ways among 100 scenes, all pairs ordered by the score of a match
    r1           the mean of recall at 1 both ways among 300 scenes, by the cosine

Without the contrastive loss the uniform draw is the only one there is, so that `unaligned` lacks both what
aligns and what chooses; `random` tells them apart. Not asked: distillation of masked words, answers,
grounding. The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2:same=0:size=48:texts=caption"
FIELDS = ("images.main", "texts.caption")
NOISE = "noise=swap=0.3+wrong=0.2"
EDITS = "edits=recolour+move+replace"
LEARNT = 4000
MEASURED = {"retrieved": 300, "matched": 100, "edited": 200}
BATCH = {"matched": 32, "contrasted": 64}
STEPS = {"matched": 250, "contrasted": 300}
RATES = {"unaligned": 4e-3, "aligned": 4e-3, "plain": 4e-3, "distilled": 4e-3}


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, once with true captions and once with wrong ones among
    them; sources by name."""
    count = LEARNT // 20 if trial.quick else LEARNT
    found = {}
    for name, options in (("clean", "drop=0"), ("noisy", f"drop=0:{NOISE}")):
        spec = f"{SCENES}:{options}:seed={trial.seed}:count={count}"
        write_shards(Only(open_source(spec), FIELDS), trial.folder / name)
        found[name] = f"{trial.folder / name}/*.tar"
    return found


def held_out(trial: Trial, name: str) -> str:
    """The scenes of a measure of MEASURED."""
    count = MEASURED[name] // 10 if trial.quick else MEASURED[name]
    options = EDITS if name == "edited" else "drop=0"
    return f"{SCENES}:{options}:seed={trial.seed}:split=val:count={count}"


def matched(
    like: str = "aligned", rate: float | None = None, **config: Any
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm that matches: the method with some options on clean captions, at a rate, else that of
    `like`, measured by its scores of a match."""

    def arm(trial: Trial) -> Mapping[str, float]:
        model = _trained(trial, "clean", "matched", rate or RATES[like], config)
        pairs = open_source(held_out(trial, "edited"))
        few = open_source(held_out(trial, "matched"))
        hard = evaluate(model, pairs, ["composition"], by="match")["composition"]
        found = evaluate(model, few, ["retrieval"], rerank=len(few))["retrieval"]
        return {
            "hard": hard["i2t_2way"],
            "matched_r1": float(np.mean([found[f"reranked_{way}_r1"] for way in ("i2t", "t2i")])),
            **(recall(model, trial) if config.get("contrastive", 1.0) else {}),
        }

    return arm


def contrasted(
    like: str = "distilled", rate: float | None = None, **config: Any
) -> Callable[[Trial], Mapping[str, float]]:
    """An arm by the contrastive loss alone, with some options on captions of which half are wrong, at a
    rate, else that of `like`, measured by recall."""

    def arm(trial: Trial) -> Mapping[str, float]:
        alone = {"matching": 0.0, "words": 0.0, **config}
        return recall(_trained(trial, "noisy", "contrasted", rate or RATES[like], alone), trial)

    return arm


def _trained(trial: Trial, data: str, kind: str, rate: float, config: Mapping[str, Any]) -> Any:
    settings = resolve(
        "albef",
        {"train": trial.prelude[data]},
        config={"augment": {}, **config},
        recipe={
            "steps": trial.steps(STEPS[kind], quick=10),
            "batch_size": BATCH[kind],
            "lr": rate,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "run")
    return load(trial.folder / "run")


def recall(model: Any, trial: Trial) -> dict[str, float]:
    """Return recall by the cosine on held-out scenes."""
    source = open_source(held_out(trial, "retrieved"))
    found = evaluate(model, source, ["retrieval"])["retrieval"]
    return {"r1": float(np.mean([found["i2t_r1"], found["t2i_r1"]]))}


claim = Claim(
    question=(
        "Aligned by a contrastive loss, a multimodal encoder tells captions with a changed fact apart better; with "
        "half of the captions wrong, targets of a momentum copy give better recall."
    ),
    prelude=draw,
    arms={
        "unaligned": matched("unaligned", contrastive=0.0, negatives="random"),
        "aligned": matched(),
        "random": matched(negatives="random"),
        "plain": contrasted("plain", alpha=0.0),
        "distilled": contrasted(alpha=0.4),
        "m0": contrasted(alpha=0.4, momentum=0.0),
    },
    headline=(
        better("hard", "aligned", over="unaligned"),
        better("r1", "distilled", over="plain"),
    ),
    mechanism=("random",),
    checks=(
        better("hard", "aligned", over="random"),
        better("r1", "distilled", over="m0"),
        better("matched_r1", "aligned", over="unaligned"),
        better("matched_r1", "aligned", over="random"),
    ),
    delta={"hard": 0.03, "r1": 0.03},
    floor=Floor(
        "r1",
        chance=1 / MEASURED["retrieved"],
        arms=("aligned", "plain", "distilled"),
        least=0.1,
    ),
    table=("hard", "matched_r1", "r1"),
)
