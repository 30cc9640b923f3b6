"""Does a search for update rules find one that trains better than AdamW, on a task that it has not seen?

CLIP with a small convolution and one layer of text. `diptych discover` searches on short runs on scenes of one
shape, and chooses among the best on runs of three times the steps on other scenes. The programs are then judged
on another task: images of two things of twenty kinds, wider towers, five times the steps, other seeds. On it each
program, AdamW included, has the best of three or more rates by one run; the runs that count are two others.

    adamw       AdamW, with the rate that is best in the search's task
    evolution   the result of the search: evolution, the longer task, simplification
    unselected  the program of the same search with the least loss in the search's task
    random      the result of as many evaluations of AdamW after 1 to 10 changes, chosen and simplified alike

`nats` is by how much the contrastive loss on held-out images, in batches of 64, is below that of chance; 0 for
a run that diverged. `statements` is the length of a program, `rate` its best rate.

Both searches are a prelude, with as many evaluations for each; doubling the steps doubles those of the task that
is judged. Not asked: whether the program is Lion, and how a program does on data of another kind.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean

from diptych.data.sources import open_source
from diptych.lab.claim import Claim, Floor, Trial, better
from diptych.lab.discover import Discovery, Size, discover
from diptych.lab.discover.evolve import Kind, Settings
from diptych.lab.discover.select import NEARBY, best_rate
from diptych.lab.discover.task import Task
from diptych.training.config import RunConfig, resolve
from diptych.training.programs.program import parse

SEARCHED = "scenes:number=1:size=32:objects=shapes:texts=caption"
JUDGED = "scenes:number=2:same=0:size=32:texts=caption"
LEARNT = 1280
HELD = 256
STEPS = 24
LONGER = Size(3)
EVALUATIONS = 100
PATIENCE = 40
JUDGED_STEPS = 5 * STEPS
SEEDS = (11, 12)  # of the runs that count; one with the seed 10 chooses the rate
WIDTHS = {"searched": (16, 32), "judged": (24, 48)}
BATCH = 64
RATE = 2e-3


def task(trial: Trial, part: str, steps: int) -> RunConfig:
    """Return the run of a part, `searched` or `judged`."""
    first, last = WIDTHS[part]
    count = LEARNT // 5 if trial.quick else LEARNT
    world = SEARCHED if part == "searched" else JUDGED
    return resolve(
        "clip",
        {"train": f"{world}:seed={trial.seed}:count={count}"},
        image_tower=f"conv:image_size=16:widths=({first},{last}):depths=(0,1):pooling=max",
        text_tower=f"text:width={last}:depth=1:heads=2:causal=false:pooling=mean",
        tokenizer="bpe:vocab_size=512:context=24",
        embed_dim=last,
        config={"augment": None},
        recipe={"steps": steps, "batch_size": BATCH, "lr": RATE, "ema": None},
        options={"quiet": True},
    )


def held(trial: Trial, world: str, split: str) -> str:
    """Return the spec of held-out scenes."""
    count = BATCH if trial.quick else HELD
    return f"{world}:seed={trial.seed}:split={split}:count={count}"


def searched(trial: Trial, kind: Kind) -> Discovery:
    """Search for a program on the short task."""

    @contextmanager
    def progress(what: str) -> Iterator[Callable[[int, int], None]]:
        trial.log(f"{kind}: {what}")
        yield lambda done, total: None

    return discover(
        task(trial, "searched", 4 if trial.quick else STEPS),
        trial.folder / kind,
        held=held(trial, SEARCHED, "val"),
        test=held(trial, SEARCHED, "test"),
        settings=Settings(
            kind=kind,
            evaluations=6 if trial.quick else EVALUATIONS,
            seed=trial.seed,
            patience=PATIENCE,
        ),
        sizes=(LONGER,),
        progress=progress,
    )


def search(trial: Trial) -> dict[str, str]:
    """Return the programs of all arms as text."""
    evolved = searched(trial, "evolution")
    drawn = searched(trial, "random")
    best, *found, adamw = evolved.rows
    return {
        "adamw": adamw["text"],
        "evolution": best["text"],
        "unselected": min(found, key=lambda row: row["proxy"])["text"],
        "random": drawn.rows[0]["text"],
    }


def judged(name: str, *, rate: float | None = None) -> Callable[[Trial], Mapping[str, float]]:
    """An arm: a program on the other task, at its best rate or a given one."""

    def arm(trial: Trial) -> Mapping[str, float]:
        program = trial.prelude[name]
        config = task(trial, "judged", trial.steps(JUDGED_STEPS, quick=4))
        test = open_source(held(trial, JUDGED, "test"))
        base = Task(config, open_source(config.data["train"]), test)

        def loss(rate: float, seed: int) -> float:
            recipe = replace(config.recipe, lr=rate)
            other = base.another(replace(config, recipe=recipe), test)
            return other.measure(program, seed).loss

        def report(done: int, total: int) -> None:
            trial.log(f"{name}: rate {done} of {total}")

        grid = [float(f"{RATE * times:.2g}") for times in NEARBY]
        chosen = rate or best_rate(grid, lambda each: loss(each, SEEDS[0] - 1), report)
        return {
            "nats": fmean(below_chance(loss(chosen, seed)) for seed in SEEDS),
            "rate": chosen,
            "statements": len(parse(program).statements),
        }

    return arm


def below_chance(loss: float) -> float:
    """Return by how much a loss is below that of chance, 0 for one that is not.

    >>> below_chance(math.log(BATCH) - 1), below_chance(math.inf)
    (1.0, 0.0)
    """
    return max(math.log(BATCH) - loss, 0.0)


claim = Claim(
    question=(
        "A search for update rules finds a program that trains better than tuned AdamW, and than the result of random "
        "search of as many evaluations, on a task that was not searched on."
    ),
    prelude=search,
    arms={name: judged(name) for name in ("adamw", "evolution", "unselected", "random")},
    headline=(
        better("nats", "evolution", over="adamw"),
        better("nats", "evolution", over="random"),
    ),
    mechanism=("unselected",),
    delta=0.1,
    floor=Floor("nats", chance=0.0, arms=("adamw", "evolution", "random"), least=0.3),
    table=("nats", "rate", "statements"),
)
