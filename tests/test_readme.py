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

from diptych.cli import main
from diptych.data.sources import open_source
from diptych.lab.league import BASELINES
from diptych.methods.registry import cards

ROOT = Path(__file__).resolve().parents[1]

HUB = "openclip:ViT-B-32/laion2b_s34b_b79k"  # weights that are fetched; `tiny` takes their place
SMALL = {  # what is added to a verb to make it short
    "train": "--steps 2 --batch-size 32",
}
ELSEWHERE = {
    "make demo": "tests/lab tests the demo; here its rule is dry-run",
    "make test": "is running now",
    "diptych reproduce cones --quick": "tests/lab/claims runs its arms; this takes three minutes",
    "diptych compare clip siglip --data products.csv:split=train --test products.csv:split=test --budget 20000 --out "
    "runs/two": "tests/lab/compare and tests/cli/test_compare.py run comparisons",
    "python3 -m venv .venv": "the Makefile does the same",
}


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    text = "".join(blocks("bash")).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def draw(folder: Path) -> None:
    """Make the files that the README takes for the reader's own: photos/ and products.csv."""
    (folder / "photos").mkdir()
    rows = ["filepath,title,split"]
    for at, sample in enumerate(open_source("scenes:count=96:number=1")):
        name = "kitchen.jpg" if at == 0 else f"{at}.jpg"
        sample.images["main"].decode().convert("RGB").save(folder / "photos" / name)
        split = "train" if at < 64 else "val" if at < 80 else "test"
        rows.append(f'photos/{name},"{sample.captions()[0]}",{split}')
    (folder / "products.csv").write_text("\n".join(rows), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands ran: it holds `runs/first` and `emb`."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw(folder)
        for line in commands():
            if line in ELSEWHERE:
                continue
            program, verb, *rest = shlex.split(line.replace(HUB, "tiny"))
            assert program == "diptych", f"{line!r} is neither executed nor excused"
            code = main([verb, *rest, *shlex.split(SMALL.get(verb, ""))])
            assert not code, f"{line!r} exited with {code}"
    return folder


def test_every_command_runs(folder: Path) -> None:
    """RELIABILITY 29."""
    assert (folder / "runs/first/model.safetensors").is_file()
    assert (folder / "runs/mine/report.html").is_file()
    assert (folder / "drawings/diptych.json").is_file()


def test_drop_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, but with `tiny` in place of a model that would be fetched."""
    [code] = blocks("python")
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: dict = {}
    exec(code.replace(HUB, "tiny"), found)
    assert [hit.rank for hit in found["hits"]] == [1, 2, 3, 4, 5]
    assert found["run"].model.embed_texts(["a cat"]).shape[0] == 1


# how a row of the table of speeds begins: its file, and which of the file's rows are which of its
# columns
RATIOS = {
    "ViT-B/32, captions": ("text", (1, 0)),
    "ViT-B/32, images from tensors": ("images", (1, 0)),
    "ViT-B/32, images from a folder": ("folder", (1, 0)),
    "a training step": ("step", (1, 0)),
    "a LoRA step": ("lora", (None, 0)),
    "softmax loss": ("loss_softmax", (None, 0)),
    "tar shards of 1600 x 1200": ("tar", (None, 1)),
    "recall": ("recall", (None, 0)),
}


def test_the_ratios_it_shows_are_the_stored_ones() -> None:
    table = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("\n|---|---|---|\n")[1]
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


def test_the_papers_it_counts_are_those_with_and_without_a_stored_verdict() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    stored = {path.name.split(".")[0] for path in (ROOT / "results/claims").glob("*.json")}
    judged = stored - set(BASELINES)
    [named] = re.findall(r"Those of ([^.]*) have none yet", text)
    others = set(re.findall(r"`(\w+)`", named))
    assert not others & stored
    assert others <= set(cards())
    assert f"| {len(judged)} of {len(judged | others)} [[6]]" in text
    results = text.split("**Claims**")[1].split("**Models and towers.**")[0]
    assert judged <= set(re.findall(r"`(\w+)`", results))


def test_what_it_counts_and_lists_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    def listed(what: str) -> set[str]:
        assert main(["list", what, "--json"]) == 0
        return {row["name"] for row in json.loads(capsys.readouterr().out)}

    assert f"{len(listed('suites'))} suites" in text
    [optimizers] = re.findall(r"- Optimisers ([^;]*), or", text)
    assert set(re.findall(r"\w+", optimizers.lower())) - {"and"} == listed("optimizers")
    [worlds] = re.findall(r"\[(`scenes`[^]]*)\]\(docs/worlds.md\)", text)
    assert set(re.findall(r"`(\w+)`", worlds)) == listed("worlds")


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
