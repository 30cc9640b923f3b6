"""The pages of the API reference, made from the tree of `src/diptych`: one page a package, one
section a module.

The tree is read with `ast`; nothing is imported. `conf.py` calls `write` before each build.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "diptych"
FOLDER = Path(__file__).resolve().parent / "reference" / "generated"

_SECTION = """\
## {name}

```{{eval-rst}}
.. automodule:: {name}{options}
```
"""

# What a package only imports is described where it is defined. diptych itself is what users import
# from.
_OWN_NAMES = "\n   :ignore-module-all:"

_SUBPACKAGES = """\
:::{{toctree}}
:maxdepth: 1

{pages}
:::
"""


def public_names(file: Path) -> list[str]:
    """The names that a module offers: those of `__all__`, else its classes, functions and values
    without underscore."""
    names = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.ClassDef(name=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
            ):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return ast.literal_eval(value)
            case ast.Assign(targets=targets):
                names += [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.append(name)
    return [name for name in names if not name.startswith("_")]


def _module(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules(package: Path) -> Iterator[Path]:
    """The files of a package's page: its own `__init__.py` first."""
    files = sorted(package.glob("[a-z]*.py"))
    yield from (file for file in [package / "__init__.py", *files] if public_names(file))


def _subpackages(package: Path) -> list[Path]:
    """The packages right below one, without those that have no public module at any depth."""
    below = sorted(init.parent for init in package.glob("[a-z]*/__init__.py"))
    return [child for child in below if any(_modules(child)) or _subpackages(child)]


def pages() -> dict[str, str]:
    """The Markdown of each page by its path under `FOLDER`, which follows the tree: `data.md`,
    `data/views.md`."""
    made = {}
    waiting = [PACKAGE]
    while waiting:
        package = waiting.pop()
        below = list(_subpackages(package))
        waiting += below
        made[_path(package)] = _page(package, below)
    return made


def _path(package: Path) -> str:
    return "diptych.md" if package == PACKAGE else f"{package.relative_to(PACKAGE).as_posix()}.md"


def _page(package: Path, below: list[Path]) -> str:
    pieces = [f"# {_module(package / '__init__.py')}\n"]
    if package != PACKAGE and below:  # reference/index.md lists the packages below diptych itself
        names = "\n".join(f"{package.name}/{child.name}" for child in below)
        pieces.append(_SUBPACKAGES.format(pages=names))
    pieces += [_section(_module(file)) for file in _modules(package)]
    return "\n".join(pieces)


def _section(name: str) -> str:
    return _SECTION.format(name=name, options="" if name == "diptych" else _OWN_NAMES)


def write() -> None:
    """Write the pages that changed, and remove those of packages that are gone."""
    made = {FOLDER / path: text for path, text in pages().items()}
    for old in FOLDER.rglob("*.md"):
        if old not in made:
            old.unlink()
    for file, text in made.items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
