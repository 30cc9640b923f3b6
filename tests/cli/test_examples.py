"""Every command that the help, the docs and the README print is one that the command line reads."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych import cli
from diptych.cli import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_START = re.compile(
    r"^(?:\w+=\S+ )*(?:\S.* -m )?diptych (?=[a-z])"
)  # DIPTYCH_DATA=… or a launcher may stand before
_PARTS = re.compile(r"…|\.\.\.")  # a form and no example


def examples() -> Iterator[tuple[str, str]]:
    """(where, command) of the examples of all helps."""
    for verb in cli.verbs():
        module = __import__(f"diptych.cli.{verb}", fromlist=["EXAMPLES"])
        yield from ((f"{verb} --help", line) for line in module.EXAMPLES)


def printed() -> Iterator[tuple[str, str]]:
    """(page, command) of all pages: lines of shell blocks, and commands within the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(_BLOCK.findall(text)).replace("\\\n", " ")
        found = [line.strip() for line in blocks.splitlines()] + _INLINE.findall(text)
        yield from ((str(page.relative_to(ROOT)), line) for line in found if _START.match(line))


COMMANDS = list(dict.fromkeys([*examples(), *printed()]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose config.yaml the examples go on from, and a method's file."""
    path = tmp_path_factory.mktemp("runs")
    for name in ("decoupled.py", "mine.py", "FILE.py"):
        shutil.copy(ROOT / "tests" / "methods" / "decoupled.py", path / name)
    for run in ("first", "big"):
        (path / "runs" / run).mkdir(parents=True)
        (path / "runs" / run / "config.yaml").write_text("method: clip\n")
    return path


def test_there_are_many() -> None:
    assert len(COMMANDS) > 200


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=lambda value: value)
def test_a_printed_command_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, where: str, command: str
) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(_START.sub("", command), comments=True)
    if any(_PARTS.search(word) for word in words) or words[-1].startswith(
        "--"
    ):  # a part of a command
        assert words[0] in cli.verbs()
        return
    stands_for = {"N": "1", "RUN": "runs/first"}
    parse([stands_for.get(word, word) for word in words])


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["search", "emb", "-k", "2", "a red mug"], {"emb": "emb", "text": "a red mug", "k": 2}),
        (["search", "-k", "2", "emb", "a red mug"], {"emb": "emb", "text": "a red mug", "k": 2}),
        (
            ["search", "emb", "--image", "f.png", "blue", "--minus", "red"],
            {"text": "blue", "minus": "red"},
        ),
        (
            ["search", "emb", "mug", "--where", "price < 20 and brand = 'acme'"],
            {"text": "mug", "where": "price < 20 and brand = 'acme'"},
        ),
        (
            ["embed", "m", "s", "--columns", "price,sku", "--part", "3/100", "--out", "e"],
            {"columns": "price,sku", "part": "3/100", "source": "s"},
        ),
        (["embed", "--merge", "--out", "e"], {"merge": True, "model": None, "out": "e"}),
        (["search", "emb", "--json", "blue"], {"emb": "emb", "text": "blue", "json": True}),
        (["search", "emb", "-k=2", "--", "--blue--"], {"emb": "emb", "text": "--blue--", "k": 2}),
        (
            ["embed", "m", "--weights", "f", "photos/"],
            {"model": "m", "source": "photos/", "weights": "f"},
        ),
        (["embed", "m", "--out=e", "photos/"], {"model": "m", "source": "photos/", "out": "e"}),
        (
            ["classify", "--names", "a,b", "tiny", "x.jpg"],
            {"model": "tiny", "images": "x.jpg", "names": "a,b"},
        ),
        (
            ["classify", "tiny", "--names", "a,b", "x.jpg"],
            {"model": "tiny", "images": "x.jpg", "names": "a,b"},
        ),
        (
            ["compare", "clip", "--budget", "9", "siglip"],
            {"methods": ["clip", "siglip"], "budget": "9"},
        ),
        (
            ["train", "--quiet", "--method.scale", "5", "clip", "--lr", "1"],
            {"name": "clip", "method.scale": 5.0},
        ),
        (
            ["generate", "lm", "--temperature", "0.5", "a red", "--seed", "-1"],
            {"prompt": "a red", "seed": -1},
        ),
    ],
)
def test_words_may_stand_before_between_and_behind_options(
    words: list[str], reported: dict
) -> None:
    args = parse(words)
    assert {name: args[name] for name in reported} == reported
