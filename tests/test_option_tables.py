"""The option tables on the methods' pages: the values of a cell are those of the method's Config, and
of each preset that the cell names; the presets that run by default, `small` and `tune`, are named
where they change an option."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from diptych.methods.registry import cards, method_class

PAGES = Path(__file__).resolve().parents[1] / "docs" / "methods"
METHODS = [name for name, card in cards().items() if card.kind != "analysis"]
BY_DEFAULT = ("small", "tune")
ELSEWHERE = {"contrastive_search"}  # its table has options of `generate`

_COMMA = re.compile(r", (?![^(\[{]*[)\]}])(?=(?:[^`]*`[^`]*`)*[^`]*$)")
_NOTE = re.compile(r" \((`\w+`(?:, `\w+`)*: .*)\)$")
_NUMBER = re.compile(r"(-?[\d,]*\.?\d+(?:e-?\d+)?)(?: ?/ ?([\d.]+))?")


def rows(page: str) -> Iterator[tuple[list[str], str]]:
    """The options of each row of a page's option tables, and its cell of defaults."""
    inside = False
    for line in page.splitlines():
        inside = line.startswith("| option | default |") or (inside and line.startswith("|"))
        if inside and line.startswith("| `"):
            options, default = line.split("|")[1:3]
            yield re.findall(r"`(\w+)`", options), default.strip()


def cell_of(options: list[str], default: str, option: str) -> str:
    """The part of a cell that is about one option: its own, or the whole cell."""
    parts = _COMMA.split(default)
    return parts[options.index(option)] if len(parts) == len(options) else default


def noted(cell: str) -> dict[str, str]:
    """The values of presets in a cell, such as 14 (`small`: 5; `tune`: 3).

    They are those of the last brackets.
    """
    found = _NOTE.search(cell)
    values = {}
    for note in found[1].split("; ") if found else ():
        presets, _, value = note.partition(": ")
        values |= dict.fromkeys(re.findall(r"`(\w+)`", presets), value)
    return values


def read(text: str) -> Any:
    """The number or truth value that a text is, else the text itself."""
    text = text.strip("`")
    if text in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text]
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    return float(number[1].replace(",", "")) / float(number[2] or 1)


def agree(text: str, value: Any) -> bool:
    """Whether a text shows a value. Part of a spec will do, and any words for what is not plain."""
    shown = read(text)
    if isinstance(value, str):
        return shown == value or shown in value.split(":")
    if isinstance(value, int | float) and not isinstance(shown, str | None):
        return shown == pytest.approx(value, rel=1e-3)
    return value is shown or not isinstance(value, int | float | None)


def default_of(field: Field) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()


@pytest.mark.parametrize("name", METHODS)
def test_cells_have_the_values_of_the_presets(name: str) -> None:
    page = PAGES / f"{name}.md"
    cls = None
    for options, default in rows(page.read_text("utf-8")):
        if name in ELSEWHERE:
            continue
        cls = cls or method_class(name)
        defaults = {field.name: default_of(field) for field in fields(cls.Config)}
        for option in options:
            where = f"{page.name}, `{option}` | {default}"
            assert option in defaults, f"{where}: {name} has no such option"
            cell = cell_of(options, default, option)
            plain = read(_NOTE.sub("", cell))
            if isinstance(plain, int | float) and isinstance(defaults[option], int | float):
                assert plain == pytest.approx(defaults[option], rel=1e-3), (
                    f"{where}: the default is {defaults[option]}"
                )
            notes = noted(cell)
            for preset in {*notes, *BY_DEFAULT} & {*cls.presets}:
                value = cls.presets[preset].config.get(option, defaults[option])
                changed = value != defaults[option]
                assert preset in notes or not changed, f"{where}: write (`{preset}`: {value})"
                assert preset not in notes or agree(notes[preset], value), (
                    f"{where}: `{preset}` has {value}"
                )
