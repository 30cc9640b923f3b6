"""Options of the command line from the fields of a method's config and of the recipe."""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

from diptych.cli._parser import Parser
from diptych.renamed import RENAMED
from diptych.spec import annotations, bounds


def add_method(parser: Parser, name: str) -> None:
    """Add the method's options and those of the recipe that have no short name."""
    from diptych.methods.registry import find

    find(name)  # raises for an unknown name before anything heavy is imported
    from diptych.methods.base import Recipe
    from diptych.methods.registry import method_class

    cls = method_class(name)
    options = {preset: chosen.config for preset, chosen in cls.presets.items()}
    recipes = {preset: chosen.recipe for preset, chosen in cls.presets.items()}
    _add_fields(parser, f"Options of {name}", "method", cls.Config, options)
    old = RENAMED.get(f"option of {name}", {})
    parser.renamed |= {f"method.{before}": f"method.{now}" for before, now in old.items()}
    _add_fields(parser, "More of the recipe", "recipe", Recipe, recipes)


def _add_fields(
    parser: Parser, section: str, prefix: str, config: type, presets: Mapping[str, Any]
) -> None:
    """Add an option for each field of a dataclass that has none yet; its help shows the presets'
    values."""
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
        values = {name: _value(given, field) for name, given in presets.items()}
        about = "; ".join(f"{name}: {value}" for name, value in values.items())
        about += f" ({limit})" if (limit := bounds(limits[field.name])) else ""
        parser.option(section, f"--{key}", dest=key, type=hint, metavar=_metavar(hint), help=about)


def _value(given: Any, field: Any) -> Any:
    """Return a preset's value of a field (the preset is a mapping or a dataclass), else the field's
    default."""
    if isinstance(given, Mapping):
        default = field.default if field.default is not MISSING else field.default_factory()
        return _short(given.get(field.name, default))
    return _short(getattr(given, field.name))


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


def _metavar(hint: Any) -> str:
    plain = {int: "N", float: "X", bool: "true|false", dict: "'{…}'", str: "TEXT"}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"[{','.join(map(_metavar, typing.get_args(hint)))}]"
    return plain.get(hint, "…")
