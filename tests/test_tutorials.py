"""The tutorials' commands and code run, in a small form, in the order in which a reader types
them."""

import re
import shlex
from pathlib import Path

import pytest

from diptych.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
SMALL = {"train": "--steps 2 --batch-size 8 --quiet"}  # what is added to a verb to make it short
HUB = "openclip:ViT-B-32/laion2b_s34b_b79k"  # weights that are fetched; `tiny` takes their place
IMAGES = {
    "count=120": "count=80",
    "count=60": "count=24",
    "count=100": "count=24",
    "count=500": "count=48",
    "--count 400": "--count 24",
    "--count 100": "--count 24",
}


def parts(name: str) -> list[tuple[str, str]]:
    """Language and text of each block of a tutorial."""
    return re.findall(
        r"^```(bash|python)\n(.*?)^```", (DOCS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.md")))
def test_a_tutorial_runs_from_top_to_bottom(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = 0
    for language, text in parts(name):
        for whole, less in IMAGES.items():
            text = text.replace(whole, less)
        if language == "python":
            exec(compile(text, name, "exec"), {})
            continue
        for line in text.splitlines():
            program, verb, *words = shlex.split(line.replace(HUB, "tiny"))
            assert program == "diptych", line
            code = main([verb, *words, *shlex.split(SMALL.get(verb, ""))])
            assert not code, f"{line!r} exited with {code}: {capsys.readouterr().err}"
            ran += 1
    assert ran > 5
