"""Does the contrast with the word table let a language model answer about images from few instructions?

`tiny`, frozen, sees scenes of two things; of its patches 16 cells are computed once. `tiny-lm` has
learnt to answer questions from descriptions (`reading`, which is measured first), and has seen no image.
Each arm learns an adapter from captions with as many steps from the same start, then the same
instruction of adapter and language model, once for each fraction of the scenes with questions.

    lg           captions alone
    both         captions and the contrast: the method
    shuffled     the contrast with captions of other images
    lc           the contrast alone
    raw          the contrast with normalised means of raw embeddings, in place of means of cosines
    reader       no image: `tiny-lm` with descriptions

`acc_F` is the share of questions whose right answer is the most probable of two to four, by F % of the
scenes. `aligned` is the same before instruction. `selectivity` is that of the aligned adapter: the
cosine of positions on a thing with its own word, less that with the word of the other. `blind` is the
accuracy of the model instructed by all scenes without the images.

Each arm is instructed by the fractions that it is judged by.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.sample import Source
from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.wrap import Only
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better, not_worse
from diptych.lab.tiny_lm import reading
from diptych.methods.base import At, Batches, Features, Losses
from diptych.methods.fuse.cg_vlm import own_tokens
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

SCENES = "scenes:number=2:same=0:size=64"
TEXTS = {"captions": "caption", "questions": "question"}
LEARNT = 4000  # scenes of each kind
MEASURED = 250  # scenes of four questions each
CHANCE = 0.285
ALIGN = 200
INSTRUCT: Mapping[int, int] = {5: 60, 10: 80, 100: 200}
"""Steps of instruction by the percentage of scenes."""
BATCH = 64
# of alignment, to be filled with means of `acc_5` on seeds 100 and 101
RATES: dict[str, Rates] = {}
RATE = 2e-3
INSTRUCT_RATE = 1e-3

Change = Callable[[Any], None]


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed as shards, of captions and of questions; sources by name."""
    count = LEARNT // 20 if trial.quick else LEARNT
    places = {}
    for number, (name, role) in enumerate(TEXTS.items()):
        start = number * count
        spec = f"{SCENES}:texts={role}:drop=0:seed={trial.seed}:start={start}:count={count}"
        roles = ("caption",) if role == "caption" else ("question", "answer")
        fields = ("images.main", *(f"texts.{each}" for each in roles))
        write_shards(Only(open_source(spec), fields), trial.folder / name)
        places[name] = f"{trial.folder / name}/*.tar"
    return places


def held_out(trial: Trial) -> Source:
    """Scenes that no arm has learnt from, with questions and boxes."""
    count = 20 if trial.quick else MEASURED
    return open_source(f"{SCENES}:texts=question:seed={trial.seed}:split=val:count={count}")


def trained(
    contrast: float = 1.0,
    change: Change | None = None,
    *,
    percents: Sequence[int] | None = None,
    like: str = "both",
    rate: float | None = None,
    instruct_rate: float = INSTRUCT_RATE,
) -> Callable[[Trial], dict[str, float]]:
    """An arm: alignment with this weight of the contrast at its rate, or the best one of the arm `like`, and
    instruction by some fractions, by default all."""

    def arm(trial: Trial) -> dict[str, float]:
        source = held_out(trial)
        start = trial.folder / "aligned"
        scores = RATES.get(like)
        lr = rate or (best(scores) if scores else RATE)
        captions = {"train": trial.prelude["captions"]}
        learnt(trial, start, captions, lr, change, contrast=contrast)
        model: Any = load(start)
        found = {
            "aligned": accuracy(model, source),
            "selectivity": evaluate(model, source, ["selectivity"])["selectivity"]["selectivity"],
        }
        for percent in percents or INSTRUCT:
            folder = trial.folder / f"instructed-{percent}"
            data = {"instructions": trial.prelude["questions"]}
            options = {"fraction": percent / 100, "draw": trial.seed}
            learnt(
                trial,
                folder,
                data,
                instruct_rate,
                None,
                init=str(start),
                percent=percent,
                **options,
            )
            model = load(folder)
            found[f"acc_{percent}"] = accuracy(model, source)
            if percent == 100:
                found["blind"] = accuracy(model, source, blind=True)
        return found

    return arm


