"""The registry of methods: one file or package each, found by folder and read without importing
torch.

A method's file, or the `__init__.py` of its package, begins with a literal dict `card`, which
`list`, the docs and `reproduce` read with `ast`. Third parties register their method modules in the
entry-point group `diptych.methods`, or a user gives the path of a file, `FILE.py`, in place of a
name. Such a file runs only where the user asks for it, never because a saved model or a config
names it.
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
from diptych.files import python_file, run_module

if TYPE_CHECKING:
    from diptych.methods.base import Method

GROUPS = ("pretrain", "fuse", "adapt", "dense", "text", "domain", "robust")
_FIELDS = {"title", "year", "kind", "entry", "provenance"}
_KINDS = {"method", "optimizer", "decoding", "analysis"}
_PROVENANCES = {"code", "paper", "abstract"}


@dataclass(frozen=True, slots=True)
class Card:
    """The description of a method. `entry` is the class in its module, or the verb of an analysis;
    `provenance` is code, paper or abstract. For a method given as a file, `name` and `module` are the
    file's whole path."""

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
    """Return all cards by name: built-in ones first, in the order of their folders."""
    found: dict[str, Card] = {}
    here = Path(__file__).parent
    for group in GROUPS:
        folder = here / group
        packages = {path.parent.name: path for path in folder.glob("[a-z]*/__init__.py")}
        for name, path in sorted(
            {**packages, **{path.stem: path for path in folder.glob("[a-z]*.py")}}.items()
        ):
            found[name] = _read(path, name, group, f"diptych.methods.{group}.{name}")
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
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not Python: {' '.join(str(error).split())}") from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "card" for t in node.targets
        ):
            card = ast.literal_eval(node.value)
            if missing := _FIELDS - card.keys():
                raise InputError(f"the card of {path} lacks {', '.join(sorted(missing))}")
            for field, known in (("kind", _KINDS), ("provenance", _PROVENANCES)):
                if card[field] not in known:
                    raise unknown(f"{field} in the card of {path}", str(card[field]), known)
            notes = {key: value for key, value in card.items() if key not in _FIELDS}
            return Card(name, group, module, **{key: card[key] for key in _FIELDS}, notes=notes)
    raise InputError(f"{path} has no literal dict `card`; see docs/add_a_method.md")


def is_file(name: str) -> bool:
    """Whether a method is given as a file."""
    return name.endswith(".py")


def find(name: str) -> Card:
    """Return the card of a method, given by name or by the path of its file (`*.py`).

    An error for an unknown name suggests the nearest.
    """
    if is_file(name):
        path = python_file(name, "method")
        return _read(path, str(path), "file", str(path))
    if name not in cards():
        raise unknown("method", name, cards())
    return cards()[name]


def module_of(name: str) -> ModuleType:
    """Import and return the method's module; a file is executed once for each of its states on
    disk."""
    module = find(name).module
    if is_file(module):
        return _run(Path(module), Path(module).stat().st_mtime_ns)
    return importlib.import_module(module)


@cache
def _run(path: Path, changed: int) -> ModuleType:
    return run_module(path, f"diptych_method_{path.stem}")


def method_class(name: str) -> "type[Method]":
    """Return the class that the card's `entry` names.

    Raises InputError for an analysis, and if it is not a `Method` (a decoding).
    """
    from diptych.methods.base import Method

    card = find(name)
    if card.kind == "analysis":
        raise InputError(f"{name} is an analysis, with nothing to train; run diptych {card.entry}")
    module = module_of(name)
    cls = getattr(module, card.entry, None)
    if cls is None:
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise unknown(
            f"class that the card of {module.__file__} has as its entry:", card.entry, classes
        )
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise InputError(
            f"{name} is of kind {card.kind!r}, with nothing to train; its page in docs/methods says its use"
        )
    return cls
