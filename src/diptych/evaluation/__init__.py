"""Evaluation: one suite per file in the folder `suites`; every result contains the id of its
protocol.

A suite file starts with a literal `card` (title; needs: the fields it reads; abilities: the model's
methods it calls; one_side: the setting, if any, with which `ready` checks these two) and has a
function with the file's name, `suite(model, source, *, progress=None, …) -> dict`. Cards are read
without importing torch. Checks that depend on settings are in the
file's `ready(model, source, *, …)`, if it has one, which is called before any suite computes. A
suite of the user's own is named by its file, `FILE.py`, and may leave out the protocol.

In a result `chance_NAME` is the value of NAME at chance level, and `by_NAME` is a table: row ->
column -> number.
"""

import ast
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from diptych.data.sample import Source, lost_samples
from diptych.errors import InputError, unknown
from diptych.evaluation.protocol import describe, protocol_of
from diptych.files import python_file, run_module
from diptych.methods.abilities import require
from diptych.renamed import refuse
from diptych.results import Tabular
from diptych.spec import as_names


@lru_cache(maxsize=1)
def cards() -> dict[str, dict[str, Any]]:
    """Return the card of every suite, by name.

    >>> cards()["sts"]["needs"]
    ['texts', 'labels']
    """
    found = {}
    for path in sorted((Path(__file__).parent / "suites").glob("[a-z]*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "card":
                found[path.stem] = ast.literal_eval(node.value)
    return found


class Evaluation(Tabular, dict[str, dict[str, Any]]):
    """The results of suites: suite -> name -> value."""

    def records(self) -> list[dict[str, Any]]:
        """A row for each number, beside its value at chance level."""
        return [
            {
                "suite": suite,
                "measure": name,
                "value": value,
                "chance": result.get(f"chance_{name}"),
            }
            for suite, result in self.items()
            for name, value in result.items()
            if isinstance(value, int | float) and not name.startswith("chance_")
        ]


def evaluate(
    model: Any,
    source: Source,
    suites: str | Sequence[str] = ("retrieval",),
    *,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Evaluation:
    """Run suites on a model that has their abilities, and return one dict of results for each
    suite.

    Each suite gets the `settings` that it accepts (batch_size, ks, templates, …); `progress(done,
    total)` is called as each suite proceeds. Before anything is computed, raises InputError for an
    unknown suite or setting, a field that the source lacks, or an ability that the model lacks.
    """
    functions = check(model, source, as_names(suites), **settings)
    found = Evaluation()
    for name, function in functions.items():
        taken = _taken(function, settings)
        result = function(model, source, progress=progress, **taken)
        if name.endswith(".py"):
            result = _described(name, model, source, taken) | dict(result)
        if lost := lost_samples(source):
            result["bad"] = dict(lost + Counter(result.get("bad", {})))
        found[name] = result
    found.title = source.name
    return found


def check(
    model: Any, source: Source, suites: Sequence[str], **settings: Any
) -> dict[str, Callable[..., Any]]:
    """Return the functions of suites that can run on a model and a source; raises as `evaluate`
    does, and computes nothing."""
    known = cards()
    refuse("suite", suites)
    for name in suites:
        if name not in known and not name.endswith(".py"):
            raise unknown("suite", name, known)
    modules = {name: _module(name) for name in suites}
    known = known | {name: modules[name].card for name in modules if name not in known}
    functions = {name: getattr(module, Path(name).stem) for name, module in modules.items()}
    takes = set().union(
        *(inspect.signature(function).parameters for function in functions.values())
    )
    for setting in settings:
        if setting not in takes - {"model", "source", "progress"}:
            raise unknown("evaluation setting", setting, takes - {"model", "source", "progress"})
    for name, module in modules.items():
        one_side = settings.get(known[name].get("one_side", "")) is not None
        _ready(name, {"needs": (), "abilities": ()} if one_side else known[name], model, source)
        if hasattr(module, "ready"):
            module.ready(model, source, **_taken(module.ready, settings))
    return functions


def _module(name: str) -> ModuleType:
    """Return the module of a suite, given by its name or its file, which is run."""
    if not name.endswith(".py"):
        return importlib.import_module(f"{__name__}.suites.{name}")
    path = python_file(name, "suite")
    module = run_module(path, f"diptych_suite_{path.stem}")
    card = getattr(module, "card", None)
    if not isinstance(card, Mapping) or not {"needs", "abilities"} <= card.keys():
        raise InputError(
            f"{name} has no card; write card = {{'title': …, 'needs': ['images'], 'abilities': ['embed_images']}}"
        )
    if not callable(getattr(module, path.stem, None)):
        raise InputError(
            f"{name} has no function {path.stem}; write def {path.stem}(model, source, *, progress=None)"
        )
    return module


def _described(name: str, model: Any, source: Source, taken: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result has beside its numbers, for a suite in a file, which is part of the
    protocol."""
    path = python_file(name, "suite")
    options = tuple(f"{key}={value}" for key, value in sorted(taken.items()))
    task = f"{path.stem} {sha256(path.read_bytes()).hexdigest()[:12]}"
    protocol = protocol_of(task, source, model, field="", options=options)
    return {"bad": {}, **describe(protocol, model)}


def _taken(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a function accepts."""
    return {
        name: settings[name] for name in inspect.signature(function).parameters if name in settings
    }


def _ready(suite: str, card: Mapping[str, Any], model: Any, source: Source) -> None:
    if not len(source):
        raise InputError(f"source {source.name!r} is empty; {suite} needs at least one sample")
    schema = source.schema()
    for need in card["needs"]:
        if not any(field == need or field.startswith(f"{need}.") for field in schema):
            have = ", ".join(schema) or "nothing"
            raise InputError(
                f"{suite} needs {need}, which source {source.name!r} does not give (it gives {have})"
            )
    instead = card.get("instead", {})
    for ability in card["abilities"]:
        if ability not in instead or not hasattr(model, instead[ability]):
            require(model, ability, suite)
