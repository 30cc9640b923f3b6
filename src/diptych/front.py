"""The functions `diptych.train` and `diptych.evaluate` of the Python interface."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate as run_suites
from diptych.methods.base import Recipe
from diptych.methods.store import load
from diptych.models.language import LanguageModel
from diptych.models.model import Model, TextModel
from diptych.training.config import preset_for, resolve
from diptych.training.options import Options
from diptych.training.run import run

_RECIPE = set(Recipe.__dataclass_fields__)
_OPTIONS = set(Options.__dataclass_fields__)


def train(
    method: str,
    data: str | Mapping[str, str],
    out: str | Path,
    *,
    val: str | None = None,
    guard: str | None = None,
    preset: str | None = None,
    init: str | None = None,
    weights: str | Path | None = None,
    added: Sequence[str] = (),
    image_tower: str | None = None,
    text_tower: str | None = None,
    tokenizer: str | None = None,
    embed_dim: int | None = None,
    exportable: str | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    **settings: Any,
) -> Model | Any:
    """Train a method on a source, save the run in the folder `out` and return the model.

    `data` is a source spec, or a mapping of streams to specs. `preset` defaults to `small`, or with
    `init` to `tune` if the method has it. `weights` is the weights file of the foreign model in
    `init`. `guard` is a source of an earlier task: training ends before the accuracy (or recall) on
    it falls by more than `forget`. `config` are the method's options; `added` are other methods
    whose losses are added, such as "multi_view:weight=0.5" (`methods.mix`). `exportable` is a target
    of `export` for which towers are chosen. `settings` are those of
    the recipe (lr, epochs, steps, batch_size, optimizer, …) and of the engine (seed, workers,
    max_bad, …). Raises InputError for an unknown name or option, and for data that does not fit.
    """
    given = {"recipe": {}, "options": {}}
    for name, value in settings.items():
        if name not in _RECIPE | _OPTIONS:
            from diptych.errors import unknown

            raise unknown("setting", name, _RECIPE | _OPTIONS)
        given["recipe" if name in _RECIPE else "options"][name] = value
    streams = {"train": data} if isinstance(data, str) else dict(data)
    resolved = resolve(
        method,
        streams,
        val=val,
        guard=guard,
        preset=preset or preset_for(method, init),
        init=init,
        weights=None if weights is None else str(weights),
        added=added,
        image_tower=image_tower,
        text_tower=text_tower,
        tokenizer=tokenizer,
        embed_dim=embed_dim,
        exportable=exportable,
        config=config,
        **given,
    )
    run(resolved, out, resume=resume, validate=validation, remember=remembered)
    return load(out)


def evaluate(
    model: TextModel | LanguageModel | str | Path,
    data: Source | str,
    suites: Sequence[str] = ("retrieval",),
    **settings: Any,
) -> dict[str, Any]:
    """Run evaluation suites on a model (or a spec for `load`) and a source (or its spec); returns a
    dict per suite."""
    if isinstance(model, str | Path):
        model = load(model)
    if not suites:
        raise InputError("no suite is named; name at least one, such as retrieval")
    return run_suites(
        model, open_source(data) if isinstance(data, str) else data, list(suites), **settings
    )


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
