"""`diptych.train`, and the run that it returns."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from diptych import collectives
from diptych.data.sample import Source
from diptych.data.sources import DataLike, open_source
from diptych.errors import InputError, unknown
from diptych.evaluation import evaluate as run_suites
from diptych.front.loading import load
from diptych.lab import run_report
from diptych.methods.base import Recipe
from diptych.methods.registry import name_of
from diptych.models.model import Model
from diptych.results import Tabular
from diptych.spec import as_names
from diptych.training.config import preset_for, read, resolve
from diptych.training.log import read_log
from diptych.training.options import Options
from diptych.training.run import run

log = logging.getLogger(__name__)

_RECIPE = set(Recipe.__dataclass_fields__)
_OPTIONS = set(Options.__dataclass_fields__)


class Settings(TypedDict, total=False):
    """The settings of `train`: the fields of the recipe (`methods.base.Recipe`), then those of the
    engine (`training.options.Options`)."""

    optimizer: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: str
    warmup: float
    min_lr: float
    epochs: float
    steps: int | None
    batch_size: int
    clip: float | None
    ema: float | None
    precision: Literal["float32", "bfloat16"]
    chunk: int | None
    select: str | None
    patience: int | None
    keep: Literal["best", "last"]
    seed: int
    workers: int
    max_bad: float
    save_every: int
    nonfinite: Literal["stop", "skip"]
    spike: float | None
    forget: float
    shard: bool
    quiet: bool
    tracker: Literal["tensorboard", "wandb", "trackio"] | None


class Run(Tabular):
    """A run in a folder, as `diptych train` and `diptych.train` write it, finished or not.

    Raises InputError if the folder holds no run.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.yaml").is_file():
            raise InputError(f"{folder} holds no run; name a folder that diptych train made")
        self.title = str(folder)

    def __repr__(self) -> str:
        steps = len(self.steps)
        return f"Run({str(self.folder)!r}: {self.config['method']}, {steps:,} steps)"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every option of the run."""
        return read(self.folder / "config.yaml")

    @cached_property
    def model(self) -> Model | Any:
        """The model, as `diptych.load` returns it. Raises InputError if the run is unfinished."""
        return load(self.folder)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: one for each step, and events such as "validation"."""
        return read_log(self.folder / "metrics.jsonl")

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of the history that are steps."""
        return [line for line in self.history if "event" not in line]

    @property
    def validations(self) -> list[dict[str, Any]]:
        """The lines of the history that are validations."""
        return [line for line in self.history if line.get("event") == "validation"]

    def records(self) -> list[dict[str, Any]]:
        """A row for each epoch: its last step, and its validation."""
        rows: dict[tuple[Any, Any], dict[str, Any]] = {}
        for line in self.steps:
            rows[line["stage"], line["epoch"]] = dict(line)
        ends = {row["done"]: row for row in rows.values()}
        for line in self.validations:
            row = ends.setdefault(line["done"], {"done": line["done"]})
            row |= {name: value for name, value in line.items() if name.startswith("val/")}
        return [ends[done] for done in sorted(ends)]

    def plot(self) -> Any:
        """The loss of each step, and the validation after each epoch, as a `matplotlib` figure.

        Raises InputError if matplotlib is missing.
        """
        try:
            from diptych.front._curves import curves
        except ImportError:
            raise InputError(
                "plot needs matplotlib; install it with pip install 'diptych[lab]'"
            ) from None
        return curves(self.steps, self.validations)


def train(
    method: str | Path,
    data: DataLike | Mapping[str, DataLike],
    out: str | Path,
    *,
    val: DataLike | None = None,
    guard: DataLike | None = None,
    preset: str | None = None,
    init: str | None = None,
    weights: str | Path | None = None,
    added: str | Sequence[str] = (),
    adapt: str | None = None,
    image_tower: str | None = None,
    text_tower: str | None = None,
    tokenizer: str | None = None,
    embed_dim: int | None = None,
    exportable: str | None = None,
    config: Any = None,
    resume: bool = False,
    **settings: Unpack[Settings],
) -> Run:
    """Train a method on data, save the run and its report in the folder `out`, and return it; its
    `model` is what was trained.

    - `method` is a name, or the path of a method's file.
    - `data` is a source spec, data of the program (`data.sources.python`), or a mapping of streams
      to these.
    - `preset` defaults to `small`, or with `init` to `tune` if the method has it.
    - `weights` is the weights file of the foreign model in `init`.
    - `guard` is data of an earlier task: once the accuracy (or recall) on it has dropped by more than
      `forget`, training stops and restores the weights of the previous check.
    - `config` are the method's options, as a mapping or as its `Config`.
    - `added` are other methods whose losses are added, such as "multi_view:weight=0.5"
      (`methods.mix`); `adapt` is what is trained in place of the towers' weights, such as "lora:r=8"
      (`methods.adapters`); `exportable` is a target of `export` for which towers are chosen.
    - `settings` are those of the recipe (lr, epochs, steps, batch_size, optimizer, …) and of the
      engine (seed, workers, max_bad, …).

    Raises InputError for an unknown name or option, and for data that does not fit.
    """
    given = {"recipe": {}, "options": {}}
    for name, value in settings.items():
        if name not in _RECIPE | _OPTIONS:
            raise unknown("setting", name, _RECIPE | _OPTIONS)
        given["recipe" if name in _RECIPE else "options"][name] = value
    method = name_of(method)
    streams = data if isinstance(data, Mapping) else {"train": data}
    given_data = {f"data.{stream}": each for stream, each in streams.items()}
    given_data |= {"val": val, "guard": guard}
    sources = {
        place: open_source(each)
        for place, each in given_data.items()
        if each is not None and not isinstance(each, str | Path)
    }

    def spec(place: str) -> str | None:
        held = sources.get(place)
        named = given_data[place]
        return f"python:{held.name}" if held else None if named is None else str(named)

    resolved = resolve(
        method,
        {stream: str(spec(f"data.{stream}")) for stream in streams},
        val=spec("val"),
        guard=spec("guard"),
        preset=preset or preset_for(method, init),
        init=init,
        weights=None if weights is None else str(weights),
        added=[name_of(each) for each in as_names(added)],
        adapt=adapt,
        image_tower=image_tower,
        text_tower=text_tower,
        tokenizer=tokenizer,
        embed_dim=embed_dim,
        exportable=exportable,
        config=_options(config),
        **given,
    )
    run(resolved, out, resume=resume, validate=validation, remember=remembered, sources=sources)
    if collectives.rank() == 0:
        write_report(out, sources.get("val"))
    return Run(out)


def _options(config: Any) -> Mapping[str, Any] | None:
    """Return the options that are given as a mapping or a `Config`."""
    if config is None or isinstance(config, Mapping):
        return config
    if not is_dataclass(config) or isinstance(config, type):
        raise InputError(
            f"config is {config!r}; give the method's options as a mapping, such as config={{'margin': 0.3}}, or as "
            "its Config"
        )
    return {field.name: getattr(config, field.name) for field in fields(config)}


def write_report(out: str | Path, val: Source | None = None) -> bool:
    """Write report.html of a run, and return whether it was written; log what keeps it from being
    written, since the run is complete without it."""
    try:
        run_report.write(Path(out), val)
    except InputError as error:
        log.warning("no report is written: %s", error)
        return False
    return True


def validation(model: Any, source: Source) -> dict[str, float]:
    """The validation metrics on `--val` after each epoch, as set by the model
    (`models.delivered.Validation`): recall in both directions, a language model's perplexity, or
    others."""
    wanted = model.validation
    result = run_suites(model, source, [wanted.suite], **wanted.settings)[wanted.suite]
    return {
        f"val/{name}": value
        for name, value in result.items()
        if name.startswith(tuple(wanted.names))
    }


def remembered(model: Any, source: Source) -> float:
    """The metric of `--guard`: zero-shot accuracy if the source has named classes, else recall at
    1, the mean of both directions."""
    if any(name.startswith("labels.") and field.classes for name, field in source.schema().items()):
        return run_suites(model, source, ["zeroshot"])["zeroshot"]["top1"]
    result = run_suites(model, source, ["retrieval"])["retrieval"]
    return (result["i2t_r1"] + result["t2i_r1"]) / 2
