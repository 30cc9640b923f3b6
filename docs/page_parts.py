"""Parts of pages that are made from the code in each build: the help of commands, verdicts, and the
augmentation of presets.

`conf.py` calls these functions where a page has the directive or role.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from diptych import cli
from diptych.data.views import Augment
from diptych.errors import InputError
from diptych.lab import league, tables
from diptych.lab.claim import CLAIMS
from diptych.lab.stored import read_result, result_path
from diptych.methods.registry import cards, method_class

RESULTS = Path(__file__).resolve().parents[1] / "results" / "claims"
WIDTH = 100
"""Columns of a help text, on every machine."""

_OPTION = re.compile(r"(?<![\w`])--[a-z][\w-]*")

AUGMENT = "augment"
OTHERS = {
    "biovil": "views",
    "cliprocket": "strong",
    "pixpro": "second",
    "swav": "small",
    "tips": "local",
}
"""Methods with a second augmentation, and its option."""
OF_THEIR_OWN = ("denseclip", "renalclip")
"""Methods whose option `augment` is not of `Augment`."""


def help_of(verb: str = "") -> str:
    """The help of a command, or of the program, as the command line prints it."""
    printed = StringIO()
    words = [verb, "--help"] if verb else ["--help"]
    with mock.patch.dict(os.environ, COLUMNS=str(WIDTH + 2)), redirect_stdout(printed):
        cli.main(words)
    return printed.getvalue().rstrip()


def command(verb: str = "") -> list[str]:
    """The summary of a command and its help, as Markdown; of the program its help alone."""
    shown = help_of(verb)
    block = ["````text", *shown.splitlines(), "````", ""]
    if not verb:
        return block
    summary = " ".join(shown.split("\n\n")[1].split())
    return [_OPTION.sub(lambda found: f"`{found[0]}`", summary), "", *block]


def verdict(name: str) -> str:
    """The stored verdict on a method's claim as Markdown, or why there is none."""
    path = CLAIMS / f"{name}.py"
    record = read_result(result_path(name, out=RESULTS))
    if record is None:
        return "not tried" if path.exists() else "no claim"
    return league._verdict(record, path, RESULTS)


def augmentations() -> list[str]:
    """A table of settings of `Augment` and of the presets that have them, as Markdown; settings of
    most presets first."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, preset, option, values in preset_augments():
        method = name if option == AUGMENT else f"{name} (`{option}`)"
        found.setdefault(_written(values), {}).setdefault(preset, []).append(method)
    rows = [
        (settings, _presets(by))
        for settings, by in sorted(found.items(), key=lambda item: -sum(map(len, item[1].values())))
    ]
    return tables.markdown((("settings", "presets"), rows))


def _presets(by: Mapping[str, list[str]]) -> str:
    """The presets of methods in words; presets of the same methods together.

    >>> _presets({"small": ["clip"], "paper": ["align", "clip"], "tune": ["clip"]})
    '`small`, `tune` of clip; `paper` of align, clip'
    """
    together: dict[str, list[str]] = {}
    for preset, methods in by.items():
        together.setdefault(", ".join(methods), []).append(f"`{preset}`")
    return "; ".join(f"{', '.join(presets)} of {methods}" for methods, presets in together.items())


def preset_augments() -> Iterator[tuple[str, str, str, Mapping[str, Any] | None]]:
    """Yield (method, preset, option, value) of each option of `Augment` of each preset."""
    for name in cards():
        if name in OF_THEIR_OWN:
            continue
        try:
            cls = method_class(name)
        except InputError:  # nothing to train
            continue
        for preset, chosen in getattr(cls, "presets", {}).items():
            config = cls.configure(dict(chosen.config))
            for option in (AUGMENT, OTHERS.get(name, "")):
                if hasattr(config, option):
                    yield name, preset, option, getattr(config, option)


def _written(values: Mapping[str, Any] | None) -> str:
    """Options that differ from the defaults, as `--method.augment` takes them."""
    if values is None:
        return "`null`: none"
    plain = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value != getattr(Augment(), key)
    }
    if not plain:
        return "`{}`: the defaults"
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000).strip()
    return f"`{text}`"
