"""Build a tower from a spec: `image_tower("vit:width=384")`, `text_tower({"name": "text", "depth":
6}, vocab_size=…)`.

A tower registers itself with a decorator, `@image("vit")` or `@text("text")`, on a class with a
`Config` dataclass. The modules of `towers.image` and `towers.text` are found by scanning these
folders. A tower that only one paper uses registers as `PAPER.NAME` in the paper's module, which is
imported when such a name is requested. Third-party towers are registered when their module is
imported.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import diptych
from diptych.errors import InputError, unknown
from diptych.spec import configure, parse
from diptych.towers.tower import ImageTower, Tower

_IMAGE: dict[str, type[ImageTower]] = {}
_TEXT: dict[str, type[Tower]] = {}
T = TypeVar("T", bound=type[Tower])


def image(name: str) -> Callable[[T], T]:
    """Register an image tower under a name."""
    return _register(_IMAGE, name)


def text(name: str) -> Callable[[T], T]:
    """Register a text tower under a name."""
    return _register(_TEXT, name)


def image_tower(spec: str | Mapping[str, Any]) -> Any:
    """Build the image tower of a spec, with parameters initialised from torch's global generator.

    Raises InputError for an unknown name or option, with the nearest one.

    >>> image_tower("vit:image_size=32:patch=16:width=64:depth=1").width
    64
    """
    cls, options = _find(_IMAGE, "image tower", spec)
    return cls(configure(cls.Config, options, f"image tower {cls.kind!r}"))


def text_tower(
    spec: str | Mapping[str, Any],
    *,
    vocab_size: int | None = None,
    context: int | None = None,
    pad: int | None = None,
    eot: int | None = None,
    padding: str | None = None,
) -> Any:
    """Build the text tower of a spec for a tokenizer's vocabulary, context, special ids and padding
    rule.

    Values in the spec take precedence. Raises InputError if they do not fit the tokenizer.

    >>> text_tower("text:width=64:depth=1", vocab_size=100, context=16).spec["context"]
    16
    """
    cls, options = _find(_TEXT, "text tower", spec)
    given = {
        "vocab_size": vocab_size,
        "context": context,
        "pad": pad,
        "eot": eot,
        "padding": padding,
    }
    for key, value in given.items():
        if value is None or options.setdefault(key, value) == value:
            continue
        held = options[key]
        if key in ("vocab_size", "context") and held is not None and held > value:
            continue
        if held is None:
            options[key] = value
            continue
        raise InputError(
            f"text tower {cls.kind!r} has {key}={held}, its tokenizer {value}; leave {key} out of the spec"
        )
    return cls(configure(cls.Config, options, f"text tower {cls.kind!r}"))


def kinds() -> dict[str, list[str]]:
    """The registered names, as `diptych list` shows them."""
    _discover()
    return {"image": sorted(_IMAGE), "text": sorted(_TEXT)}


def _register(registry: dict[str, Any], name: str) -> Callable[[T], T]:
    def register(cls: T) -> T:
        cls.kind = name
        registry[name] = cls
        return cls

    return register


def _find(
    registry: dict[str, Any], what: str, spec: str | Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The class and the plain options of a spec. `KIND:VALUE` sets the option named by the class's
    `argument`."""
    _discover()
    if isinstance(spec, str):
        parsed = parse(spec)
        name = parsed.name
        options = dict(parsed.options)
    else:
        options = dict(spec)
        if "name" not in options:
            raise InputError(
                f"this {what} spec has no 'name'; it has {', '.join(sorted(options)) or 'nothing'}"
            )
        name = options.pop("name")
    kind, colon, value = name.partition(":")
    if kind not in registry and "." in kind:
        _import_paper(kind)
    if kind not in registry:
        error = unknown(what, kind, registry)
        if isinstance(spec, str):
            raise error
        raise InputError(
            f"{error}. A tower of your own is known once its module is imported: import it first, or name the method's "
            "file with --method FILE.py (method=)"
        )
    cls = registry[kind]
    if colon:
        if cls.argument is None:
            raise InputError(
                f"{what} {kind!r} takes no {value!r}; options are written {kind}:key=value"
            )
        options[cls.argument] = value
    return cls, options


def _discover() -> None:
    """Import all tower modules. Optional dependencies are imported only when a tower is built."""
    for package in ("diptych.towers.image", "diptych.towers.text"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")


def _import_paper(name: str) -> None:
    """Import the method that a tower `PAPER.NAME` belongs to, if there is one."""
    paper = name.partition(".")[0]
    root = Path(diptych.__path__[0])
    for entry in (
        *root.glob(f"methods/*/{paper}.py"),
        *root.glob(f"methods/*/{paper}/__init__.py"),
    ):
        module = entry.parent if entry.name == "__init__.py" else entry.with_suffix("")
        importlib.import_module(".".join(("diptych", *module.relative_to(root).parts)))
