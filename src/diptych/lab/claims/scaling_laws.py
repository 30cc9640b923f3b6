"""Does a constant learning rate keep the order in which a cosine puts two methods, and does a law of error
over compute show that samples were repeated?

Both methods, `clip` and `mammut`, learn drawn scenes of two things with captions that state all of them, at three
widths, with a convolution for images, the same tokenizer, dimension, batches and held-out scenes. By the
cosine each number of samples is a run of its own. At the constant rate there is one run for each width and
method; its checkpoints are the points. The error is one less the mean reciprocal rank, both of an image's
caption and of a caption's image, which tells runs apart on few scenes better than recall at 1.

    clip, mammut                  the runs at the constant rate
    clip_cosine, mammut_cosine    the runs by the cosine
    constant                      what the constant rate says of the two methods
    unique                        the largest runs, of samples that are seen once
    pool                          the same runs on a 50th of the samples, repeated 50 times

`order_errors` is the share of pairs, a run of clip and a run of mammut of any width and number of samples, that
the two schedules order otherwise. Many pairs are ordered by width and samples alone, so the bound is low: a
schedule that exchanged the two methods in each of the nine cells would have at least 1/9. `same_samples` is the
share among pairs with the same number of samples.

`excess` is how far the largest runs lie above the 95 % interval of the law, 0 where they do not: a mean over
both methods and the runs of the largest width on half of the samples and on all. (Above the law itself, it would
cancel in the difference of pool and unique.) The law of a method is A C^a, fitted to the frontier of its
runs of unique samples with less compute than these, up to about a quarter of the largest; the interval is
the delta method's. `exponent` is the a of the law of all its runs of unique samples. A frontier of fewer than
three runs has no law: exponent and excess are 0 then, and the screen says so.

No crossing of the two laws is claimed, as this range of compute is too short for one. The number of samples is
what the claim is about, so twice the steps are no test of convergence, and none is made.

The block `real` has the authors' runs, 581 of CLIP and 850 of MaMMUT (the pack clip-scaling-runs): laws of the
frontier up to 70 % of its points predict the others. Its outcome on the table itself was seen
beforehand, and the task, segmentation, was chosen by it: on ImageNet top-1 (`rmse_acc1`) the floor makes
the prediction worse. A seed is a resample of the runs, so intervals are of the mean over
resamples of one table, and say nothing of other runs.

    clip, mammut                      the law with a floor E
    clip_no_floor, mammut_no_floor    the law without
    clip_log_t, mammut_log_t          with the floor; its interval takes the logarithm of the t quantile, as released

`rmse` is of the predicted error of mIoU, `covered` the share of points in the law's interval, and `explained` the
share of the variance of the fitted points.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.data.wrap import Only
from diptych.errors import InputError
from diptych.lab.claim import Claim, Floor, Trial, at_most, better
from diptych.lab.compare import cell as cells
from diptych.lab.compare.cell import Cell, Common, Row, Task
from diptych.lab.scaling import Fit, Law, Limits, Runs, fit_law, read_runs
from diptych.lab.scaling.analysis import thresholds
from diptych.lab.scaling.laws import Form
from diptych.lab.statistics import student
from diptych.rng import generator
from diptych.training.run import texts_of

SCENES = "scenes:number=2:same=0:size=32:texts=caption:drop=0"
FIELDS = ("images.main", "texts.caption")
TEST = 500
METHODS = ("clip", "mammut")
IMAGE = "conv:image_size=32:widths=(48,96,192):depths=(1,1,1):pooling=max"
SIZES = (0.25, 0.5, 1.0)
WORDS = "bpe:vocab_size=2048:context=32"
WIDTH = 128  # of the text tower at size 1, and so of the space: mammut has no projection of texts
BATCH = 50
STEPS = (12, 25, 50, 100, 200)
"""At which the runs at the constant rate are measured."""
ENDS = 3
"""How many of the last of them are runs by the cosine."""
HELD_OUT = 2
"""How many of the last of the largest width lie above the runs that the law is fitted to."""
WARMUP = 8  # steps, below the first of STEPS
REPEATS = 50
LAW = Fit(frontier="all", form="power")
# drafts, not tuned
RATES: dict[str, float] = {
    "clip": 4e-3,
    "mammut": 4e-3,
    "clip_cosine": 4e-3,
    "mammut_cosine": 4e-3,
}

Errors = Mapping[tuple[float, int], float]
"""Of the runs of a method, by size and number of samples."""


# ---- runs


def budgets(trial: Trial) -> list[int]:
    """The numbers of samples at which runs are measured."""
    return [BATCH * steps for steps in ((1, 2, 4, 8, 16) if trial.quick else STEPS)]


def draw(trial: Trial) -> dict[str, str]:
    """Write the scenes of the seed: those of which each is seen once, the first of them, which are repeated, and
    the held-out ones; and the tokenizer of all runs, which is learnt from the first."""
    most = budgets(trial)[-1]
    counts = {
        "train": ("train", most),
        "pool": ("train", max(BATCH, most // REPEATS)),
        "test": ("val", TEST // 5 if trial.quick else TEST),
    }
    for name, (split, count) in counts.items():
        scenes = open_source(f"{SCENES}:seed={trial.seed}:split={split}:count={count}")
        write_shards(Only(scenes, FIELDS), trial.folder / name)
    found = {name: f"{trial.folder / name}/*.tar" for name in counts}
    learnt = build(WORDS, texts_of({"train": open_source(found["train"])}))
    words = trial.folder / "words.json"
    words.write_text(json.dumps(learnt.to_dict()), "utf-8")
    return found | {"words": f"saved:{words}"}


def runs(
    trial: Trial,
    like: str,
    *,
    data: str = "train",
    sizes: Sequence[float] = SIZES,
    last: int | None = None,
    rate: float | None = None,
) -> list[Row]:
    """Train and measure the runs of an arm of RATES, and return their rows: at the constant rate one run of each
    size with all its checkpoints, or the `last`; by the cosine ENDS runs of each."""
    method, _, cosine = like.partition("_")
    wanted = budgets(trial)[-(ENDS if cosine else last or len(STEPS)) :]
    folder = trial.folder / f"{like}-{data}"
    for size in sizes:
        common = Common(
            image_tower=IMAGE,
            tokenizer=trial.prelude["words"],
            embed_dim=round(WIDTH * size),
            recipe={
                "lr": RATES[like] if rate is None else rate,
                "schedule": cosine or "constant",
                "warmup": 1 if trial.quick else WARMUP,
                "batch_size": BATCH,
                "ema": None,  # an average would stand in for the decay of the rate
            },
        )
        for budget, shorter in (
            [(each, ()) for each in wanted] if cosine else [(wanted[-1], tuple(wanted[:-1]))]
        ):
            # without augmentation, whose strength follows the share of a run
            cell = Cell(method=f"{method}:augment=None", size=size, budget=budget, seed=trial.seed)
            trial.log(f"{like}, {data}: {cell.row}")
            task = Task(
                cell=cell,
                shorter=shorter,
                common=common,
                data=trial.prelude[data],
                test=trial.prelude["test"],
                suites=("retrieval",),
                folder=folder / cell.folder,
            )
            cells.run(task, lambda line: None)
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*/row.json"))]


def mrr(row: Row) -> float:
    """The mean reciprocal rank of both directions."""
    return float(np.mean([row["metrics"][f"retrieval/{way}_mrr"] for way in ("i2t", "t2i")]))


def as_runs(rows: Sequence[Row]) -> Runs:
    """Rows as runs of a law: compute is that of products with weights."""
    return Runs(
        name=rows[0]["method"],
        metric="mrr",
        compute=np.array([row["weight_gflops"] * row["samples"] for row in rows]),
        samples=np.array([row["samples"] for row in rows], float),
        error=np.array([1 - mrr(row) for row in rows]),
    )


def errors(rows: Sequence[Row]) -> Errors:
    """The errors of rows by their cells."""
    return {(row["size"], row["budget"]): 1 - mrr(row) for row in rows}


# ---- what is said of them


def order_errors(
    cosine: Sequence[Errors], constant: Sequence[Errors], *, same_samples: bool = False
) -> float:
    """The share of pairs of a run of the first method with one of the second, of any two cells of the cosine,
    that the schedules order otherwise. A pair that one of them leaves undecided is ordered otherwise."""
    found = []
    for one in cosine[0]:
        for other in cosine[1]:
            if not same_samples or one[1] == other[1]:
                orders = [np.sign(way[0][one] - way[1][other]) for way in (cosine, constant)]
                found.append(orders[0] != orders[1])
    return float(np.mean(found))


def law_of(found: Runs, trial: Trial) -> Law | None:
    """The law of the frontier of runs; None if it has too few."""
    if len(LAW.points(found.compute, found.error)) < 3:
        trial.log(f"{found.name}: the frontier has fewer than three runs, and so no law")
        return None
    return LAW.law(found.compute, found.error)


def excess(law: Law | None, largest: Runs) -> float:
    """How far runs lie above the 95 % interval of a law, 0 for those that do not: the mean."""
    if law is None:
        return 0.0
    return float(np.maximum(largest.error - law.interval(largest.compute)[1], 0.0).mean())


def exponent(law: Law | None) -> float:
    """The exponent of a law."""
    return 0.0 if law is None else law.parameters["a"]


def grid(trial: Trial) -> dict[str, dict[str, float]]:
    """All arms: the runs of both methods by both schedules and on the pool, and what they say."""
    found: dict[str, dict[str, float]] = {}
    above: dict[str, list[float]] = {"unique": [], "pool": []}
    by: dict[str, list[Errors]] = {"constant": [], "cosine": []}
    for method in METHODS:
        constant = runs(trial, method)
        cosine = runs(trial, f"{method}_cosine")
        pool = runs(trial, method, data="pool", sizes=SIZES[-1:], last=HELD_OUT)
        by["constant"].append(errors(constant))
        by["cosine"].append(errors(cosine))
        unique = as_runs(constant)
        repeated = as_runs(pool)
        beyond = unique.compute >= repeated.compute.min()
        law = law_of(unique.where(~beyond), trial)
        above["unique"].append(excess(law, unique.where(beyond)))
        above["pool"].append(excess(law, repeated))
        found[method] = {
            "mrr": mrr(largest(constant)),
            "exponent": exponent(law_of(unique, trial)),
        }
        found[f"{method}_cosine"] = {"mrr": mrr(largest(cosine))}
    found["constant"] = {
        "order_errors": order_errors(by["cosine"], by["constant"]),
        "same_samples": order_errors(by["cosine"], by["constant"], same_samples=True),
    }
    return found | {name: {"excess": float(np.mean(each))} for name, each in above.items()}


def largest(rows: Sequence[Row]) -> Row:
    """The row of the largest size and number of samples."""
    return max(rows, key=lambda row: (row["size"], row["budget"]))


def trained(
    like: str, *, size: float = SIZES[-1], rate: float | None = None
) -> Callable[[Trial], dict[str, float]]:
    """An arm of tuning: the run of one size with the most samples, at `rate` or that of RATES."""

    def arm(trial: Trial) -> dict[str, float]:
        return {"mrr": mrr(largest(runs(trial, like, sizes=(size,), rate=rate)))}

    return arm


claim = Claim(
    question=(
        "A constant learning rate puts runs of clip and mammut in the order in which a cosine puts them, and the "
        "largest runs on a 50th of the samples, repeated, lie further above the law of cheaper runs than those of "
        "unique samples."
    ),
    prelude=draw,
    arms={
        ("clip", "mammut", "clip_cosine", "mammut_cosine", "constant", "unique", "pool"): grid,
    },
    headline=(
        at_most("order_errors", "constant", 0.1),
        better("excess", "pool", over="unique"),
    ),
    checks=(
        at_most("same_samples", "constant", 0.2),
        better("exponent", "mammut", over="clip", higher=False),
    ),
    delta=0.02,
    looks=(5, 10),
    steps=False,  # the number of samples is the variable
    floor=Floor(
        "mrr",
        chance=0.014,  # the mean of 1 / rank among 500
        arms=("clip", "mammut", "clip_cosine", "mammut_cosine"),
        least=0.4,
    ),
    table=("order_errors", "same_samples", "excess", "exponent", "mrr"),
)


# ---- the authors' runs, seen beforehand

PUBLISHED = Limits(min_compute=1e6, max_samples=1e10, failed=(0.7, 1e11))
FITTED = 0.7  # of the points of the frontier
FORMS: Mapping[str, Form] = {"": "saturating", "_no_floor": "no_floor", "_log_t": "saturating"}


def published() -> Path:
    """The table of the authors' runs. Raises InputError where the pack is not there."""
    path = Path(os.environ.get("DIPTYCH_DATA", ""), "clip-scaling-runs", "runs.csv")
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; set DIPTYCH_DATA to the folder that holds clip-scaling-runs/"
        )
    return path


