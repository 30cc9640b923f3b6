"""List methods, models, towers, sources, worlds, suites or optimizers.

`diptych list` alone lists the methods.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.cli._parser import Namespace, Parser
from diptych.cli._screen import show_json, show_table
from diptych.errors import InputError, unknown

GROUP = "Look up"
USAGE = "[methods|models|towers|sources|worlds|suites|optimizers] [--filter TEXT] [--json]"
EXAMPLES = ("diptych list", "diptych list models --filter siglip2")


def add(parser: Parser) -> None:
    parser.option(
        "What",
        "what",
        help="what to list: methods (default), models, towers, sources, worlds, suites or optimizers",
    )
    parser.option(
        "What",
        "--filter",
        metavar="TEXT",
        help="only rows that contain TEXT in any column, in upper or lower case",
    )
    parser.option("More", "--json", type=bool, help="print JSON instead of a table")


def run(args: Namespace) -> None:
    what = args.what or "methods"
    if what not in LISTS:
        raise unknown("list", what, LISTS)
    rows = LISTS[what]()
    wanted = args.get("filter")
    if wanted:
        found = [row for row in rows if wanted.lower() in str(list(row.values())).lower()]
        if not found:
            raise InputError(f"none of the {len(rows)} {what} has {wanted!r}; leave out --filter")
        rows = found
    if args.get("json"):
        show_json(rows)
        return
    columns = list(rows[0]) if rows else []
    others = ", ".join(name for name in LISTS if name != what)
    cells = [[_cell(column, value) for column, value in row.items()] for row in rows]
    show_table(what, columns, cells, note=f"also: diptych list {others}")


def _cell(column: str, value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(value)
    if column == "parameters":
        return f"{value / 1e6:,.1f} M"
    return "" if value is None else value


def _models() -> list[dict[str, Any]]:
    """Return the models that load by name, from a list that tools/list_models.py writes."""
    path = Path(__file__).parents[1] / "models" / "pretrained" / "models.json"
    return [{"name": name, **row} for name, row in json.loads(path.read_text("utf-8")).items()]


def _methods() -> list[dict[str, Any]]:
    from diptych.methods.registry import cards

    fields = ("name", "year", "kind", "provenance", "group", "title")
    return [{field: getattr(card, field) for field in fields} for card in cards().values()]


def _towers() -> list[dict[str, Any]]:
    from diptych.towers.build import kinds

    return [{"side": side, "name": name} for side, names in kinds().items() for name in names]


def _sources() -> list[dict[str, Any]]:
    return [{"format": name, "about": about} for name, about in _modules("data/sources", "FORMAT")]


def _worlds() -> list[dict[str, Any]]:
    from diptych.data.worlds import cards

    return [{"name": name, "about": card["title"]} for name, card in cards().items()]


def _suites() -> list[dict[str, Any]]:
    from diptych.evaluation import cards

    return [
        {
            "name": name,
            "title": card["title"],
            "needs": ", ".join(card["needs"]),
            "abilities": ", ".join(card["abilities"]),
        }
        for name, card in cards().items()
    ]


def _optimizers() -> list[dict[str, Any]]:
    return [{"name": name, "about": about} for name, about in _modules("training/optim", None)]


def _modules(folder: str, name: str | None) -> list[tuple[str, str]]:
    """Return (name, first sentence) of the modules of a folder, read without importing them."""
    found = []
    for path in sorted((Path(__file__).parents[1] / folder).glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        literals = dict(_literals(tree))
        if name is None or name in literals:
            found.append((literals[name] if name else path.stem, about))
    return found


def _literals(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """Yield the names that a module assigns plain values to, as in `FORMAT = "tar"` and `FORMAT,
    ANY = "table", True`."""
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            names = [target]
            values = [node.value]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                names = target.elts
                values = node.value.elts
            for name, value in zip(names, values, strict=True):
                if isinstance(value, ast.Constant):
                    yield ast.unparse(name), value.value


LISTS = {
    "methods": _methods,
    "models": _models,
    "towers": _towers,
    "sources": _sources,
    "worlds": _worlds,
    "suites": _suites,
    "optimizers": _optimizers,
}
