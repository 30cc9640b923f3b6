"""Does an image tower that reads the question give better answers about dense pages?

Forms of 2 to 26 rows, a key and a value of two letters in each, are squeezed into 18 visual tokens. The
prelude trains a SwinV2 with plain merging and an encoder-decoder to write what pages say. All arms go on
from it with as many steps on the same pages, by masked pieces of their text and then by questions:

    plain       no prompt in the image tower; the language model reads masked pieces and questions
    visfocus    the image tower reads them too: the method
    constant    visfocus, but what the image tower reads is always the same instruction
    no_lmpm     visfocus with questions alone, for the steps of both
    rho1        visfocus, but the language model always reads the masked pieces

`acc_R` is the share of questions about held-out forms of R rows that are answered by the right two
letters, `anls_R` how near answers are in letters, `fall` what is lost of `acc_8` at 24 rows. A gap that grows
with the rows is a smaller `fall`. Who names a value of the page at random has .13 of `acc_8` and .05 of
`acc_24`.

Masked pieces are of 16 tokens, of which a quarter is masked in spans of two on average, since these pages
are shorter than the published ones. The prompt encoder is `tiny-lm`.

The rates, sizes and delta are drafts: they were not tuned yet.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.shards import write_shards
from diptych.data.sources import open_source
from diptych.evaluation import evaluate
from diptych.lab.claim import Claim, Floor, Rates, Trial, best, better, not_worse
from diptych.methods.base import Method
from diptych.methods.fuse.visfocus.reader import PageReader
from diptych.methods.store import load
from diptych.training.config import resolve
from diptych.training.run import run

HEIGHT = 288
WIDTH = 64
PAGES = f"pages:kind=form:width={WIDTH}:height={HEIGHT}:length=2"
LEARNT = 3000
MEASURED = 400  # pages of a number of rows, with one question each
ROWS = (8, 24)
TOWER = f"visfocus.swin:image_size=({HEIGHT},{WIDTH}):width=24:heads=2:depths=(1,1,1,1):window=8"
TEXT = "text:width=96:depth=2:heads=4"
TOKENIZER = "bpe:vocab_size=512:context=128:special=extra_id_0-extra_id_9"
MASKED = {"snippet": 16, "density": 0.25, "span": 2.0}
STEPS = {"read": 600, "lmpm": 300, "answer": 300}
BATCH = 32
READ_RATE = 2e-3
# to be filled with means of `acc_24` on seeds 100 and 101
RATES: dict[str, Rates] = {}
RATE = 1e-3


def begin(trial: Trial) -> dict[str, str]:
    """Write the pages of the seed as shards, and train the model that reads them; their places."""
    count = LEARNT // 30 if trial.quick else LEARNT
    asked = MEASURED // 20 if trial.quick else MEASURED
    specs = {"pages": f"{PAGES}:questions=4:count={count}"}
    for rows in ROWS:
        specs[f"rows_{rows}"] = f"{PAGES}:lines={rows}:split=test:count={asked}"
    places = {}
    for name, spec in specs.items():
        write_shards(open_source(f"{spec}:seed={trial.seed}"), trial.folder / name)
        places[name] = f"{trial.folder / name}/*.tar"
    settings = resolve(
        "visfocus",
        {"train": places["pages"]},
        image_tower=TOWER,
        text_tower=TEXT,
        tokenizer=TOKENIZER,
        config={"task": "read"},
        recipe=recipe(trial, "read", READ_RATE),
        options={"seed": trial.seed, "quiet": True},
    )
    run(settings, trial.folder / "read")
    return {**places, "read": str(trial.folder / "read")}


def recipe(trial: Trial, stage: str, rate: float, steps: int = 0) -> dict[str, Any]:
    """The recipe of a stage, of as many steps as it has unless others are given."""
    return {
        "steps": trial.steps(steps or STEPS[stage], quick=3),
        "lr": rate,
        "batch_size": 8 if trial.quick else BATCH,
    }


def trained(
    *,
    prompted: tuple[int, ...] = (1, 2, 3, 4),
    lmpm: bool = True,
    rho: float = 0.5,
    constant: bool = False,
    like: str = "visfocus",
    rate: float | None = None,
) -> Callable[[Trial], dict[str, float]]:
    """An arm at its rate, or the best one of the arm `like`: the model of the prelude, which goes on by
    masked pieces and by questions."""

    def arm(trial: Trial) -> dict[str, float]:
        scores = RATES.get(like)
        lr = rate or (best(scores) if scores else RATE)
        change = unasked if constant else None
        config = {"prompted": prompted, "rho": rho, **MASKED}
        start = trial.prelude["read"]
        pages = trial.prelude["pages"]
        options = {"seed": trial.seed, "quiet": True}
        if lmpm:
            settings = resolve(
                "visfocus",
                {"train": pages},
                init=start,
                config={"task": "lmpm", **config},
                recipe=recipe(trial, "lmpm", lr),
                options=options,
            )
            start = str(trial.folder / "lmpm")
            run(settings, Path(start), change=change)
        settings = resolve(
            "visfocus",
            {"questions": pages},
            init=start,
            config={"task": "answer", **config},
            recipe=recipe(trial, "answer", lr, STEPS["answer"] + (not lmpm) * STEPS["lmpm"]),
            options=options,
        )
        run(settings, trial.folder / "answer", change=change)
        model: Any = load(trial.folder / "answer")
        if constant:
            read_alike(model.captioner)
        return measured(trial, model)

    return arm


def unasked(method: Method) -> None:
    """Have the image tower of a method read the instruction in place of every prompt."""
    assert isinstance(method.model, PageReader)
    read_alike(method.model)


def read_alike(reader: PageReader) -> None:
    """Have the image tower of a reader read the instruction in place of every prompt."""
    states = reader._states
    prompts = reader.prompts
    assert prompts is not None, "its image tower reads prompts"
    texts = [reader.instruction]
    rows = reader.vision_rows(reader.rows(texts), texts)

    def alike(vision: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
        if vision is None:
            return states(None)
        count = len(vision[0])
        ids, lengths = reader._ids(rows, prompts.tokenizer)
        return states((ids.expand(count, -1), lengths.expand(count)))

    reader._states = alike  # type: ignore[method-assign]


def measured(trial: Trial, model: Any) -> dict[str, float]:
    """Return the accuracy of answers by the number of rows."""
    found = {}
    for rows in ROWS:
        source = open_source(trial.prelude[f"rows_{rows}"])
        answers = evaluate(model, source, ["answers"], anls=True)["answers"]
        found[f"acc_{rows}"] = answers["exact"]
        found[f"anls_{rows}"] = answers["anls"]
    few, many = (found[f"acc_{rows}"] for rows in ROWS)
    return {**found, "fall": few - many}


claim = Claim(
    question=(
        "With an image tower that reads the question, more questions about forms of 24 rows are answered than with one "
        "that does not."
    ),
    prelude=begin,
    arms={
        "plain": trained(prompted=(), like="plain"),
        "visfocus": trained(),
        "constant": trained(constant=True),
        "no_lmpm": trained(lmpm=False),
        "rho1": trained(rho=1.0),
    },
    headline=(better("acc_24", "visfocus", over="plain"),),
    mechanism=("constant",),
    checks=(
        better("fall", "visfocus", over="plain", higher=False),
        not_worse("acc_8", "visfocus", than="plain", margin=0.02),
        better("anls_24", "visfocus", over="plain"),
        better("acc_24", "visfocus", over="no_lmpm"),
        better("acc_24", "visfocus", over="rho1"),
    ),
    delta=0.02,
    rates=RATES,
    floor=Floor("acc_8", chance=0.13, arms=("plain", "visfocus"), least=0.3),
    table=(*(f"acc_{rows}" for rows in ROWS), *(f"anls_{rows}" for rows in ROWS), "fall"),
)
