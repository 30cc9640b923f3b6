"""The page that chooses a method has each method of the registry in one group, and no verdict that is
written by hand."""

import json
import re
import runpy

import pytest
from tests.docs.tables import DOCS, code, rows, text_of

from diptych.lab.claim import CLAIMS
from diptych.methods.registry import cards

PAGE = text_of("choose_a_method.md")
PARTS = runpy.run_path(str(DOCS / "page_parts.py"))
GROUPS = {part.splitlines()[0]: rows(part) for part in PAGE.split("\n## ")[1:]}
TABLE = [row for group in GROUPS.values() for row in group]


def method(row: dict[str, str]) -> str:
    found = re.fullmatch(r"\[(\w+)\]\(methods/(\w+)\.md\)", row["method"])
    assert found, row
    assert found[1] == found[2]
    return found[1]


def test_each_method_of_the_registry_is_in_exactly_one_group():
    built_in = [name for name, card in cards().items() if card.group != "external"]
    assert sorted(map(method, TABLE)) == sorted(built_in)
    assert all(GROUPS.values())


def test_each_verdict_is_made_by_the_role():
    assert all(row["verdict"] == f"{{verdict}}`{method(row)}`" for row in TABLE)


def test_each_row_has_a_task_data_and_a_command_of_its_method():
    for row in TABLE:
        assert row["task"]
        assert row["data"]
        words = code(row["command"]).split()
        assert words[0] == "diptych"
        if words[1] == "train":
            assert words[2] == method(row)


@pytest.mark.parametrize("name", cards())
def test_the_role_says_what_is_stored(name: str):
    shown = PARTS["verdict"](name)
    stored = PARTS["RESULTS"] / f"{name}.json"
    if stored.is_file():
        verdict = json.loads(stored.read_text("utf-8"))["verdict"]
        assert shown.startswith(f"**{verdict}")
    else:
        assert shown == ("not tried" if (CLAIMS / f"{name}.py").exists() else "no claim")
