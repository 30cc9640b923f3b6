"""The page of commands has each command in one group, with its help as the command line prints it."""

import re
import runpy

import pytest
from tests.docs.tables import DOCS, text_of

from diptych import cli

PAGE = text_of("cli.md")
PARTS = runpy.run_path(str(DOCS / "page_parts.py"))
GROUPS = {
    part.splitlines()[0]: re.findall(r"^```\{command\} (\w+)$", part, re.MULTILINE)
    for part in PAGE.split("\n## ")[1:]
}


def test_every_command_is_in_exactly_one_group():
    listed = [verb for verbs in GROUPS.values() for verb in verbs]
    assert sorted(listed) == sorted(cli.verbs())
    assert all(GROUPS.values())


def test_each_stands_below_its_name():
    headed = re.findall(r"^### (\w+)\n\n```\{command\} (\w+)\n```$", PAGE, re.MULTILINE)
    assert len(headed) == len(cli.verbs())
    assert all(title == verb for title, verb in headed)


@pytest.mark.parametrize("verb", cli.verbs())
def test_the_help_is_that_of_the_command_line(verb: str, capsys: pytest.CaptureFixture[str]):
    made = PARTS["command"](verb)
    assert cli.main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert made[0].replace("`", "") in " ".join(printed.split())
    shown = "\n".join(made)
    assert shown.count("````") == 2
    assert printed.split() == shown.split("````")[1].removeprefix("text").split()


def test_the_help_has_the_same_width_on_every_machine(monkeypatch: pytest.MonkeyPatch):
    first = PARTS["help_of"]("train")
    monkeypatch.setenv("COLUMNS", "60")
    assert PARTS["help_of"]("train") == first
    options = [line for line in first.splitlines() if line.startswith("  --")]
    assert max(map(len, options)) <= PARTS["WIDTH"]


def test_the_help_of_the_program_names_every_command():
    shown = "\n".join(PARTS["command"]())
    assert all(re.search(rf"^  {verb} ", shown, re.MULTILINE) for verb in cli.verbs())
