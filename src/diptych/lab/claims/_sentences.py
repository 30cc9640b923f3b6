"""A small language model of a claim's sentences, from which the encoders of `whitened_cse` and
`debcse` go on, as the published ones go on from BERT."""

from typing import Any

from diptych.lab.claim import Trial
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

WORLD = "sentences:event=true:synonyms=false:tail=0"
"""Encoders of two layers learn these sentences in minutes, longer ones and synonyms they do not."""
WIDTH = 64
TOWER = f"text:width={WIDTH}:depth=2:heads=2:pooling=mean"
WORDS = "bpe:vocab_size=1024:context=32"
STEPS = 300
CONFIG = {"pooling": "mean", "dropout": 0.1}
"""How sentences become vectors in all arms."""


def pretrained(trial: Trial, train: str) -> str:
    """Train a causal language model on the captions of `train`, and return its folder."""
    settings = resolve(
        "language_model",
        {"train": train},
        text_tower=TOWER,
        tokenizer=WORDS,
        config={"role": "caption"},
        recipe={"steps": 10 if trial.quick else STEPS, "batch_size": 32, "lr": 3e-3},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "start")
    return str(trial.folder / "start")


def unchanged(trial: Trial) -> Any:
    """Return the prelude's language model as an encoder, by one step at a rate of nearly zero."""
    settings = resolve(
        "simcse",
        {"train": trial.prelude["train"]},
        init=trial.prelude["start"],
        config=CONFIG,
        recipe={"steps": 1, "batch_size": 64, "lr": 1e-12},
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "run")
    return load(trial.folder / "run")
