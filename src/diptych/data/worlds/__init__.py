"""Worlds: procedural data of any size with exact annotation; one module or package per world.

Worlds are found by scanning this folder. Each defines

    card      a literal dict with a `title`, read without importing the world
    Config    a frozen keyword-only dataclass of plain values: every option, as in `scenes:size=96:number=2`
    World     a subclass of the `World` below

Everything depends only on (config, seed, index), not on platform, process or order.
"""

import ast
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diptych.data.sample import Sample, Schema
from diptych.data.worlds._base import Drawn, Rendered, World
from diptych.errors import InputError, unknown
from diptych.spec import configure


@cache
def cards() -> dict[str, dict[str, Any]]:
    """The card of every world, by name.

    >>> cards()["scenes"]["title"]
    'Drawings and shapes on textured grounds, with everything known about them'
    """
    found = {}
    for name in _names():
        path = Path(__file__).parent / name
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(
            "utf-8"
        )
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "card":
                found[name] = ast.literal_eval(node.value)
    return found


def _names() -> list[str]:
    return sorted(
        item.name for item in pkgutil.iter_modules(__path__) if not item.name.startswith("_")
    )


def module_of(name: str) -> ModuleType:
    """Import the module of a world. Raises InputError for an unknown name, with the nearest."""
    if name not in cards():
        raise unknown("world", name, cards())
    return importlib.import_module(f"{__name__}.{name}")


def build(name: str, options: Mapping[str, Any] | None = None) -> World[Any]:
    """Build the world `name` with options of its Config.

    Raises InputError for unknown names and options, with the nearest.

    >>> build("scenes", {"size": 96}).spec()
    'scenes:size=96'
    """
    module = module_of(name)
    return module.World(configure(module.Config, dict(options or {}), f"world {name!r}"))


class WorldSource:
    """Samples start, …, start + count - 1 of a world's stream `seed`, generated on access.

    >>> source = WorldSource(build("scenes"), 2, seed=3)
    >>> len(source), list(source.keys()), source.name
    (2, ['train-3-000000', 'train-3-000001'], 'scenes:count=2:seed=3')
    """

    def __init__(self, world: World[Any], count: int, seed: int = 0, start: int = 0):
        for option, value, least in (("count", count, 1), ("seed", seed, 0), ("start", start, 0)):
            if value < least:
                raise InputError(
                    f"option {option!r} of source {world.name!r} is {value}; it must be at least {least}"
                )
        self.world = world
        self.count = count
        self.seed = seed
        self.start = start
        name, colon, options = world.spec().partition(":")
        counted = (
            f"{name}:count={count}"
            + (f":seed={seed}" if seed else "")
            + (f":start={start}" if start else "")
        )
        self.name = counted + colon + options

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        at = self.start + range(self.count)[index]
        return self.world.example(self.world.sample(self.seed, at), self.world.key(self.seed, at))

    def keys(self) -> Sequence[str]:
        """The unique keys in order."""
        return _Keys(self)

    def schema(self) -> Schema:
        """The fields of the world's samples."""
        return self.world.schema()


class _Keys(Sequence[str]):
    """Keys, generated on access since a stream may have any length."""

    def __init__(self, source: WorldSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        return self._source.world.key(
            self._source.seed, self._source.start + range(len(self))[index]
        )


__all__ = ["Drawn", "Rendered", "World", "WorldSource", "build", "cards", "module_of"]
