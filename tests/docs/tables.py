"""The Markdown tables of a page, as the tests of the pages read them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def text_of(page: str) -> str:
    """The text of a page of the docs."""
    return (DOCS / page).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The part of a page below a heading, up to the next heading of the same level or above."""
    text = text_of(page)
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"{page} has no heading {title!r}"
    below = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", below, re.MULTILINE)
    return below[: end.start()] if end else below


def rows(text: str) -> list[dict[str, str]]:
    """The rows of all tables in a text, each by its column."""
    found: list[dict[str, str]] = []
    columns: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = cells
        elif not set(line) <= set("|-: "):
            found.append(dict(zip(columns, cells, strict=True)))
    return found


def code(cell: str) -> str:
    """The text of a cell that is one code span."""
    found = re.fullmatch(r"`([^`]+)`", cell)
    assert found, f"{cell!r} is no code"
    return found[1]
