"""The page on the recipe has each field of the recipe, of the engine's options and of the
schedules, with its default, its range and its option."""

import importlib
from dataclasses import MISSING, fields
from typing import Any

import pytest
from tests.docs.tables import code, rows, section

from diptych.cli._parser import Parser
from diptych.front.training import Settings
from diptych.methods.base import Recipe
from diptych.spec import annotations, parse, takes
from diptych.training import optim
from diptych.training.options import Options
from diptych.training.schedule import SCHEDULES

PAGE = "recipe.md"


def value(cell: str) -> Any:
    """A default as the command line would read it; "none" is None."""
    return None if cell == "none" else parse(f"x:value={code(cell)}").options["value"]


def of(title: str, column: str) -> list[dict[str, str]]:
    """The rows of the tables of a section that have a column."""
    return [row for row in rows(section(PAGE, title)) if column in row]


TABLES = [("The recipe", Recipe, "recipe"), ("Engine options", Options, "options")]


@pytest.mark.parametrize(("title", "cls", "prefix"), TABLES, ids=["recipe", "options"])
def test_every_field_has_a_row_with_its_default_range_and_option(title, cls, prefix):
    module = importlib.import_module("diptych.cli.train")
    parser = Parser("train", module)
    module.extend(parser, ["clip"])
    expected = [
        (
            each.name,
            each.default,
            takes(annotations(cls)[each.name]),
            parser.names[f"{prefix}.{each.name}"],
        )
        for each in fields(cls)
    ]
    written = [
        (code(row["field"]), value(row["default"]), row["takes"], code(row["option"]))
        for row in of(title, "field")
    ]
    assert written == expected


def test_every_field_is_an_argument_of_train():
    listed = [code(row["field"]) for title, _, _ in TABLES for row in of(title, "field")]
    assert listed == list(Settings.__annotations__)


def test_every_optimizer_has_a_row():
    assert sorted(code(row["optimizer"]) for row in of("Optimizers", "optimizer")) == optim.names()


def test_every_schedule_has_a_row_for_each_option():
    expected = []
    for name, shape in SCHEDULES.items():
        hints = annotations(shape)
        expected += [(name, f.name, f.default, takes(hints[f.name])) for f in fields(shape)] or [
            (name, "", MISSING, "")
        ]
    written = [
        (
            code(row["schedule"]),
            code(row["option"]) if row["option"] else "",
            value(row["default"]) if row["default"] else MISSING,
            row["takes"],
        )
        for row in of("Schedules", "schedule")
    ]
    assert sorted(written, key=str) == sorted(expected, key=str)
