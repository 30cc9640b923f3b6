"""The README's commands run, in a small form, in the order in which a reader types them.

Each command of a ```bash block is executed as it stands, plus the options of `SMALL`, which make it
short. One that is not executed must say why in `ELSEWHERE`.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import diptych
from diptych.cli import main

ROOT = Path(__file__).resolve().parents[1]

SMALL = {  # what is added to a verb to make it short
    "train": "--steps 2 --batch-size 32",
}
ELSEWHERE = {
    "make demo": "tests/lab tests the demo; here its rule is dry-run",
    "make test": "is running now",
    "python3 -m venv .venv": "the Makefile does the same",
}


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line.strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands ran: it holds `runs/first` and `emb`."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in commands():
            if line in ELSEWHERE:
                continue
            program, verb, *rest = shlex.split(line)
            assert program == "diptych", f"{line!r} is neither executed nor excused"
            code = main([verb, *rest, *shlex.split(SMALL.get(verb, ""))])
            assert not code, f"{line!r} exited with {code}"
    return folder


def test_every_command_runs(folder: Path) -> None:
    """RELIABILITY 29."""
    assert (folder / "runs/first/model.safetensors").is_file()
    assert (folder / "emb/diptych.json").is_file()


def test_drop_in_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As printed, but with the model of the commands above in place of one that would be
    fetched."""
    [code] = blocks("python")
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (80, 60), (200, 120, 40)).save(folder / name)
    monkeypatch.chdir(folder)
    load = diptych.load
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(
        diptych, "load", lambda spec, precision: load("runs/first", precision=precision)
    )
    exec(code, {})
    assert "tensor" in capsys.readouterr().out


# how a row of the first table begins: its file, and which of the file's rows are which of its
# columns
RATIOS = {
    "ViT-B/32, captions": ("text", (1, 0)),
    "ViT-B/32, images from tensors": ("images", (1, 0)),
    "ViT-B/32, images from a folder": ("folder", (1, 0)),
    "a training step": ("step", (1, 0)),
    "softmax loss": ("loss_softmax", (None, 0)),
    "tar shards of 1600 x 1200": ("tar", (None, 1)),
    "recall": ("recall", (None, 0)),
}


def test_the_ratios_it_opens_with_are_the_stored_ones() -> None:
    table = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("|---|---|---|\n")[1]
        .split("\n\n")[0]
    )
    assert len(table.splitlines()) == len(RATIOS)
    for line in table.splitlines():
        what, *reported = (cell.strip() for cell in line.strip("|").split("|"))
        [(name, columns)] = [where for start, where in RATIOS.items() if what.startswith(start)]
        rows = json.loads((ROOT / f"results/benchmarks/{name}.json").read_text(encoding="utf-8"))[
            "rows"
        ]
        assert reported == [
            "" if row is None else f"{1 / rows[row]['ratio']:.1f}" for row in columns
        ], what
        part = re.search(r"1/(\d+) of", what)
        if part:
            assert round(1 / rows[1]["ratio"]) == int(part[1]), what


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_has_the_targets_that_readme_and_docs_name() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        target
        for page in pages
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= rules
    for target in ("demo", "test"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_demo_installs_what_its_search_needs() -> None:
    """On a bare machine `make demo` is the first command; embedding needs pyarrow, which is in an
    extra."""
    assert re.search(
        r"^demo: .*\$\(STAMPS\)/search\b", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
