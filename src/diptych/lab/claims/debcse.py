"""Does an encoder of sentences whose pairs are drawn by inverse propensities follow meaning better, and
length less, than one whose pairs are made by dropout?

2,000 meanings recur in other words and lengths, about four times each, so that a batch has false negatives
and that lengths say nothing of meanings. All arms have the same new encoder, the same sentences, the same
number of steps and the same head. The first epoch of those that draw pairs is SimCSE's; the encoder after
it is their teacher.

    simcse       pairs by dropout, all other sentences of the batch are negatives
    debcse       pairs are drawn, and false negatives guarded: the method, as it is reconstructed here
    level        pairs are drawn by meaning alone, without propensities
    unguarded    no guard: near sentences are negatives too
    blind        the teacher gives each sentence a random direction

`spearman` is of the cosine of two sentences with the share of facts that both state
(`sentences:pair=graded`, the split val). `length_bias` is the size of Spearman's correlation of the difference
of their lengths with minus their cosine, among pairs of equal similarity; `surface_bias` the size of the
partial correlation of the cosine with the likeness of the words, given the similarity.

The method is a reconstruction from an abstract, and so is what this asks: nothing follows for the
published one. No candidate of a pair comes from the labels of the data.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

MEANINGS = 2000
SENTENCES = 8000
PAIRS = 1500  # of the test
TOWER = "text:width=64:depth=2:heads=2:causal=false:pooling=mean:dropout=0.1"
WORDS = "bpe:vocab_size=2048:context=64"
WIDTH = 64  # of the embedding
WARM = 1  # epochs
EPOCHS = 3  # after these
BATCH = 64
# drafts, not tuned
RATES: dict[str, float] = {
    "simcse": 1e-3,
    "debcse": 1e-3,
}

Change = Callable[[Any], None]


def draw(trial: Trial) -> dict[str, str]:
    """Write the sentences of the seed and the pairs of the test."""
    shrink = 16 if trial.quick else 1
    world = f"sentences:seed={trial.seed}"
    train = f"{world}:pool={MEANINGS // shrink}:count={SENTENCES // shrink}"
    write_shards(Only(open_source(train), ("texts.caption",)), trial.folder / "train")
    test = f"{world}:pair=graded:split=val:count={PAIRS // min(shrink, 5)}"
    write_shards(open_source(test), trial.folder / "test")
    return {name: f"{trial.folder / name}/*.tar" for name in ("train", "test")}


def trained(
    method: str = "debcse",
    change: Change | None = None,
    *,
    rate: float | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: a method with some options, at `rate` or that of RATES."""

    def arm(trial: Trial) -> dict[str, float]:
        warm = WARM * trial.stretch
        epochs = EPOCHS * trial.stretch
        drawn = method == "debcse"
        settings = resolve(
            method,
            {"train": trial.prelude["train"]},
            text_tower=TOWER,
            tokenizer=WORDS,
            embed_dim=WIDTH,
            config={"warm": float(warm), **config} if drawn else config,
            recipe={
                "epochs": epochs if drawn else warm + epochs,
                "batch_size": BATCH,
                "lr": RATES[method] if rate is None else rate,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def blind(method: Any) -> None:
    """Have the teacher give each sentence a random direction, the same one whenever it is asked."""
    teacher = method.teacher.module

    def embed_texts(ids: Tensor, lengths: Tensor) -> Tensor:
        rows = []
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            rng = generator(0, "blind", *row[:length])
            rows.append(torch.from_numpy(rng.normal(size=teacher.embed_dim)))
        return normalize(torch.stack(rows), dim=-1).float().to(ids.device)

    teacher.embed_texts = embed_texts


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return the correlation with the graded similarity, and the sizes of the biases."""
    found = evaluate(model, open_source(trial.prelude["test"]), ["sts"], biases=True)["sts"]
    biases = ("length_bias", "surface_bias", "frequency_bias")
    sizes = {name: abs(found[name]) for name in biases}
    return {"spearman": found["spearman"], **sizes}


claim = Claim(
    question=(
        "With pairs drawn by inverse propensities, the cosine of sentences follows their meaning better, and the "
        "difference of their lengths less, than with pairs by dropout."
    ),
    prelude=draw,
    arms={
        "simcse": trained("simcse"),
        "debcse": trained(),
        "level": trained(propensity=False),
        "unguarded": trained(guard=False),
        "blind": trained(change=blind),
    },
    headline=(
        better("spearman", "debcse", over="simcse"),
        better("length_bias", "debcse", over="simcse", higher=False),
    ),
    mechanism=("blind",),
    checks=(
        better("length_bias", "debcse", over="level", higher=False),
        better("spearman", "debcse", over="unguarded"),
        better("surface_bias", "debcse", over="simcse", higher=False),
    ),
    delta={"spearman": 0.02, "length_bias": 0.01},
    looks=(5, 10),
    floor=Floor("spearman", chance=0.0, arms=("simcse", "debcse"), least=0.4),
    table=("spearman", "length_bias", "surface_bias", "frequency_bias"),
)
