"""Which methods exist: one file each, found by folder, read without importing torch.

A method file begins with a literal dict `card`; `list`, the docs and `reproduce` read it with `ast`. Third parties name
their method modules in the entry-point group `diptych.methods`.
"""

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diptych.errors import InputError, unknown

if TYPE_CHECKING:
    from diptych.methods.base import Method

GROUPS = ("pretrain", "fuse", "adapt", "dense", "text", "domain", "robust")
_FIELDS = {"title", "year", "kind", "entry", "provenance"}
_KINDS = {"method", "optimizer", "decoding", "analysis"}


@dataclass(frozen=True, slots=True)
class Card:
    """What a method says of itself. `entry` is the class in its module; `provenance` is code, paper or abstract."""

    name: str
    group: str
    module: str
    title: str
    year: int
    kind: str
    entry: str
    provenance: str
    notes: dict[str, Any]


@cache
def cards() -> dict[str, Card]:
    """All cards by name, ours first in the order of their folders."""
    found: dict[str, Card] = {}
    here = Path(__file__).parent
    for group in GROUPS:
        for path in sorted((here / group).glob("[a-z]*.py")):
            found[path.stem] = _read(path, path.stem, group, f"diptych.methods.{group}.{path.stem}")
    for point in entry_points(group="diptych.methods"):
        spec = importlib.util.find_spec(point.value)
        if spec is None or spec.origin is None:
            raise InputError(
                f"entry point {point.name!r} of diptych.methods names {point.value}, which is not a module; "
                "mend the package that declares it"
            )
        found[point.name] = _read(Path(spec.origin), point.name, "external", point.value)
    return found


def _read(path: Path, name: str, group: str, module: str) -> Card:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "card" for t in node.targets):
            card = ast.literal_eval(node.value)
            if missing := _FIELDS - card.keys():
                raise InputError(f"the card of {path} lacks {', '.join(sorted(missing))}")
            if card["kind"] not in _KINDS:
                raise unknown(f"kind in the card of {path}", card["kind"], _KINDS)
            notes = {key: value for key, value in card.items() if key not in _FIELDS}
            return Card(name, group, module, **{key: card[key] for key in _FIELDS}, notes=notes)
    raise InputError(f"{path} has no literal dict `card`; see docs/add_a_method.md")


def find(name: str) -> Card:
    """The card of a method; an unknown name shows the nearest."""
    if name not in cards():
        raise unknown("method", name, cards())
    return cards()[name]


def module_of(name: str) -> ModuleType:
    """The method's module, imported."""
    return importlib.import_module(find(name).module)


def method_class(name: str) -> "type[Method]":
    """The class that the card's `entry` names; InputError where that is no `Method` (a decoding, an analysis)."""
    from diptych.methods.base import Method

    card = find(name)
    cls = getattr(module_of(name), card.entry)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise InputError(
            f"{name} is of kind {card.kind!r}, with nothing to train; its page in docs/methods says its use"
        )
    return cls
