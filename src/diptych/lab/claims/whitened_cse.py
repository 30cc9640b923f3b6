"""Does whitening in groups of channels that are drawn anew for each view give a better similarity of
sentences than whitening in fixed groups?

Whitening has an effect where the embeddings lie in a narrow cone, so all arms go on from a language
model that the prelude trains on sentences of the seed: two causal layers, 64 wide. They train on the
same sentences with three passes of each, the same head, the same number of steps and the same batches,
which are larger than the width, as whitening all channels together needs it. Groups have four channels.

    start       the language model as it is, by the mean of its last layer
    simcse      three passes without whitening
    shuffled    each view its own permutation of the channels: the method
    fixed       channels in a row, the same groups in all views and steps
    shared      a new permutation for each step, the same in all views
    whole       one group of all channels, which is the same by every permutation
    each        as many groups as channels: each is standardised
    through     shuffled, with the gradient through the whitening matrix, which the released code stops

`spearman` is of the cosine of two sentences with the share of facts that both state
(`sentences:pair=graded`, the split val). `alignment` and `uniformity` are those of the same vectors, and
`isotropy` is that of all of them.

It is not asked whether whitening makes the embeddings of inference more uniform: the head reads
whitened ones, so that nothing pulls their mean to zero.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from typing import Any

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SENTENCES = 6000
PAIRS = 1000  # of the test
WIDTH = 64
TOWER = f"text:width={WIDTH}:depth=2:heads=2:pooling=mean"
WORDS = "bpe:vocab_size=2048:context=64"
START_STEPS = 300  # of the language model
STEPS = 300
BATCH = 96  # above WIDTH
GROUPS = WIDTH // 4
# drafts, not tuned
RATES: dict[str, float] = {
    "shuffled": 1e-3,
    "fixed": 1e-3,
    "simcse": 1e-3,
}


def draw(trial: Trial) -> dict[str, str]:
    """Write the sentences of the seed and the pairs of the test, and train the language model."""
    shrink = 10 if trial.quick else 1
    world = f"sentences:seed={trial.seed}"
    write_shards(
        Only(open_source(f"{world}:count={SENTENCES // shrink}"), ("texts.caption",)),
        trial.folder / "train",
    )
    write_shards(
        open_source(f"{world}:pair=graded:split=val:count={PAIRS // shrink}"), trial.folder / "test"
    )
    found = {name: f"{trial.folder / name}/*.tar" for name in ("train", "test")}
    settings = resolve(
        "language_model",
        {"train": found["train"]},
        text_tower=TOWER,
        tokenizer=WORDS,
        config={"role": "caption"},
        recipe={"steps": 10 if trial.quick else START_STEPS, "batch_size": 32, "lr": 3e-3},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "start")
    return {**found, "start": str(trial.folder / "start")}


def trained(
    method: str = "whitened_cse",
    like: str = "shuffled",
    *,
    rate: float | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method with some options, at `rate` or that of RATES."""
    options = {"groups": GROUPS, **config} if method == "whitened_cse" else config

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            method,
            {"train": trial.prelude["train"]},
            init=trial.prelude["start"],
            config={"pooling": "mean", "dropout": 0.1, "passes": 3, **options},
            recipe={
                "steps": trial.steps(STEPS, quick=10),
                "batch_size": BATCH,
                "lr": RATES[like] if rate is None else rate,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run")
        return measure(load(trial.folder / "run"), trial)

    return arm


def start(trial: Trial) -> dict[str, float]:
    """The language model's embeddings: an encoder that takes one step at a rate of nearly zero."""
    settings = resolve(
        "simcse",
        {"train": trial.prelude["train"]},
        init=trial.prelude["start"],
        config={"pooling": "mean", "dropout": 0.1},
        recipe={"steps": 1, "batch_size": BATCH, "lr": 1e-12},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "run")
    return measure(load(trial.folder / "run"), trial)


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return the correlation with the graded similarity, and how the vectors are spread."""
    found = evaluate(model, open_source(trial.prelude["test"]), ["sts"])["sts"]
    return {name: found[name] for name in ("spearman", "alignment", "uniformity", "isotropy")}


claim = Claim(
    question=(
        "From an anisotropic start, whitening in groups that are drawn anew for each view gives a better similarity "
        "of sentences than whitening in fixed groups."
    ),
    prelude=draw,
    arms={
        "start": start,
        "simcse": trained("simcse", "simcse"),
        "shuffled": trained(),
        "fixed": trained(like="fixed", grouping="fixed"),
        "shared": trained(grouping="shared"),
        "whole": trained(groups=1),
        "each": trained(groups=WIDTH),
        "through": trained(detach_whitening=False),
    },
    headline=(better("spearman", "shuffled", over="fixed"),),
    mechanism=("whole",),
    checks=(
        not_worse("spearman", "shuffled", than="simcse", margin=0.02),
        better("spearman", "shuffled", over="start"),
        better("spearman", "shuffled", over="shared"),
        better("alignment", "shuffled", over="fixed", higher=False),
    ),
    delta=0.02,
    looks=(5, 10),
    floor=Floor("spearman", chance=0.0, arms=("simcse", "shuffled", "fixed"), least=0.4),
    table=("spearman", "alignment", "uniformity", "isotropy"),
)