def learnt(
    trial: Trial,
    folder: Any,
    data: Mapping[str, str],
    rate: float,
    change: Change | None,
    *,
    init: str = "tiny",
    percent: int | None = None,
    **config: Any,
) -> None:
    """Train a stage into a folder at a rate: alignment, or the instruction by a percentage of scenes."""
    steps = ALIGN if percent is None else INSTRUCT[percent]
    scenes = len(open_source(next(iter(data.values()))))
    read = scenes if percent is None else round(percent / 100 * scenes)
    settings = resolve(
        "cg_vlm",
        data,
        init=init,
        config={
            "lm": "tiny-lm",
            "grid": 4,
            "turns": 2,
            "instruction": {},  # a run of its own has the rate of the run
            "cached": percent in (None, 100),  # of fewer scenes most would be in vain
            **config,
        },
        recipe={
            "steps": trial.steps(steps, quick=3),
            "batch_size": min(BATCH, max(read, 1)),
            "lr": rate,
        },
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, folder, change=change)


def accuracy(model: Any, source: Source, *, blind: bool = False) -> float:
    """The share of questions whose right answer is the most probable of the choices; with `blind` without
    the images."""
    found = evaluate(model, source, ["answers"], by="log_prob", blind=blind)["answers"]
    return found["blind_chosen" if blind else "chosen"]


def reader(trial: Trial) -> dict[str, float]:
    """The language model before it has seen an image, on questions about descriptions."""
    return {"reading": reading(load("tiny-lm"))["chosen"]}


# ---- what the ablations change


def shuffled(method: Any) -> None:
    """Give the contrast the captions of other images."""
    loss = method.loss

    def other(features: Features, batch: Batches, at: At) -> Losses:
        if "text" in features:
            features = {**features, "text": features["text"].roll(1, 0)}
        return loss(features, batch, at)

    method.loss = other


def contrast_alone(method: Any) -> None:
    """Leave the log-loss of captions out."""
    loss = method.loss

    def other(features: Features, batch: Batches, at: At) -> Losses:
        found = loss(features, batch, at)
        terms = {name: term for name, term in found.terms.items() if name != "captions"}
        return Losses(terms, found.logged)

    method.loss = other


def raw_means(method: Any) -> None:
    """Average the embeddings as they are, and normalise the mean."""

    def other(batch: Batch) -> Tensor:
        ids, real = own_tokens(batch, method.model.words)
        rows = method.model.lm.table(ids).detach() * real[..., None]
        mean = rows.sum(1)  # the length of a sum is normalised away
        return mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    method._text = other


claim = Claim(
    question=(
        "Aligned by captions and by the contrast with the word table, a language model answers more questions about "
        "images than by captions alone where it is instructed by 5 or 10 % of the data, and no fewer by all of it."
    ),
    prelude=draw,
    arms={
        "reader": reader,
        "lg": trained(contrast=0.0, like="lg"),
        "both": trained(),
        "shuffled": trained(change=shuffled, percents=(5,)),
        "lc": trained(change=contrast_alone, percents=(100,)),
        "raw": trained(change=raw_means, percents=(5,)),
    },
    headline=(
        better("acc_5", "both", over="lg"),
        better("acc_10", "both", over="lg"),
        not_worse("acc_100", "both", than="lg", margin=0.02),
    ),
    mechanism=("shuffled",),
    checks=(
        better("selectivity", "both", over="lg"),
        better("acc_5", "both", over="raw"),
        better("acc_100", "both", over="lc"),
    ),
    delta=0.02,
    rates=RATES,
    floor=Floor("acc_100", chance=CHANCE, arms=("lg", "both")),
    table=("aligned", "acc_5", "acc_10", "acc_100", "blind", "selectivity", "reading"),
)
