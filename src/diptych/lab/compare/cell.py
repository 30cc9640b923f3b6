"""One cell of a comparison: a method at one size, one budget and one seed, trained and measured."""

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.errors import InputError
from diptych.files import write_atomic
from diptych.lab.provenance import code_digest, processor
from diptych.methods.registry import find
from diptych.spec import Spec, parse

if TYPE_CHECKING:
    from diptych.training.config import RunConfig

Row = dict[str, Any]
"""A line of results.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`method` may carry options of its own and of its recipe (`clip:scale=20:lr=0.001`); `size` multiplies the widths
    of the preset's towers; `budget` is how many samples training sees."""

    method: str
    size: float
    budget: int
    seed: int

    @property
    def row(self) -> str:
        """What it shares with its other seeds, in words."""
        return f"{self.method}, width x {self.size:g}, {self.budget:,} samples"

    @property
    def folder(self) -> str:
        """A name for its folder."""
        plain = re.sub(r"[^\w.=+-]", "_", self.method)
        mark = "" if plain == self.method else f"-{sha256(self.method.encode()).hexdigest()[:6]}"
        return f"{plain}{mark}-x{self.size:g}-{self.budget}-seed{self.seed}"


@cache
def towers(method: str, size: float) -> tuple[str, str]:
    """The specs of a method's `small` towers with their widths multiplied; the space they share keeps its dimension.

    Widths are rounded to whole multiples of 8 a head (of 64 where heads follow the width), or of 8 where there are no
    heads. Raises InputError for a tower that has no width.

    >>> towers("clip", 0.5)[1]
    'text:width=64:depth=1:heads=4:causal=False:pooling=mean:dropout=0.1'
    """
    from diptych.methods.registry import method_class

    preset = method_class(parse(method).name).presets["small"]
    if size == 1:
        return str(parse(preset.image)), str(parse(preset.text))
    return _scaled(preset.image, "image", size), _scaled(preset.text, "text", size)


def _scaled(spec: str, side: str, size: float) -> str:
    """A spec with another width."""
    from torch import device

    from diptych.towers.build import image_tower, text_tower

    with device("meta"):
        whole = image_tower(spec).spec if side == "image" else text_tower(spec, vocab_size=64, context=8).spec
    parsed = parse(spec)
    unit = 8 * (whole["heads"] or 8) if "heads" in whole else 8

    def scaled(width: float) -> int:
        return max(1, round(width * size / unit)) * unit

    if "widths" in whole:
        return str(Spec(parsed.name, {**parsed.options, "widths": tuple(map(scaled, whole["widths"]))}))
    if "width" in whole:
        return str(Spec(parsed.name, {**parsed.options, "width": scaled(whole["width"])}))
    raise InputError(f"the {side} tower {spec} has no width to multiply by {size:g}; leave out --sizes")


def resolved(cell: Cell, data: str, samples: int) -> "RunConfig":
    """The run of a cell on a source of so many samples: the preset `small`, its widths, the cell's own options.

    Raises InputError for an unknown method or option.
    """
    from diptych.methods.base import Recipe
    from diptych.training.config import resolve

    named = parse(cell.method)
    find(named.name)
    recipe = {key: value for key, value in named.options.items() if key in Recipe.__dataclass_fields__}
    for key in ("steps", "epochs"):
        if key in recipe:
            raise InputError(f"{cell.method}: how long to train is the budget's; leave {key} out")
    image, text = towers(cell.method, cell.size)
    return resolve(
        named.name,
        {"train": data},
        image_tower=image,
        text_tower=text,
        config={key: value for key, value in named.options.items() if key not in recipe},
        recipe={**recipe, "epochs": cell.budget / samples, "steps": None},
        options={"seed": cell.seed, "quiet": True},
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a job is told: the cell, what it trains and is measured on, by which suites, and the folder of its run."""

    cell: Cell
    data: str
    test: str
    suites: tuple[str, ...]
    folder: Path


def run(task: Task, say: Callable[[str], None]) -> Row:
    """In a job: train (or go on), measure, and leave the row in the folder, with the model."""
    from diptych.data.sources import open_source
    from diptych.evaluation import evaluate
    from diptych.methods.store import load
    from diptych.training.run import run as train

    begun = time.perf_counter()
    samples = len(open_source(task.data))
    config = resolved(task.cell, task.data, samples)
    say("training")
    summary = train(config, task.folder, resume=any((task.folder / "state").glob("step-*")))
    model = load(task.folder)
    say("measuring")
    results = evaluate(model, open_source(task.test), task.suites)
    recipe = config.recipe
    row = {
        **asdict(task.cell),
        "image_tower": config.image_tower,
        "text_tower": config.text_tower,
        "parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "gflops": gflops(model),
        "steps": summary.steps,
        "samples": round(summary.steps * samples / math.ceil(samples / recipe.batch_size)),
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "lr": recipe.lr,
        "schedule": recipe.schedule,
        "metrics": numbers(results),
        "protocols": {suite: result["protocol"] for suite, result in results.items()},
        "seconds": round(time.perf_counter() - begun, 3),
        "cpu_seconds": round(sum(os.times()[:4]), 3),
        "processor": processor(),
        "code": code_digest(),
    }
    write_row(task.folder / "row.json", row)
    shutil.rmtree(task.folder / "state")  # it is done: the model stays, what going on would need does not
    return row


def write_row(path: Path, row: Row) -> None:
    """A row as a file, whole or not at all."""
    write_atomic(path, lambda to: to.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8"))


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of all suites, `suite/name`."""
    return {
        f"{suite}/{name}": value
        for suite, result in results.items()
        for name, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def gflops(model: Any) -> float:
    """Forward GFLOPs of a pair: one picture at the tower's size, one text that fills the tokenizer's context.

    A multiply-add counts as two; counted by torch on the meta device, where no kernel hides its products.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from diptych.towers.dual import DualEncoder

    assert model.tokenizer is not None
    size, context = model.preprocess.size, model.tokenizer.context
    with torch.device("meta"):
        encoder = DualEncoder.from_config(model.encoder.config()).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder.embed_images(torch.zeros(1, 3, size, size, dtype=torch.uint8))
            encoder.embed_texts(torch.zeros(1, context, dtype=torch.long), torch.full((1,), context))
    return counter.get_total_flops() / 1e9


def grid(methods: Sequence[str], sizes: Sequence[float], budgets: Sequence[int], seeds: Sequence[int]) -> list[Cell]:
    """All cells, seed by seed, so that a run that is stopped early has compared something.

    Raises InputError for a list that is empty or names a thing twice, and for a size or budget that is not above 0.
    """
    lists = {"method": methods, "size": sizes, "budget": budgets, "seed": seeds}
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            raise InputError(f"there must be at least one {name}, and each once; given: {', '.join(map(str, values))}")
    for name, values in (("size", sizes), ("budget", budgets)):
        for value in values:
            if value <= 0:
                raise InputError(f"the {name} {value:g} is not above 0")
    return [
        Cell(method=method, size=size, budget=budget, seed=seed)
        for seed in seeds
        for size in sizes
        for budget in budgets
        for method in methods
    ]
