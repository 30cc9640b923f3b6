"""One cell of a comparison: a method at one size, one budget and one seed, trained and measured."""

import copy
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
    """`method` may include options of the method and of its recipe (`clip:scale=20:lr=0.001`);
    `size` multiplies the widths of the preset's towers; `budget` is the number of samples that
    training reads."""

    method: str
    size: float
    budget: int
    seed: int

    @property
    def row(self) -> str:
        """The description that it shares with the cells of other seeds."""
        return f"{self.method}, width x {self.size:g}, {self.budget:,} samples"

    @property
    def folder(self) -> str:
        """A name for its folder."""
        plain = re.sub(r"[^\w.=+-]", "_", self.method)
        mark = "" if plain == self.method else f"-{sha256(self.method.encode()).hexdigest()[:6]}"
        return f"{plain}{mark}-x{self.size:g}-{self.budget}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Common:
    """Overrides of the presets of all methods in a comparison: towers, tokenizer, dimension of the
    embedding space, and fields of the recipe. A method without an image or text tower ignores that
    tower."""

    image_tower: str | None = None
    text_tower: str | None = None
    tokenizer: str | None = None
    embed_dim: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the given values, as plain values."""
        return json.loads(
            json.dumps({name: value for name, value in asdict(self).items() if value})
        )


@cache
def towers(
    method: str, size: float, image: str | None = None, text: str | None = None
) -> tuple[str, str]:
    """Return the specs of a method's `small` towers, or of those given, with multiplied widths; the
    shared embedding space keeps its dimension.

    Widths are rounded to whole multiples of 8 a head (of 64 if heads follow the width), or of 8 if
    there are no heads. A tower that the method does not have stays absent. Raises InputError for a
    tower that has no width.

    >>> towers("clip", 0.5)[1]
    'text:width=64:depth=1:heads=4:causal=False:pooling=mean:dropout=0.1'
    >>> towers("language_model", 1, image="vit")[0]
    'none'
    """
    from diptych.methods.make import NO_TOWER

    preset = _class(method).preset("small")
    found = []
    for side, own, given in (("image", preset.image, image), ("text", preset.text, text)):
        spec = own if own == NO_TOWER else given or own
        found.append(
            str(parse(spec)) if size == 1 or spec == NO_TOWER else _scaled(spec, side, size)
        )
    return found[0], found[1]


def _class(method: str) -> Any:
    """Return the class of a method that can be trained from scratch. Raises InputError for
    others."""
    from diptych.methods.registry import method_class

    cls = method_class(parse(method).name)
    if cls.adapts:
        raise InputError(
            f"{method} adapts a trained model, and a comparison trains from scratch; run it with "
            f"diptych train {parse(method).name} --init MODEL"
        )
    return cls


def _scaled(spec: str, side: str, size: float) -> str:
    """A spec with another width."""
    from torch import device

    from diptych.towers.build import image_tower, text_tower

    with device("meta"):
        whole = (
            image_tower(spec).spec
            if side == "image"
            else text_tower(spec, vocab_size=64, context=8).spec
        )
    parsed = parse(spec)
    unit = 8 * (whole["heads"] or 8) if "heads" in whole else 8

    def scaled(width: float) -> int:
        return max(1, round(width * size / unit)) * unit

    if "widths" in whole:
        return str(
            Spec(parsed.name, {**parsed.options, "widths": tuple(map(scaled, whole["widths"]))})
        )
    if "width" in whole:
        return str(Spec(parsed.name, {**parsed.options, "width": scaled(whole["width"])}))
    raise InputError(
        f"the {side} tower {spec} has no width to multiply by {size:g}; leave out --sizes"
    )


def resolved(cell: Cell, data: str, samples: int, common: Common = Common()) -> "RunConfig":
    """Return the run of a cell on a source of `samples` samples: the preset `small`, overridden by
    what is common, by the widths, and by the cell's own options.

    Raises InputError for an unknown method or option.
    """
    from diptych.methods.base import Recipe
    from diptych.methods.make import NO_TOWER
    from diptych.training.config import resolve

    named = parse(cell.method)
    find(named.name)
    recipe = {
        key: value for key, value in named.options.items() if key in Recipe.__dataclass_fields__
    }
    for key in ("steps", "epochs"):
        if key in recipe:
            raise InputError(f"{cell.method}: how long to train is the budget's; leave {key} out")
    image, text = towers(cell.method, cell.size, common.image_tower, common.text_tower)
    return resolve(
        named.name,
        {"train": data},
        image_tower=None if image == NO_TOWER else image,
        text_tower=text,
        tokenizer=None if text == NO_TOWER else common.tokenizer,
        embed_dim=common.embed_dim if _class(cell.method).preset("small").embed_dim else None,
        config={key: value for key, value in named.options.items() if key not in recipe},
        recipe={**common.recipe, **recipe, "epochs": cell.budget / samples, "steps": None},
        options={"seed": cell.seed, "quiet": True},
    )


def setting(config: "RunConfig") -> dict[str, Any]:
    """Return the parts of a run that may differ between methods, by their displayed names."""
    from diptych.methods.make import NO_TOWER
    from diptych.training.config import plain
    from diptych.training.optim import title

    texts = config.text_tower != NO_TOWER
    recipe = config.recipe
    return plain(
        {
            "image tower": config.image_tower,
            "text tower": config.text_tower,
            "tokenizer": config.tokenizer if texts else NO_TOWER,
            "dimension": config.embed_dim,
            "augment": dict(config.config.get("augment") or {}),
            **{name.replace("_", " "): getattr(recipe, name) for name in _SHOWN},
            "optimizer": title(recipe.optimizer),
            "betas": recipe.betas,
        }
    )


_SHOWN = (
    "optimizer",
    "lr",
    "weight_decay",
    "schedule",
    "warmup",
    "min_lr",
    "batch_size",
    "clip",
    "ema",
    "precision",
)
"""Fields of the recipe; the length is set by the budget."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The argument of a job: the cell, what is common to all cells, the data for training and test,
    the suites, and the folder of the run. `shorter` are lower budgets of the same cell, whose models
    are kept on the way, each in its own cell's folder beside it."""

    cell: Cell
    shorter: tuple[int, ...] = ()
    common: Common = Common()
    data: str
    test: str
    suites: tuple[str, ...]
    folder: Path