def resampled(trial: Trial) -> dict[str, dict[str, float]]:
    """All arms of the block `real`: a resample of the runs of each method, and the laws of its frontier."""
    found: dict[str, dict[str, float]] = {}
    for of in read_runs(published(), metrics=["miou", "acc1"], by=["namespace"]):
        used = PUBLISHED.of(of)
        draw = generator(trial.seed, "runs", of.name)  # the same rows for both tasks
        drawn = used.where(draw.integers(0, len(used), len(used)))
        for kind, form in FORMS.items():
            told = predicted(drawn, form, log_t=kind == "_log_t")
            named = found.setdefault(f"{of.name}{kind}", {})
            named |= told if of.metric == "miou" else {"rmse_acc1": told["rmse"]}
    return found


def predicted(drawn: Runs, form: Form, *, log_t: bool) -> dict[str, float]:
    """What a law of the cheaper part of the frontier says of the rest, and of the part itself. `log_t` narrows its
    interval as the released code does."""
    points = drawn.where(Fit().points(drawn.compute, drawn.error))
    cheaper = points.compute <= thresholds(points.compute, (FITTED,))[0]
    part = points.where(cheaper)
    rest = points.where(~cheaper)
    law = fit_law(part.compute, part.error, form)
    missed = np.abs(law(rest.compute) - rest.error)
    half = law.interval(rest.compute)[1] - law(rest.compute)
    if log_t:
        quantile = float(student().ppf(0.975, law.freedom))
        half = half * math.log(quantile) / quantile
    return {
        "rmse": float(np.sqrt(np.mean(missed**2))),
        "covered": float(np.mean(missed <= half)),
        "explained": 1 - law.mse / float(part.error.var()),
    }


real = Claim(
    question=(
        "On the authors' runs, of which this was seen beforehand, a law with a floor predicts the error of "
        "segmentation of larger runs of CLIP within .03, and better than one without."
    ),
    arms={tuple(f"{method}{kind}" for method in METHODS for kind in FORMS): resampled},
    headline=(
        at_most("rmse", "clip", 0.03),
        better("rmse", "clip", over="clip_no_floor", higher=False),
    ),
    checks=(
        better("rmse", "mammut", over="mammut_no_floor", higher=False),
        better("covered", "clip", over="clip_log_t"),
        better("covered", "mammut", over="mammut_log_t"),
    ),
    delta=0.002,
    steps=False,
    floor=Floor("explained", chance=0.0, arms=METHODS, least=0.9),
    table=("rmse", "covered", "rmse_acc1", "explained"),
)
