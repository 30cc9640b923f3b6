"""What the page for users of other libraries names of diptych exists: options, methods, suites,
calls, numbers."""

import importlib
import re

import pytest
from tests.docs.tables import rows, text_of

import diptych
from diptych import cli
from diptych.cli._parser import Parser
from diptych.evaluation import cards as suites
from diptych.methods.registry import cards
from diptych.models.model import Model

PAGE = text_of("coming_from.md")
TABLE = rows(PAGE)
HERE = [code for row in TABLE for code in re.findall(r"`([^`]+)`", row["here"])]
METHODS = ("clip", "coca", "coop", "distill_clip", "fine_tune", "nlp_primer", "simcse")
"""Those whose own options the page names."""


@pytest.fixture(scope="module")
def options() -> set[str]:
    """The options of all commands, and those of some methods."""
    found = set()
    for verb in cli.verbs():
        module = importlib.import_module(f"diptych.cli.{verb}")
        found |= set(Parser(verb, module)._option_string_actions)
    for method in METHODS:
        module = importlib.import_module("diptych.cli.train")
        parser = Parser("train", module)
        module.extend(parser, [method])
        found |= set(parser._option_string_actions)
    return found


def test_each_library_has_a_table_and_what_does_not_carry_over():
    titles = ", ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    assert (
        titles == "open_clip, CoOp and Dassl, sentence-transformers, CLIP_benchmark, clip-retrieval"
    )
    for part in PAGE.split("\n## ")[1:]:
        assert rows(part)
        assert "**What does not carry over.**" in part


def test_its_options_exist(options: set[str]):
    named = {found for code in HERE for found in re.findall(r"(?<!\S)--[a-z][\w.-]*", code)}
    assert len(named) > 40
    missing = named - options - {"--nproc_per_node"}
    assert not missing, f"docs/coming_from.md names {sorted(missing)}"


def test_its_methods_and_suites_exist():
    for code in HERE:
        for name in re.findall(r"diptych train (\w+)", code):
            assert name in cards()
        for name in re.findall(r"--suite (\w+)", code):
            assert name in suites()


def test_its_calls_exist():
    for code in HERE:
        for name in re.findall(r"\bdiptych\.(\w+)\(", code):
            assert hasattr(diptych, name)
        for name in re.findall(r"\bmodel\.(\w+)\(", code):
            assert hasattr(Model, name)
