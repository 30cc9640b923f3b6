"""The recipe of `tiny-lm`: the small language model, trained on texts of the worlds and on
WordNet's dictionary.

1.3 million parameters (2.7 MB in float16), a separate vocabulary of 4,096, texts of at most 128
tokens. It answers questions about a scene from a description of it. It repeats itself under greedy
and beam search but not under sampling, as large models do; `scores` quantifies both. WordNet's text
is read from where `wordnet` finds it and is not stored: the weights contain what was learned.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych import collectives
from diptych.data.questions import answered
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.models.language import LanguageModel
from diptych.training.config import RunConfig, resolve
from diptych.training.run import run

DATA = ",".join(
    (
        "scenes:count=40000",
        # descriptions with four questions each; longer ones would not fit the context
        "scenes:count=100000:seed=1:long=objects:texts=long+question",
        "scenes:count=20000:seed=2:number=1:texts=long+question",
        "sentences:count=40000",
        "wordnet:split=train",
    )
)
READING = "long|question|answer*"
# a description with questions and answers; facts of a scene and pages of the dictionary; captions;
# single entries
ROLES = f"{READING}=30,long*=3,caption=1,entry=1"
STEPS = 3000
HELD_OUT = {  # source, role of its texts
    "scenes": ("scenes:split=test:count=500", "caption"),
    "sentences": ("sentences:split=test:count=500", "caption"),
    "wordnet": ("wordnet:split=test", "entry"),
}
PROMPTS = "wordnet:split=test:pos=verb"  # whose pages are continued
ASKED = "scenes:split=test:count=500:long=objects:texts=long+question"
GREEDY = "greedy"
SAMPLE = "sample:top_p=0.95"
BARS = {GREEDY: 0.3, SAMPLE: 0.8}  # diversity as a share of the source text's: at most, at least
LEAST_READ = 0.75  # share of questions answered


def config(seed: int = 0, **recipe: Any) -> RunConfig:
    """Return the config of the run; `recipe` overrides the preset's, such as steps."""
    recipe = {"steps": STEPS, **recipe}
    return resolve(
        "language_model",
        {"train": DATA},
        config={"role": ROLES},
        recipe=recipe,
        options={"seed": seed},
    )


def train(out: str | Path, *, seed: int = 0, **recipe: Any) -> list[Path]:
    """Train into the folder `out`, or resume there, and return the runs' folders: this one.

    Raises InputError if no WordNet is found, and Interrupted after a signal, with the state saved.
    """
    out = Path(out)
    run(
        config(seed, **recipe),
        out,
        resume=collectives.broadcast_object((out / "config.yaml").exists()),
    )
    return [out]


def scores(model: LanguageModel) -> dict[str, Any]:
    """Return `by_strategy`, as in the suite degeneration; for each held-out source its perplexity,
    chance and bits; and `reading`."""
    pages = open_source(PROMPTS)
    reported = evaluate(
        model, pages, ["degeneration"], role="long", strategies=(GREEDY, "beam", SAMPLE)
    )["degeneration"]
    found: dict[str, Any] = {
        "by_strategy": reported["by_strategy"],
        "prompts": reported["n"],
        "perplexity": {},
    }
    for name, (spec, role) in HELD_OUT.items():
        read = evaluate(model, open_source(spec), ["perplexity"], role=role)["perplexity"]
        kept = ("perplexity", "chance_perplexity", "bits_per_character", "n")
        found["perplexity"][name] = {key: read[key] for key in kept}
    found["reading"] = reading(model)
    return found


