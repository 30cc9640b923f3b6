"""Do labels that are words of a text train an encoder of texts better than what is made by changing the text?

The survey says two things. One wrong word can turn the meaning of a text, so that texts with deleted words
are risky positives and labels are not. And if labels and words of a text are learnt alike, rare labels and
labels that were never given can be scored by their words.

The texts say who manages or fails to do what to which thing, in one of three orders of the same words, and
may begin with words that say nothing. Their labels are the agent and the thing; the frequencies of things
have a long tail, and every fourth thing is never given as a label, though texts name it. All arms have the
same new encoder, texts and batches. Those of labels take 2,000 steps, since rare labels come late, the others
500.

    cless          labels, and a word of the text as a further label (CLESS)
    labels_only    labels alone
    dealt          cless, with a word of another text
    words          four words of the text, without labels
    deletion       two versions of a text with half of its words deleted (CLEAR without its masked words)
    dropout        two passes of a text (SimCSE)

`rare_ap` is the average precision, over held-out texts, of the things in the lowest quarter of frequencies and
of those that were never labels, a mean over these labels; `tail_ap`, `unseen_ap` and `head_ap` are of each
kind. `two_way` is the share of texts that are nearer to themselves in another order and with another beginning
than their twin is: one that is `negated`, or with the attributes of the agent and the thing `swapped`. Chance
is 1/2.

On tuning seeds, at the chosen rates: no arm was above chance on `swapped`, which has the same words. Both arms of
labels were below chance on twins, so that the second half of the claim is of words as labels alone. The tail was
learnt by both: what `cless` can gain in `rare_ap` is in labels that were never given.

Other objectives of the catalogue, and fewer labels, are not asked for.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from diptych.data.sample import Sample
from diptych.data.sources import open_source
from diptych.data.worlds.sentences.meaning import Draw, Meaning
from diptych.data.worlds.sentences.words import OBJECTS
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Trial, Tuned, best, better, not_worse
from diptych.methods.store import load
from diptych.methods.text.nlp_primer.label_views import LabelsView
from diptych.rng import generator
from diptych.training.config import resolve
from diptych.training.run import run

TEXTS = 4000
LABELLED = 2000  # of the test
TWINS = 3000
ORDERS = (
    "the {a} {agent} {verb} to {action} the {b} {thing}",
    "it is the {b} {thing} that the {a} {agent} {verb} to {action}",
    "the {b} {thing} is what the {a} {agent} {verb} to {action}",
)
FILLERS = (
    "",
    "they say that ",
    "as we hear ",
    "in the end ",
    "it seems that ",
    "on that day ",
    "once more ",
    "in truth ",
)
"""What a text may start with, that says nothing."""
VERBS = (("manages", "fails"), ("agrees", "refuses"), ("remembers", "forgets"))
"""Of affirmative and of negated texts."""
HELD_OUT = frozenset(OBJECTS[3::4])
"""The things that are no labels in training."""
TOWER = "text:width=64:depth=2:heads=2:causal=false:pooling=mean:dropout=0.1"
WORDS = "bpe:vocab_size=1024:context=32"
WIDTH = 64  # of the embedding
BATCH = 64
OBJECTIVES = {
    "cless": "cless:fields=texts.label:pseudo=1",
    "labels_only": "cless:fields=texts.label:pseudo=0",
    "words": "cless",
    "deletion": "clear:first=deletion:second=deletion:share=0.5:masking=0",
    "dropout": "simcse",
}
STEPS = {"cless": 2000, "labels_only": 2000, "words": 500, "deletion": 500, "dropout": 500}
# on seeds 100 and 101: rare_ap of cless and labels_only, two_way of the others
RATES = {
    "cless": {8e-3: 0.572, 16e-3: 0.982, 32e-3: 0.742, 64e-3: 0.263},
    "labels_only": {16e-3: 0.478, 32e-3: 0.487, 64e-3: 0.014},
    "words": {4e-3: 0.746, 8e-3: 0.747, 16e-3: 0.748, 32e-3: 0.628},
    "deletion": {1e-3: 0.724, 2e-3: 0.725, 4e-3: 0.703},
    "dropout": {1.25e-4: 0.692, 5e-4: 0.704, 2e-3: 0.683},
}

Change = Callable[[Any], None]


# ---- texts


@dataclass(frozen=True)
class Statement:
    """A meaning, and how it is said: the place of its order in ORDERS, of its verbs in VERBS, of its
    filler in FILLERS."""

    meaning: Meaning
    order: int
    verbs: int
    filler: int

    @property
    def text(self) -> str:
        """The statement in words."""
        meaning = self.meaning
        return FILLERS[self.filler] + ORDERS[self.order].format(
            a=meaning.agent_attribute,
            agent=meaning.agent,
            verb=VERBS[self.verbs][meaning.negative],
            action=meaning.action,
            b=meaning.object_attribute,
            thing=meaning.object,
        )


def statements(
    trial: Trial, split: str, count: int
) -> Iterator[tuple[Statement, np.random.Generator]]:
    """Statements of a split, half of them negated, each with a generator."""
    draw = Draw(split=split, kind="visual", negative=0.5, tail=1.0)
    for number in range(count):
        rng = generator(trial.seed, "nlp_primer", split, number)
        meaning = draw.meaning(rng)
        order, verbs, filler = (int(rng.integers(len(each))) for each in (ORDERS, VERBS, FILLERS))
        yield Statement(meaning, order, verbs, filler), rng


def draw(trial: Trial) -> dict[str, str]:
    """Write the texts of the seed with their labels, held-out ones, and twins, as tables."""
    shrink = 10 if trial.quick else 1
    learnt = []
    for one, _ in statements(trial, "train", TEXTS // shrink):
        labels = [one.meaning.agent, *({one.meaning.object} - HELD_OUT)]
        learnt.append({"text": one.text, "labels": labels})
    held = [
        {"text": one.text, "labels": [one.meaning.object]}
        for one, _ in statements(trial, "val", LABELLED // shrink)
    ]
    twins = []
    for one, rng in statements(trial, "val", TWINS // shrink):
        paraphrase = replace(
            one,
            order=another(one.order, ORDERS, rng),
            filler=another(one.filler, FILLERS, rng),
        )
        negated = replace(one.meaning, negative=not one.meaning.negative)
        twins.append(
            {
                "text": one.text,
                "paraphrase": paraphrase.text,
                "negated": replace(one, meaning=negated).text,
                "swapped": replace(one, meaning=one.meaning.swapped()).text,
            }
        )
    roles = "text=text;paraphrase=paraphrase;negated=negated;swapped=swapped"
    return {
        "train": f"{written(trial, 'train', learnt)}:text=text:label=labels",
        "labelled": f"{written(trial, 'labelled', held)}:text=text:label=labels",
        "twins": f"{written(trial, 'twins', twins)}:{roles}",
    }


def another(place: int, of: Sequence[Any], rng: np.random.Generator) -> int:
    """Another place than this one, in a sequence."""
    return (place + int(rng.integers(1, len(of)))) % len(of)


def written(trial: Trial, name: str, rows: list[dict[str, Any]]) -> str:
    """Write a table, and return its path."""
    path = trial.folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


# ---- arms


def trained(
    name: str, *, rate: float | None = None, deal: bool = False
) -> Callable[[Trial], dict[str, float]]:
    """An arm: an objective of OBJECTIVES, at `rate` or that of RATES."""

    def arm(trial: Trial) -> dict[str, float]:
        settings = resolve(
            "nlp_primer",
            {"train": trial.prelude["train"]},
            text_tower=TOWER,
            tokenizer=WORDS,
            embed_dim=WIDTH,
            config={"objective": OBJECTIVES[name]},
            recipe={
                "steps": trial.steps(STEPS[name], quick=5),
                "batch_size": BATCH,
                "lr": best(RATES[name]) if rate is None else rate,
            },
            options={"seed": trial.seed, "quiet": True},
        )
        run(settings, trial.folder / "run", change=dealing(trial) if deal else None)
        return measure(load(trial.folder / "run"), trial, "cless" in OBJECTIVES[name])

    return arm


@dataclass(frozen=True, kw_only=True)
class Dealt(LabelsView):
    """Labels of which those that are words are the words of another text, always the same one."""

    others: tuple[str, ...] = ()

    def words(self, sample: Sample, text: str) -> list[str]:
        at = int(generator(0, "dealt", text).integers(len(self.others)))
        return super().words(sample, self.others[at])


def dealing(trial: Trial) -> Change:
    """Return what gives a method's texts the words of others."""
    source = open_source(trial.prelude["train"])
    others = tuple(source[at].captions()[0] for at in range(len(source)))

    def change(method: Any) -> None:
        own = {each.name: getattr(method.view, each.name) for each in fields(method.view)}
        method.view = Dealt(**own, others=others)

    return change


