"""The registry of methods: one file or package each, found by folder and read without importing
torch.

A method's file, or the `__init__.py` of its package, begins with a literal dict `card`, which
`list`, the docs and `reproduce` read with `ast`. Third parties register their method modules in the
entry-point group `diptych.methods`, or a user gives the path of a file, `FILE.py`, in place of a
name. Such a file runs only where the user asks for it, never because a saved model or a config
names it; a saved model finds the class of a file that has run in this process (`from_file`). A
registered module that is broken, or has the name of another method, is left out with a warning,
since every command reads all cards.
"""

import ast
import importlib
import importlib.util
import logging
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diptych.errors import InputError, brief, unknown
from diptych.files import python_file, run_module

if TYPE_CHECKING:
    from diptych.methods.base import Method

GROUPS = ("pretrain", "fuse", "adapt", "dense", "text", "domain", "robust")
_FIELDS = {"title", "year", "kind", "entry", "provenance"}
_KINDS = {"method", "optimizer", "decoding", "analysis"}
_PROVENANCES = {"code", "paper", "abstract"}
_KINDS_OF = {
    "title": str,
    "year": int,
    "kind": str,
    "entry": str,
    "provenance": str,
    "abilities": dict,
}

log = logging.getLogger(__name__)
_FROM_FILES: "dict[str, type[Method]]" = {}
"""The classes of the files that the user has named, by the file's path and by its name."""


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
    found, refused = _plugins()
    for reason in refused.values():
        log.warning("%s; it is left out", reason)
    return {**_built_in(), **found}


@cache
def _built_in() -> dict[str, Card]:
    found: dict[str, Card] = {}
    here = Path(__file__).parent
    for group in GROUPS:
        folder = here / group
        packages = {path.parent.name: path for path in folder.glob("[a-z]*/__init__.py")}
        for name, path in sorted(
            {**packages, **{path.stem: path for path in folder.glob("[a-z]*.py")}}.items()
        ):
            found[name] = _read(path, name, group, f"diptych.methods.{group}.{name}")
    return found


def _plugins() -> tuple[dict[str, Card], dict[str, str]]:
    """Return the cards of installed packages, and of those that are refused the reasons."""
    found: dict[str, Card] = {}
    refused: dict[str, str] = {}
    for point in entry_points(group="diptych.methods"):
        named = f"entry point {point.name!r} of diptych.methods names {point.value}"
        if (other := _built_in().get(point.name) or found.get(point.name)) is not None:
            refused[f"{point.name} of {point.value}"] = (
                f"{named}, and {point.name!r} is the method of {other.module}; rename the entry point "
                "in the package that declares it"
            )
            continue
        try:
            found[point.name] = _installed(point)
        except InputError as error:
            refused[point.name] = f"{named}: {error}"
    return found, refused


def _installed(point: EntryPoint) -> Card:
    try:
        spec = importlib.util.find_spec(point.value)
    except Exception as error:  # of the package around it, which is imported
        raise InputError(
            f"importing its package raises {type(error).__name__}: {brief(error)}; mend the package that declares it"
        ) from None
    if spec is None or spec.origin is None:
        raise InputError("this is not a module; mend the package that declares it")
    return _read(Path(spec.origin), point.name, "external", point.value)


def _read(path: Path, name: str, group: str, module: str) -> Card:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:  # UnicodeDecodeError, or a null byte
        raise InputError(f"{path} is not Python: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "card" for t in node.targets
        ):
            card = _literal(node.value, path)
            _check(card, path)
            notes = {key: value for key, value in card.items() if key not in _FIELDS}
            return Card(name, group, module, **{key: card[key] for key in _FIELDS}, notes=notes)
    raise InputError(f"{path} has no literal dict `card`; see docs/add_a_method.md")


def _literal(node: ast.expr, path: Path) -> dict[str, Any]:
    """Return a card. Raises InputError if it is no dict of literals, since it is read without being
    executed."""
    if not isinstance(node, ast.Dict):
        raise InputError(
            f"the card of {path} (line {node.lineno}) is no literal dict; write card = {{…}}, see docs/add_a_method.md"
        )
    found = {}
    for key, value in zip(node.keys, node.values, strict=True):
        shown = ast.unparse(value)
        try:
            found[ast.literal_eval(key or "")] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError):
            entry = f"{ast.unparse(key)}: {shown}" if key else f"**{shown}"
            raise InputError(
                f"the card of {path} (line {value.lineno}) has {brief(entry)}, which is no literal; write texts and "
                "numbers, since the card is read without running the file"
            ) from None
    return found


def _check(card: dict[str, Any], path: Path) -> None:
    """Raise InputError if a card lacks a key or has a value of another kind."""
    if missing := _FIELDS - card.keys():
        raise InputError(f"the card of {path} lacks {', '.join(sorted(missing))}")
    for field, kind in _KINDS_OF.items():
        value = card.get(field, kind())
        if not isinstance(value, kind) or isinstance(value, bool):
            what = {str: "a text", int: "a whole number", dict: "a dict"}[kind]
            raise InputError(f"{field!r} in the card of {path} is {value!r}; it must be {what}")
    for field, known in (("kind", _KINDS), ("provenance", _PROVENANCES)):
        if card[field] not in known:
            raise unknown(f"{field} in the card of {path}", card[field], known)


def name_of(method: Any) -> str:
    """Return the name of a method that a program gives, or the path of its file.

    Raises InputError for a class, which neither other processes nor a saved run could find.
    """
    if isinstance(method, str | Path):
        return str(method)
    if not isinstance(method, type):
        raise InputError(f"{method!r} names no method; give its name, or the path of its file")
    module = sys.modules.get(method.__module__)
    file = getattr(module, "__file__", None)
    names = [name for name, card in _built_in().items() if card.module == method.__module__]
    given = names[0] if names else file or "FILE.py"
    raise InputError(
        f"{method.__name__} is a class, and a method is given by its name or its file; write {str(given)!r}"
    )


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
        refused = _plugins()[1]
        raise InputError(refused[name]) if name in refused else unknown("method", name, cards())
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
    if is_file(card.module):
        _FROM_FILES[card.module] = _FROM_FILES[Path(card.module).name] = cls
    return cls


def from_file(path: str) -> "type[Method] | None":
    """Return the class of a method's file, given by a saved model: that of the file at this path, or
    else of the same name, which the user has named in this process. The file is not read."""
    return _FROM_FILES.get(path) or _FROM_FILES.get(Path(path).name)
