"""Options of the command line from the fields of a method's config and of the recipe."""

import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

from diptych.cli._parser import Parser
from diptych.cli._recipe import MORE
from diptych.renamed import RENAMED
from diptych.spec import annotations, bounds


def add_method(parser: Parser, name: str) -> None:
    """Add the method's options and those of the recipe that have no short name."""
    from diptych.methods.registry import find

    find(name)  # raises for an unknown name before anything heavy is imported
    from diptych.methods.base import Recipe
    from diptych.methods.registry import method_class

    cls = method_class(name)
    presets = getattr(cls, "presets", {})  # without any, `resolve` raises the error
    options = {preset: chosen.config for preset, chosen in presets.items()}
    recipes = {preset: chosen.recipe for preset, chosen in presets.items()}
    page = f"; docs/methods/{name}.md" if cls.__module__.startswith("diptych.") else ""
    section = f"Options of {name} (with the value in each preset{page})"
    _add_fields(parser, section, "method", cls.Config, options, {})
    old = RENAMED.get(f"option of {name}", {})
    parser.renamed |= {f"method.{before}": f"method.{now}" for before, now in old.items()}
    section = "More of the recipe (with the value in each preset)"
    _add_fields(
        parser, section, "recipe", Recipe, recipes, {name: about for name, *_, about in MORE}
    )


def _add_fields(
    parser: Parser,
    section: str,
    prefix: str,
    config: type,
    presets: Mapping[str, Any],
    texts: Mapping[str, str],
) -> None:
    """Add an option for each field of a dataclass that has none yet; its help is its text, if there
    is one, and the presets' values as the command line reads them."""
    hints = typing.get_type_hints(config)
    limits = annotations(config)
    for field in fields(config):
        key = f"{prefix}.{field.name}"
        if key in parser.names:
            continue
        hint = (
            dict
            if typing.get_origin(hints[field.name]) in (Mapping, typing.Mapping)
            else hints[field.name]
        )
        values = {name: spelled(_value(given, field)) for name, given in presets.items()}
        about = "; ".join(f"{name}: {value}" for name, value in values.items())
        about += f" (must be {limit})" if (limit := bounds(limits[field.name])) else ""
        if field.name in texts:
            about = f"{texts[field.name]}; {about}"
        about = about.replace("%", "%%")  # argparse fills in what follows a %
        parser.option(section, f"--{key}", dest=key, type=hint, metavar=_metavar(hint), help=about)


def _value(given: Any, field: Any) -> Any:
    """Return a preset's value of a field (the preset is a mapping or a dataclass), else the field's
    default, or for a field without one, a note."""
    if not isinstance(given, Mapping):
        return getattr(given, field.name)
    if field.name in given:
        return given[field.name]
    if field.default is not MISSING:
        return field.default
    return "must be given" if field.default_factory is MISSING else field.default_factory()


_PLAIN = re.compile(r"[A-Za-z_][\w./+-]*")
_OTHER = {
    "null",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
}  # words that YAML takes for other values


def spelled(value: Any, inside: bool = False) -> str:
    """Return a value as the command line reads it, in YAML; `inside` a list or a mapping, texts that
    YAML would read otherwise are quoted.

    >>> spelled(None), spelled(False), spelled((0.9, 0.98)), spelled({"crop": (0.5, 1.0), "kind": "a b"})
    ('null', 'false', '[0.9, 0.98]', '{crop: [0.5, 1], kind: "a b"}')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        pairs = (f"{spelled(key, True)}: {spelled(each, True)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(spelled(each, True) for each in value)}]"
    text = str(value)
    if not isinstance(value, str):
        return text
    plain = _PLAIN.fullmatch(text) and text.lower() not in _OTHER
    return text if text and (plain or not inside) else json.dumps(text, ensure_ascii=False)


def _metavar(hint: Any) -> str:
    plain = {int: "N", float: "X", bool: "true|false", dict: "'{…}'", str: "TEXT"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (Mapping, typing.Mapping):
        hint = dict
    if typing.get_origin(hint) is tuple:
        return f"[{','.join(map(_metavar, typing.get_args(hint)))}]"
    return plain.get(hint, "…")