def reading(model: LanguageModel) -> dict[str, float]:
    """Return the share `chosen` of the questions about descriptions of scenes whose right answer is
    the most probable of the choices, `chance`, and `n` questions."""
    texts: list[str] = []
    prompts: list[str] = []
    places: list[tuple[int, int, int]] = []  # of a question: its first choice, how many, the right
    source = open_source(ASKED)
    for sample in map(source.__getitem__, range(len(source))):
        description = " ".join(sample.captions("long"))
        for question, (answer,) in answered(sample):
            choices = question.attrs["choices"]
            places.append((len(texts), len(choices), choices.index(answer)))
            texts += choices
            prompts += [f"{description} {question.text}"] * len(choices)
    scores = model.log_prob(texts, prompts)
    right = [int(scores[at : at + many].argmax()) == answer for at, many, answer in places]
    return {
        "chosen": sum(right) / len(right),
        "chance": sum(1 / many for _, many, _ in places) / len(places),
        "n": len(places),
    }


def degenerates(found: Mapping[str, Any]) -> bool:
    """Whether greedy decoding repeats itself and sampling does not, by BARS."""
    shares = {
        name: row["diversity"] / found["by_strategy"]["text"]["diversity"]
        for name, row in found["by_strategy"].items()
    }
    return shares[GREEDY] <= BARS[GREEDY] and shares[SAMPLE] >= BARS[SAMPLE]


_CARD = """\
# tiny-lm

A causal language model of {millions:.1f} million parameters, trained by `make tiny` (method `language_model`):
`diptych.load("tiny-lm")`. It knows the worlds' sentences and the style of a dictionary, and little else. Given the
description of a scene it answers questions about it (`a description. a question? an answer`). As large models do, it
repeats itself under greedy and beam search and does not where it is sampled.

## Scores

Continuations of {prompts:,} pages of the dictionary that it never saw (64 tokens after 16), its perplexity on texts
held out, and how often the right answer to a question about a description is the most probable of two to four:

```
{table}
```

The bars: greedy decoding keeps at most {greedy:.0%} of the text's own diversity, sampling at least {sample:.0%}, and at
least {read:.0%} of the answers are right.

## Training

{steps:,} steps on `{data}`, roles `{roles}`, seed {seed}, {minutes:.0f} minutes on {ranks} processes of one thread.
Recipe: {recipe}.

WordNet 3.0's glosses and examples (Princeton University, its own licence) were read from an installed copy. The weights
hold what was learnt; the text does not ship.
"""


def card(
    model: LanguageModel,
    found: Mapping[str, Any],
    trainings: Sequence[Mapping[str, Any]],
    seconds: float,
) -> str:
    """Return the model's card, in Markdown; `trainings` is the training record of the run's
    description."""
    [training] = trainings
    return _CARD.format(
        millions=sum(parameter.numel() for parameter in model.lm.parameters()) / 1e6,
        prompts=found["prompts"],
        table=table(found),
        greedy=BARS[GREEDY],
        sample=BARS[SAMPLE],
        read=LEAST_READ,
        steps=training["steps"],
        data=training["data"]["train"],
        roles=ROLES,
        seed=training["seed"],
        minutes=seconds / 60,
        ranks=collectives.world_size(),
        recipe=", ".join(
            f"{name} {value}" for name, value in training["recipe"].items() if value is not None
        ),
    )


def table(found: Mapping[str, Any]) -> str:
    """Return a line for each strategy, for each held-out source, and for reading."""
    lines = [
        f"{name:17} diversity {row['diversity']:.3f}, rep-2 {row['rep_2']:.3f}, rep-3 {row['rep_3']:.3f}, "
        f"rep-4 {row['rep_4']:.3f}"
        for name, row in found["by_strategy"].items()
    ]
    lines += [
        f"{name:17} perplexity {row['perplexity']:.1f} (chance {row['chance_perplexity']:,.0f}), "
        f"{row['bits_per_character']:.2f} bits a character, {row['n']:,} texts"
        for name, row in found["perplexity"].items()
    ]
    read = found["reading"]
    lines.append(
        f"{'reading':17} {read['chosen']:.3f} right (chance {read['chance']:.3f}), {read['n']:,} questions"
    )
    return "\n".join(lines)
