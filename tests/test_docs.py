"""The documentation is true: links lead somewhere, `>>>` examples give what they print, tests that
it names exist, numbers that it quotes are those of stored results."""

import ast
import doctest
import re
import runpy
from pathlib import Path

import pytest

from diptych.lab.stored import EARLIER, read_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "claims"
MADE = {ROOT / "docs" / "_build", ROOT / "docs" / "reference" / "generated"}
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if MADE.isdisjoint(page.parents)),
]

_FENCE = re.compile(r"^(```|:::).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"(?:`|/blob/main/)(tests/[\w/]+\.py)(?:::(\w+))?")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(
        r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """RELIABILITY 29: files and headings; addresses outside are not fetched."""
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")], ids=name
)
def test_examples_give_what_they_print(page: Path) -> None:
    text = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(text, {}, name(page), str(page), 0)
    result = doctest.DocTestRunner(optionflags=flags).run(test)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_named_in_the_text_exist(page: Path) -> None:
    for path, function in _TEST.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{name(page)} names {path}"
        if function:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert function in defined, f"{name(page)} names {path}::{function}"


def test_the_reference_has_every_public_module() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference_pages.py"))
    listed = re.findall(r"automodule:: (\S+)", "\n".join(made["pages"]().values()))
    assert len(listed) == len(set(listed))
    for file in (ROOT / "src" / "diptych").rglob("*.py"):
        parts = file.relative_to(ROOT / "src").with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        private = any(part.startswith("_") for part in module.split("."))
        if not private and made["public_names"](file):
            assert module in listed, f"{module} is on no page of the reference"


def test_every_page_of_the_reference_can_be_reached() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "reference_pages.py"))["pages"]()
    guide = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    for page in pages:
        name = page.removesuffix(".md")
        parent, _, child = name.rpartition("/")
        if parent:
            assert f"{parent.rpartition('/')[2]}/{child}\n" in pages[f"{parent}.md"]
        else:
            assert f"<generated/{name}>" in guide, f"docs/reference/index.md does not name {name}"


QUOTE = re.compile(r"([-−+]?\d*\.?\d+)( ?%)? ?<!-- ([\w.]+):([\w./+:,-]+) -->")
"""A number of a stored result in the text of a page, and where in the record it is, such as
`.61 <!-- lion:arms.lion_64.r1 -->`; of a metric or an expectation that is its mean."""


def quoted(where: str, path: str) -> float:
    value = read_result(RESULTS / f"{where}.json")
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return float(value["mean"] if isinstance(value, dict) else value)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_numbers_that_a_page_quotes_are_those_of_the_stored_results(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text("utf-8"))
    for number, percent, where, path in QUOTE.findall(text):
        digits = len(number.partition(".")[2])
        value = quoted(where, path) * (100 if percent else 1)
        assert f"{abs(value):.{digits}f}" == f"{abs(float(number.replace('−', '-'))):.{digits}f}", (
            f"{page.name} quotes {number}{percent} for {path} of {where}, the result is {value}"
        )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_results_on_a_methods_page_are_quoted(page: Path) -> None:
    """Where a claim was judged by today's rule, each decimal number below `## Results` says where
    it comes from."""
    record = read_result(RESULTS / f"{page.stem}.json")
    if page.parent.name != "methods" or record is None or record["format"] == EARLIER:
        return
    text = page.read_text("utf-8").partition("\n## Results\n")[2].partition("\n## ")[0]
    assert not re.findall(r"(?<![\w.])\d*\.\d+", QUOTE.sub("", text))
