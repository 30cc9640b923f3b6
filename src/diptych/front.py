"""The two verbs of the Python interface that join several rooms: `diptych.train` and
`diptych.evaluate`."""

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
from diptych.models.model import Model
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
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    **settings: Any,
) -> Model | Any:
    """Train a method on a source into the folder `out` and return the model, as `load` does.

    `data` is a source spec, or a mapping of streams to specs. `preset` is `small` where nothing
    else is said, or with `init`, where the method has it, `tune`. `weights` is the file of a
    foreign model that `init` names. `guard` is one of what a model could do before: training ends
    before its accuracy (or recall) there falls by more than `forget`. `config` are the method's own
    options, `added` other methods whose losses are added, as "multi_view:weight=0.5"
    (`methods.mix`); `settings` are those of the recipe (lr, epochs, steps, batch_size, optimizer,
    …) and of the engine (seed, workers, max_bad, …). Raises InputError for a name, an option or
    data that does not fit.
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
        config=config,
        **given,
    )
    run(resolved, out, resume=resume, validate=validation, remember=remembered)
    return load(out)


def evaluate(
    model: Model | LanguageModel | str | Path,
    data: Source | str,
    suites: Sequence[str] = ("retrieval",),
    **settings: Any,
) -> dict[str, Any]:
    """Run evaluation suites on a model (or what `load` takes) and a source (or its spec): one dict
    a suite."""
    if isinstance(model, str | Path):
        model = load(model)
    if not suites:
        raise InputError("no suite is named; name at least one, such as retrieval")
    return run_suites(
        model, open_source(data) if isinstance(data, str) else data, list(suites), **settings
    )


def validation(model: Any, source: Source) -> dict[str, float]:
    """What is measured on `--val` after each epoch: recall both ways, a language model's
    perplexity, or whatever else the model says (`models.delivered.Validation`)."""
    wanted = model.validation
    result = run_suites(model, source, [wanted.suite], **wanted.settings)[wanted.suite]
    return {
        f"val/{name}": value
        for name, value in result.items()
        if name.startswith(tuple(wanted.names))
    }


def remembered(model: Any, source: Source) -> float:
    """What `--guard` keeps: accuracy by names where the source names classes, else recall at 1, the
    mean of both."""
    if any(name.startswith("labels.") and field.classes for name, field in source.schema().items()):
        return run_suites(model, source, ["zeroshot"])["zeroshot"]["top1"]
    result = run_suites(model, source, ["retrieval"])["retrieval"]
    return (result["i2t_r1"] + result["t2i_r1"]) / 2