def measure(model: Any, trial: Trial, matches: bool) -> dict[str, float]:
    """Return the accuracy on twins, and of a model that matches labels the average precisions."""
    found = evaluate(model, open_source(trial.prelude["twins"]), ["hard_negatives"])
    twins = found["hard_negatives"]
    kinds = {name: twins["by_kind"][name]["two_way"] for name in ("negated", "swapped")}
    two_way = {"two_way": twins["two_way"], **kinds}
    if not matches:
        return two_way
    source = open_source(trial.prelude["labelled"])
    train = trial.prelude["train"]
    labels = evaluate(model, source, ["text_labels"], label="texts.label", train=train)
    return two_way | precisions(labels["text_labels"]["by_frequency"])


def precisions(by_frequency: dict[str, dict[str, float]]) -> dict[str, float]:
    """The average precision of rare labels, and of each bucket of frequencies."""
    rare = [by_frequency[name] for name in ("tail", "unseen") if name in by_frequency]
    total = sum(row["labels"] * row["average_precision"] for row in rare)
    found = {"rare_ap": total / sum(row["labels"] for row in rare)}
    for name in ("tail", "unseen", "head"):
        if name in by_frequency:
            found[f"{name}_ap"] = by_frequency[name]["average_precision"]
    return found


claim = Claim(
    question=(
        "Labels and words of the text together score rare and unseen labels better than labels alone, and words of the "
        "text as labels keep negated and swapped texts apart better than deletion."
    ),
    prelude=draw,
    arms={
        **{name: trained(name) for name in OBJECTIVES},
        "dealt": trained("cless", deal=True),
    },
    headline=(
        better("rare_ap", "cless", over="labels_only"),
        better("two_way", "words", over="deletion"),
    ),
    mechanism=("dealt",),
    checks=(
        not_worse("tail_ap", "cless", than="labels_only", margin=0.05),
        better("unseen_ap", "cless", over="labels_only"),
        not_worse("two_way", "words", than="dropout", margin=0.02),
        better("negated", "words", over="deletion"),
        better("swapped", "words", over="deletion"),
    ),
    delta={"rare_ap": 0.05, "two_way": 0.02},
    looks=(5, 10),
    rates={name: RATES[name] for name in ("cless", "labels_only", "words", "deletion")},
    tuned=Tuned(effect=0.438, sd=0.083, best=0.95, chance=0.007, seconds=700),
    # the share of texts with a label of the highest quarter is about .04
    floor=Floor("head_ap", chance=0.04, arms=("cless", "labels_only"), least=0.4),
    table=("rare_ap", "tail_ap", "unseen_ap", "head_ap", "two_way", "negated", "swapped"),
)
