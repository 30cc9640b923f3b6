"""`diptych` without arguments tells what fits the working directory."""

import os
import shlex
import subprocess
import sys

import pytest

from diptych.cli import main, parse
from diptych.cli._here import fitting

MODEL = "openclip:ViT-B-32/laion2b_s34b_b79k"
SEARCH = [f"diptych embed {MODEL} . --out ../emb", "diptych search ../emb 'two dogs on a beach'"]


def tune(data: str, out: str) -> list[str]:
    return [
        f"diptych check {data}",
        f"diptych train clip --init {MODEL} --data {data} --out {out}",
    ]


ROWS = {
    "nothing": ([], []),
    "other files": (["a.py", "notes.txt", "photos"], []),
    "images": (["b.JPG", "a.png", "read me.txt"], SEARCH),
    "captions": (["a.png", "a.txt"], [*SEARCH, *tune(".", "../mine")]),
    "a table": (["my pairs.csv", "z.tsv"], tune("'my pairs.csv'", "mine")),
    "both": (["a.webp", "b.parquet"], [*SEARCH, *tune("b.parquet", "mine")]),
    "tars": (["0.tar"], tune("'*.tar'", "mine")),
    "a run": (["model.json", "config.yaml", "metrics.jsonl"], ["diptych info ."]),
    "embeddings": (
        ["diptych.json", "a.png"],
        ["diptych search . 'two dogs on a beach'", "diptych serve ."],
    ),
}


@pytest.mark.parametrize(("names", "commands"), ROWS.values(), ids=ROWS)
def test_the_names_decide_which_commands_fit(names, commands):
    lines = "\n".join(fitting(names)).splitlines()
    found = [line.strip() for line in lines if line.startswith("  ")]
    assert found == commands
    for command in found:
        program, *words = shlex.split(command)
        assert program == "diptych"
        parse(words)


def test_it_is_said_below_the_help_without_torch(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "x\x1b[31m.csv").touch()
    program = (
        "import sys; from diptych.cli import main; main([]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: diptych COMMAND")
    assert "There are images here" in done.stdout
    assert "\x1b" not in done.stdout


def test_help_says_nothing_of_the_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["--help"]) == 0
    assert "There are images here" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_listed_is_no_trouble(monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "scandir", refuse)
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: diptych")