def run(task: Task, say: Callable[[str], None]) -> Row:
    """In a job: train (or resume), measure, and write the row to the folder, beside the model; those
    of lower budgets to their folders, before it."""
    from diptych.data.sources import open_source
    from diptych.methods.store import read_description
    from diptych.training.run import run as train

    clock = _Clock()
    samples = len(open_source(task.data))
    config = resolved(task.cell, task.data, samples, task.common)
    on_the_way = [replace(task.cell, budget=budget) for budget in sorted(task.shorter)]
    folders = {cell: task.folder.with_name(cell.folder) for cell in on_the_way}
    say("training")
    train(
        config,
        task.folder,
        resume=any((task.folder / "state").glob("step-*")),
        keep={cell.budget / samples: folder for cell, folder in folders.items()},
    )
    trained = clock.spent()
    row: Row = {}
    for cell, folder in {**folders, task.cell: task.folder}.items():
        say("measuring")
        steps = read_description(folder)["training"]["steps"]
        row = {
            **asdict(cell),
            **({} if cell == task.cell else {"checkpoint_of": task.cell.budget}),
            **_measured(task, folder),
            **_as_trained(config, steps, samples),
        }
        spent = clock.spent()
        if cell == task.cell:
            spent = {name: spent[name] + trained[name] for name in spent}
        row |= {name: round(value, 3) for name, value in spent.items()}
        row |= {"processor": processor(), "code": code_digest()}
        write_row(folder / "row.json", row)
    shutil.rmtree(task.folder / "state")  # keep the model, remove the state for resuming
    return row


class _Clock:
    """Seconds by the clock and of the processor since the last look; at first, those of the processor
    since the process began."""

    def __init__(self) -> None:
        self.last = {**self._now(), "cpu_seconds": 0.0}

    def _now(self) -> dict[str, float]:
        return {"seconds": time.perf_counter(), "cpu_seconds": sum(os.times()[:4])}

    def spent(self) -> dict[str, float]:
        before, self.last = self.last, self._now()
        return {name: self.last[name] - before[name] for name in before}


