"""The notebooks run from top to bottom, in a small form, and what their cells end in is shown."""

import ast
import re
from pathlib import Path

import pytest

import diptych
from diptych.lab.stored import read_result
from diptych.lab.tables import Result

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
SMALL = {  # what stands in the page, and what runs here
    "count=120": "count=24",
    "pairs(480": "pairs(32",
    "pairs(120": "pairs(16",
    "epochs=4": "epochs=2, batch_size=16, quiet=True",
    '["clip", "siglip"],': '["clip"], jobs=1, sizes=[0.25],',
    "count=480": "count=32",
    "budget=4800": "budget=32, batch_size=32",
    "seeds=[0, 1]": "seeds=[0]",  # one: its interval has no width
}


def cells(page: Path) -> list[str]:
    text = page.read_text("utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(cell: str, names: dict) -> object:
    """Run a cell, and return the value of its last line if that is an expression."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return last and eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def shown(value: object) -> str:
    """What a notebook shows of a value."""
    if hasattr(value, "_repr_png_"):
        return f"{len(value._repr_png_())} bytes"
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


def stored(name: str, quick: bool) -> Result:
    """In place of three minutes: a stored result of the claim."""
    record = read_result(ROOT / "results" / "claims" / f"{name}.json")
    assert record is not None
    return Result(record)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diptych, "reproduce", stored, raising=False)
    names: dict = {"__name__": "notebook"}
    found = []
    for cell in cells(page):
        for whole, less in SMALL.items():
            cell = cell.replace(whole, less)
        value = run(cell, names)
        found.append(shown(value))
    assert len(found) >= 4
    assert any("<table" in each for each in found)


def test_there_are_three():
    assert [page.stem for page in NOTEBOOKS] == [
        "search_your_photos",
        "try_a_claim",
        "tune_a_clip",
    ]
    for page in NOTEBOOKS:
        assert page.read_text("utf-8").startswith("---\njupyter:\n  jupytext:")
