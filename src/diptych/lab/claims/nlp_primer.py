"""Do labels that are words of the texts themselves prepare an encoder for rare and for unseen labels,
and does it keep what one word changes better than where words are deleted?

Sentences with 64 long-tailed labels, one each, whose word occurs in the text; the labels of 16 of them
are held out. All arms train the same small encoder from scratch for as many steps, each at the best of
its rates.

    cless           CLESS on labels and on words of the texts: the method
    labels_only     CLESS on the labels alone, on the texts that have one
    dealt           cless with the words of another text in place of a text's own
    dropout         SimCSE: a text and itself in another pass
    deletion        two versions of a text without half of its words, in spans

`tail` and `unseen` are the mean average precision of rare labels and of those held out, `two_way` the
share of sentences with a negation or with exchanged attributes that are further from a sentence than
its paraphrase is; chance is 1/2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample, Text
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, better, not_worse
from diptych.methods.base import Method
from diptych.methods.store import load
from diptych.methods.text.nlp_primer.label_views import LabelsView, content_words
from diptych.training.config import resolve
from diptych.training.run import run

WORLD = "sentences:tail=1.0"
COUNT = 4000
TEST = 1000
TWINS = 500
HELD_OUT = 4  # every fourth label
STEPS = 400
BATCH = 64
TOWER = "text:width=96:depth=2:heads=3:causal=false:pooling=mean:dropout=0.1"
WORDS = "bpe:vocab_size=2048:context=64:special=mask"
OBJECTIVES = {
    "cless": "cless:fields=labels.object",
    "labels_only": "cless:fields=labels.object:pseudo=0",
    "dropout": "simcse",
    "deletion": "clear:first=deletion:second=deletion:share=0.5:masking=0:tau=0.05",
}
RATES: dict[str, dict[float, float]] = {}
RATE = 1e-3
Metrics = dict[str, float]


class Given(Wrapped):
    """Sentences whose label is missing where it is held out, with another sentence of role `other`."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        other = super().__getitem__((index + 1) % len(self))
        label = int(sample.labels["object"])
        labels = {**sample.labels, "object": -1 if label % HELD_OUT == 0 else label}
        texts = (*sample.texts, Text(text=other.captions()[0], role="other"))
        return replace(sample, labels=labels, texts=texts)


def draw(trial: Trial) -> dict[str, str]:
    """Write the sentences of the seed as shards: all of them, and those that have a label."""
    count = COUNT // (20 if trial.quick else 1)
    source = Given(open_source(f"{WORLD}:seed={trial.seed}:count={count}"))
    write_shards(source, trial.folder / "all")
    there = [at for at in range(count) if source[at].labels["object"] >= 0]
    write_shards(Wrapped(source, np.array(there)), trial.folder / "labelled")
    test = TEST // (10 if trial.quick else 1)
    twins = TWINS // (10 if trial.quick else 1)
    held_out = f"{WORLD}:split=val:seed={trial.seed}"
    return {
        "all": f"{trial.folder}/all/*.tar",
        "labelled": f"{trial.folder}/labelled/*.tar",
        "test": f"{held_out}:count={test}",
        "twins": f"{held_out}:count={twins}:paraphrases=1:roles=negated+swapped",
    }


@dataclass(frozen=True, kw_only=True)
class Dealt(LabelsView):
    """Labels of a text, and words of another one."""

    def words(self, sample: Sample, text: str) -> list[str]:
        return content_words(sample.captions("other")[0])


def deal(method: Method) -> None:
    """Take the words of another text for those of a text."""
    own: Any = method
    view = own.view
    own.view = Dealt(**{name: getattr(view, name) for name in view.__dataclass_fields__})


def trained(
    name: str, change: Callable[[Method], None] | None = None
) -> Callable[[Trial], Metrics]:
    """An arm: an objective, measured on labels and on twins."""

    def arm(trial: Trial) -> Metrics:
        found = trial.prelude
        settings = resolve(
            "nlp_primer",
            {"train": found["labelled" if name == "labels_only" else "all"]},
            text_tower=TOWER,
            tokenizer=WORDS,
            embed_dim=96,
            config={"objective": OBJECTIVES[name]},
            recipe={
                "lr": best(name),
                "steps": trial.steps(STEPS, quick=20),
                "batch_size": BATCH,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=change)
        return measure(load(trial.folder / "run"), trial)

    return arm


def best(arm: str) -> float:
    """Return the best rate of an arm; the ablation has that of `cless`."""
    scores = RATES.get(arm)
    return max(scores, key=lambda rate: scores[rate]) if scores else RATE


def measure(model: Any, trial: Trial) -> Metrics:
    """Return the average precision of labels, and how often twins are further than paraphrases."""
    found = trial.prelude
    labels = evaluate(
        model,
        open_source(found["test"]),
        ["text_labels"],
        label="object",
        train=open_source(found["labelled"]),
    )["text_labels"]
    twins = evaluate(model, open_source(found["twins"]), ["hard_negatives"])["hard_negatives"]
    by_kind = twins["by_kind"]
    return {
        "tail": labels["tail_average_precision"],
        "unseen": labels["unseen_average_precision"],
        "all": labels["average_precision"],
        "two_way": twins["two_way"],
        "negated": by_kind["negated"]["two_way"],
        "swapped": by_kind["swapped"]["two_way"],
    }


claim = Claim(
    question=(
        "With words of the texts as further labels, an encoder ranks texts better by rare and by unseen labels than one "
        "trained on labels alone, and tells a changed word better than one trained on texts with deleted words."
    ),
    prelude=draw,
    arms={
        **{name: trained(name) for name in OBJECTIVES},
        "dealt": trained("cless", deal),
    },
    headline=(
        better("tail", "cless", over="labels_only"),
        better("unseen", "cless", over="labels_only"),
        better("two_way", "cless", over="deletion"),
    ),
    mechanism=("dealt",),
    checks=(
        not_worse("two_way", "cless", than="dropout", margin=0.02),
        better("two_way", "dropout", over="deletion"),
        better("all", "cless", over="labels_only"),
    ),
    delta=0.02,
    looks=(5, 10),
    rates=RATES,
    floor=Floor("all", chance=1 / 64, arms=("cless", "labels_only")),
    table=("tail", "unseen", "all", "two_way", "negated", "swapped"),
)