def _measured(task: Task, folder: Path) -> Row:
    """The part of a row that is of a trained model."""
    from diptych.data.sources import open_source
    from diptych.evaluation import evaluate
    from diptych.methods.store import load

    model = load(folder)
    results = evaluate(model, open_source(task.test), task.suites)
    return {
        "parameters": sum(parameter.numel() for parameter in delivered(model).parameters()),
        **gflops(model),
        "metrics": numbers(results),
        "protocols": {suite: result["protocol"] for suite, result in results.items()},
    }


def _as_trained(config: "RunConfig", steps: int, samples: int) -> Row:
    """The part of a row that is of the run, whose source has so many samples."""
    from diptych.training.optim import title

    recipe = config.recipe
    return {
        "image_tower": config.image_tower,
        "text_tower": config.text_tower,
        "setting": setting(config),
        "steps": steps,
        "samples": round(steps * samples / math.ceil(samples / recipe.batch_size)),
        "batch_size": recipe.batch_size,
        "optimizer": title(recipe.optimizer),
        "lr": recipe.lr,
        "schedule": recipe.schedule,
        "files": dict(config.files),
    }


def write_row(path: Path, row: Row) -> None:
    """Write a row as a file, atomically."""
    write_atomic(
        path, lambda to: to.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    )


def numbers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of all suites, as `suite/name`."""
    return {
        f"{suite}/{name}": value
        for suite, result in results.items()
        for name, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


_OF_WEIGHTS = ("mm", "addmm", "convolution")


def gflops(model: Any) -> dict[str, float]:
    """Return the forward GFLOPs of a delivered model in training, for one image at the tower's size
    and one text that fills the tokenizer's context, or for the one of the two that it reads:
    `gflops`, and `weight_gflops` of products with weights alone, without those of attention, by
    which published scaling laws count. A captioner reads the text and predicts all of its tokens, in
    each of its passes over it, as these laws count.

    A multiply-add counts as two; torch counts on the meta device, where no fused kernel hides
    operations.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = copy.deepcopy(delivered(model)).to("meta").eval()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        if not hasattr(model, "encoder"):
            module(torch.zeros(1, model.tokenizer.context, dtype=torch.long))
        else:
            _embed_one(model, module)
    counted = {
        str(op).rpartition(".")[2]: n for op, n in counter.get_flop_counts()["Global"].items()
    }
    weights = sum(counted.get(name, 0) for name in _OF_WEIGHTS)
    return {"gflops": counter.get_total_flops() / 1e9, "weight_gflops": weights / 1e9}


def _embed_one(model: Any, module: Any) -> None:
    """Embed one image and one text, of those that an encoder on the meta device reads; `module` has
    it, and writes if it is a captioner."""
    import torch

    encoder = getattr(module, "encoder", module)
    seen = None
    if "image" in encoder.sides:
        seen = encoder.encode_image(torch.zeros(1, *model.preprocess.shape))
        encoder.image_vectors(seen)
    if encoder.text is not None and model.tokenizer is not None:
        context = model.tokenizer.context
        text = torch.zeros(1, context, dtype=torch.long), torch.full((1,), context)
        if hasattr(module, "passes"):
            for tokens in module.passes(*text, seen):
                module.lm.logits(tokens)
        else:
            encoder.embed_texts(*text)


def delivered(model: Any) -> Any:
    """Return the delivered module of a loaded model: a language model, a dual encoder, or a module
    that contains one."""
    if not hasattr(model, "encoder"):
        return model.lm
    return model.encoder if model.delivered is None else model.delivered


def grid(
    methods: Sequence[str], sizes: Sequence[float], budgets: Sequence[int], seeds: Sequence[int]
) -> list[Cell]:
    """Return all cells, seed by seed, so that a run that is stopped early still allows a
    comparison.

    Raises InputError for a list that is empty or has duplicates, and for a size or budget that is
    not above 0.
    """
    lists = {"method": methods, "size": sizes, "budget": budgets, "seed": seeds}
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            raise InputError(
                f"there must be at least one {name}, and each once; given: {', '.join(map(str, values))}"
            )
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
