"""The recipe of `tiny-vlm`: `tiny-lm` learns to answer questions about scenes from the patches of
`tiny`.

Method `cg_vlm`, its stage of instruction alone: an adapter of the patches and the language model are
trained, and the image tower stays frozen. What ships has neither `tiny`'s weights nor its texts:
`load` takes them from `tiny`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych import collectives
from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.evaluation.suites.answers import correct, questions
from diptych.models.vlm import VisionLMModel
from diptych.training.config import RunConfig, resolve
from diptych.training.run import run

LENT = {"encoder": "tiny"}  # part of the model: the shipped model whose weights it has
SCENES = "scenes:texts=question"
DATA = f"{SCENES}:count=16000"
METHOD = {"lm": "tiny-lm", "grid": None, "cached": True, "instruction": {}}
RECIPE = {
    "optimizer": "muon",
    "lr": 2e-3,
    "betas": (0.9, 0.98),
    "weight_decay": 0.02,
    "warmup": 0.03,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 3.0,
}

ASKED = f"{SCENES}:split=test:count=500"
KNOWN = f"{SCENES}:count=5000"  # whose answers are the prior of a question
LEAST = 0.8  # share of questions answered, at least
KINDS = {  # kind of question: how it begins; the first that fits
    "colour": "what colour",
    "texture": "what pattern",
    "size": "how large",
    "place": "where",
    "ground": "what is the ground",
    "object": "what is",
    "number": "how many",
    "there": "is there",
}
ALL = "all"


def config(seed: int = 0, **recipe: Any) -> RunConfig:
    """Return the config of the run; `recipe` overrides RECIPE, such as steps."""
    return resolve(
        "cg_vlm",
        {"instructions": DATA},
        init="tiny",
        config=METHOD,
        recipe={**RECIPE, **recipe},
        options={"seed": seed},
    )


def train(out: str | Path, *, seed: int = 0, **recipe: Any) -> list[Path]:
    """Train into the folder `out`, or resume there, and return the runs' folders: this one. Raises
    Interrupted after a signal, with the state saved."""
    out = Path(out)
    begun, ended = collectives.broadcast_object(
        ((out / "config.yaml").exists(), (out / "model.json").exists())
    )
    if not ended:
        run(config(seed, **recipe), out, resume=begun)
    return [out]


def scores(model: VisionLMModel) -> dict[str, dict[str, float]]:
    """Return of each kind of question, and of all, the share that is answered exactly, greedily:
    `exact`; without the image, `blind`; and by the most frequent answer to the same question in
    training, `prior`; of `n` questions."""
    source = open_source(ASKED)
    samples = list(map(source.__getitem__, range(len(source))))
    asked = [(sample, each) for sample in samples for each in questions(sample)]
    texts = [each.text for _, each in asked]
    images = [sample.images["main"] for sample, _ in asked]
    greedy = {"strategy": "greedy"}
    given: dict[str, Iterable[str]] = {
        "exact": model.generate(images, texts, **greedy),
        "blind": model.generate(None, texts, **greedy),
        "prior": prior(open_source(KNOWN), texts),
    }
    hits = {
        name: [correct(answer, each) for answer, (_, each) in zip(answers, asked, strict=True)]
        for name, answers in given.items()
    }
    rows: dict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(texts):
        rows[kind(text)].append(at)
    return {
        name: {"n": len(mine)}
        | {each: sum(right[at] for at in mine) / len(mine) for each, right in hits.items()}
        for name, mine in {**{name: rows[name] for name in KINDS}, ALL: range(len(texts))}.items()
        if mine
    }


def prior(source: Source, asked: Sequence[str]) -> list[str]:
    """Return the most frequent answer of a source's questions to each of `asked`; "" if none is the
    same."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in map(source.__getitem__, range(len(source))):
        for each in questions(sample):
            counts[each.text][each.answers[0]] += 1
    return [counts[text].most_common(1)[0][0] if text in counts else "" for text in asked]


def kind(question: str) -> str:
    """Return the kind of a question of the world.

    >>> kind("what is at the top left?"), kind("what is the ground?")
    ('object', 'ground')
    """
    return next(name for name, begins in KINDS.items() if question.startswith(begins))


_CARD = """\
# tiny-vlm

A vision-language model, trained by `make tiny` (method `cg_vlm`): `diptych.load("tiny-vlm")`. It answers questions
about scenes, and knows nothing else. The {patches} patches of `tiny`, which stays as it is, pass an adapter of two
layers and stand before the question in `tiny-lm`, which is trained with it: {trained:.1f} million parameters are
stored here.

## Scores

{n:,} questions about {scenes:,} scenes of the split `test`, answered in words, greedily. `exact`: the answer is the
right one. `blind`: the same model without the image. `prior`: the most frequent answer to the same question in
{known:,} scenes of training.

| question | exact | blind | prior | n |
|---|---|---|---|---|
{rows}

The bar: at least {least:.0%} of all are right.

## Training

{steps:,} steps on `{data}`, from `tiny` and `tiny-lm`, seed {seed}, {minutes:.0f} minutes on {ranks}.
Recipe: {recipe}.
"""


def card(
    model: VisionLMModel,
    found: Mapping[str, Mapping[str, float]],
    trainings: Sequence[Mapping[str, Any]],
    seconds: float,
) -> str:
    """Return the model's card, in Markdown; `trainings` is the training record of the run's
    description."""
    [training] = trainings
    captioner = model.captioner
    assert captioner.own is not None, "the language model is trained whole"
    parts = (captioner.adapter, captioner.own)
    ranks = collectives.world_size()
    return _CARD.format(
        patches=captioner.patches.shape[0],
        trained=sum(value.numel() for part in parts for value in part.parameters()) / 1e6,
        n=found[ALL]["n"],
        scenes=len(open_source(ASKED)),
        known=len(open_source(KNOWN)),
        rows="\n".join(f"| {row} |" for row in _rows(found)),
        least=LEAST,
        steps=training["steps"],
        data=training["data"]["instructions"],
        seed=training["seed"],
        minutes=seconds / 60,
        ranks=f"{ranks} processes of one thread" if ranks > 1 else "one process of one thread",
        recipe=", ".join(
            f"{name} {value}" for name, value in training["recipe"].items() if value is not None
        ),
    )


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return a line for each kind of question: exact, blind, prior, how many."""
    return "\n".join(["question | exact | blind | prior | n", *_rows(found)])


def _rows(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{name} | {row['exact']:.3f} | {row['blind']:.3f} | {row['prior']:.3f} | {row['n']:,}"
        for name, row in found.items()
    ]
