"""Does an encoder that reads texts as pixels find a sentence by a misspelt copy better than encoders of
equal size that read tokens, if the kinds of typos are none of those that it was trained with?

Short sentences (events of `sentences`, about 55 letters). All arms learn that a sentence and itself
with typos are a pair, with the same texts, the same typos, the same number of steps and batches and the same blocks;
they differ in what the tower reads. Nothing is learnt from drawn patches before.

    pixels     strips of 44 patches: the method, by its stage of typos
    words      one token for a word; words that are not in the training texts are unknown
    bpe        pieces of words, from the same texts
    rate0      pixels, and no typos: the two texts of a pair differ by dropout alone
    untrained  pixels, after one step at a rate of nearly zero

The typos of training exchange, drop or double letters. Those of the test are neighbours on the keyboard,
look-alikes and split words, which no arm has seen.

`r1` is the share of held-out sentences that are found first by a copy in which each longer word has a
typo, `r1_some` by one in which three in ten have. `r1_known` is by the kinds of training, in each longer word.

Languages, and the later stages of the method, are not asked for.

The rates, sizes and delta are drafts. On seed 100, at 1e-3 for pixels and 2e-3 for pieces, `r1` was .78
and .86 after 2,000 steps; pixels gain most by more steps (.25 after 400).
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from diptych.data.sources import open_source
from diptych.data.typos import misspell
from diptych.data.worlds.sentences.noise import RESERVED_TYPOS
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.methods.store import load
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

WORLD = "sentences:event=true:synonyms=false:tail=0"
SENTENCES = 4000
MEASURED = 500
KNOWN = ("swap", "drop", "double")
UNSEEN = RESERVED_TYPOS
TESTS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "r1": (UNSEEN, 1.0),
    "r1_some": (UNSEEN, 0.3),
    "r1_known": (KNOWN, 1.0),
}
"""Kinds of typos, and the share of longer words with one."""
TYPO_RATE = 0.3  # of training
WIDTH = 64
BLOCKS = f"width={WIDTH}:depth=3:heads=2:pooling=mean:dropout=0.1"
STRIPS = f"vit:image_size=(16,704):patch=16:{BLOCKS}:cls_position=true:mean=(0.0,0.0,0.0):std=(1.0,1.0,1.0)"
TOKENS = f"text:{BLOCKS}:causal=false"
TOKENIZERS = {"words": "words:context=48", "bpe": "bpe:vocab_size=2048:context=64"}
STEPS = 2000
BATCH = 64
# drafts, not tuned
RATES: dict[str, float] = {
    "pixels": 2e-3,
    "words": 2e-3,
    "bpe": 2e-3,
}


def draw(trial: Trial) -> dict[str, str]:
    """Write the sentences of the seed, and held-out ones with their misspelt copies, as tables."""
    shrink = 10 if trial.quick else 1
    learnt = [{"text": text} for text in texts(trial, "train", SENTENCES // shrink)]
    held = []
    for number, text in enumerate(texts(trial, "val", MEASURED // shrink)):
        row = {"text": text}
        for name, (kinds, rate) in TESTS.items():
            row[name] = misspell(text, kinds, rate, generator(trial.seed, "typos", name, number))
        held.append(row)
    roles = ";".join(("text", *(f"{name}={name}" for name in TESTS)))
    return {
        "train": f"{written(trial, 'train', learnt)}:text=text",
        "test": f"{written(trial, 'test', held)}:text={roles}",
    }


def texts(trial: Trial, split: str, count: int) -> list[str]:
    """The first different sentences of a split."""
    world = f"{WORLD}:seed={trial.seed}:split={split}"
    source = open_source(f"{world}:count={2 * count}")
    found = dict.fromkeys(source[at].captions()[0] for at in range(len(source)))
    return list(found)[:count]


def written(trial: Trial, name: str, rows: list[dict[str, str]]) -> str:
    """Write a table, and return its path."""
    path = trial.folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def trained(
    reads: str = "pixels",
    *,
    rate: float | None = None,
    steps: int | None = None,
    **config: Any,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: an encoder of pixels or of a kind of tokens, at `rate` or that of RATES."""
    tower: dict[str, Any] = {"image_tower": STRIPS}
    if reads != "pixels":
        tower = {"preset": "tokens", "text_tower": TOKENS, "tokenizer": TOKENIZERS[reads]}

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "pixel_linguist",
            {"train": trial.prelude["train"]},
            embed_dim=WIDTH,
            config={
                "stages": ["noise"],
                "branches": ["typos"],
                "typos": "+".join(KNOWN),
                "typo_rate": TYPO_RATE,
                **config,
            },
            recipe={
                "steps": steps or trial.steps(STEPS, quick=5),
                "batch_size": BATCH,
                "lr": RATES[reads] if rate is None else rate,
            },
            options={"seed": trial.seed, "quiet": True},
            **tower,
        )
        run(settings, trial.folder / "run")
        return measure(load(trial.folder / "run"), trial)

    return arm


def measure(model: Any, trial: Trial) -> dict[str, float]:
    """Return the share of held-out sentences that each kind of misspelt copy finds first."""
    source = open_source(trial.prelude["test"])
    found = {}
    for name in TESTS:
        values = evaluate(model, source, ["text_retrieval"], role="caption", query=name)
        found[name] = values["text_retrieval"]["t2t_r1"]
    return found


claim = Claim(
    question=(
        "With typos of kinds that were not in training, an encoder of pixels finds the sentence more often than an "
        "encoder of words and than one of byte pairs."
    ),
    prelude=draw,
    arms={
        "pixels": trained(),
        "words": trained("words"),
        "bpe": trained("bpe"),
        "rate0": trained(typo_rate=0.0),
        "untrained": trained(rate=1e-12, steps=1),
    },
    headline=(
        better("r1", "pixels", over="words"),
        better("r1", "pixels", over="bpe"),
    ),
    mechanism=("rate0",),
    checks=(
        better("r1", "pixels", over="rate0"),
        better("r1_some", "pixels", over="words"),
        better("r1_some", "pixels", over="bpe"),
        better("r1", "pixels", over="untrained"),
    ),
    delta=0.05,
    looks=(5, 10),
    floor=Floor("r1_some", chance=1 / MEASURED, arms=("pixels", "words", "bpe"), least=0.3),
    table=("r1", "r1_some", "r1_known"),
)
