"""The worlds that the words of `diptych data` take, with their options."""

from typing import Any

from diptych.cli._parser import Namespace
from diptych.errors import InputError, unknown

SHOWN = 12
COUNT = 1000
"""Samples of a page, and of anything else, where none are asked for."""


def open_world(args: Namespace) -> Any:
    """Return the world of the command line as a source of --count samples."""
    from diptych.data import worlds
    from diptych.data.sources import worlds as opener
    from diptych.spec import parse

    spec = parse(args.world)
    if spec.name not in worlds.cards():
        raise unknown("world", spec.name, worlds.cards())
    options = {"count": SHOWN if args.what == "show" else COUNT} | spec.options
    for name in ("count", "seed", "start"):
        if name in args:
            if name in spec.options:
                raise InputError(
                    f"{name} is given twice, as --{name} and in {args.world!r}; give it once"
                )
            options[name] = args[name]
    return opener.open(type(spec)(spec.name, options))
