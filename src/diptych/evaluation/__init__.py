"""Evaluation: one suite a file, found by looking in this folder; every result carries the id of its protocol.

A suite file starts with a literal `card` (title, needs: the fields it reads) and has a function of the file's name,
`suite(model, source, *, progress=None, …) -> dict`. Cards are read without importing torch.
"""

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.sample import Source
from diptych.errors import InputError, unknown


def cards() -> dict[str, dict[str, Any]]:
    """The card of every suite, by name.

    >>> sorted(cards())
    ['retrieval', 'zeroshot']
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "card":
                found[path.stem] = ast.literal_eval(node.value)
    return found


def evaluate(
    model: Any,
    source: Source,
    suites: Sequence[str] = ("retrieval",),
    *,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> dict[str, dict[str, Any]]:
    """Run suites on a model that embeds images and texts: one dict of results a suite.

    `settings` go to the suites that take them (batch_size, ks, templates, …); `progress(done, total)` is called as each
    suite proceeds. Raises InputError before anything is computed: an unknown suite or setting, a field that the source
    lacks, a model that cannot embed.
    """
    known = cards()
    for name in suites:
        if name not in known:
            raise unknown("suite", name, known)
    functions = {name: getattr(importlib.import_module(f"{__name__}.{name}"), name) for name in suites}
    takes = {name: set(inspect.signature(function).parameters) for name, function in functions.items()}
    for setting in settings:
        if not any(setting in names for names in takes.values()):
            raise unknown("evaluation setting", setting, set().union(*takes.values()) - {"model", "source", "progress"})
    for name in suites:
        _ready(name, known[name], model, source)
    return {
        name: function(
            model, source, progress=progress, **{key: value for key, value in settings.items() if key in takes[name]}
        )
        for name, function in functions.items()
    }


def _ready(suite: str, card: Mapping[str, Any], model: Any, source: Source) -> None:
    if not len(source):
        raise InputError(f"source {source.name!r} is empty; {suite} needs at least one sample")
    schema = source.schema()
    for need in card["needs"]:
        if not any(field == need or field.startswith(f"{need}.") for field in schema):
            have = ", ".join(schema) or "nothing"
            raise InputError(f"{suite} needs {need}, which source {source.name!r} does not give (it gives {have})")
    for ability in ("embed_images", "embed_texts"):
        if not hasattr(model, ability):
            raise InputError(f"{suite} needs a model with {ability}, which {type(model).__name__} is not")
