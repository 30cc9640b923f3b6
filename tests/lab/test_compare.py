"""Comparisons: the grid, what a cell trains, a table that goes on, and its page."""

import json

import pytest
import torch
from tests.lab import jobs
from tests.lab.test_report import check

from diptych.errors import InputError
from diptych.lab.compare import Table, chosen, compare, grid, lines, read, write_report
from diptych.lab.compare import cell as cells
from diptych.lab.compare.cell import Cell, Task, resolved, run, towers
from diptych.methods.store import load

DATA = {"data": "glyphs:design=noto", "test": "glyphs:split=val:design=noto"}


@pytest.fixture
def fake(monkeypatch):
    """Cells whose numbers are known, at no cost."""
    monkeypatch.setattr(cells, "run", jobs.measured)


def ran(out):
    path = out / "runs" / "ran.txt"
    return path.read_text().split() if path.exists() else []


def test_a_grid_goes_seed_by_seed():
    found = grid(["clip", "siglip"], [0.5, 1.0], [10], [0, 1])
    assert found[0] == Cell(method="clip", size=0.5, budget=10, seed=0)
    assert [(cell.seed, cell.size, cell.method) for cell in found] == [
        (seed, size, method) for seed in (0, 1) for size in (0.5, 1.0) for method in ("clip", "siglip")
    ]
    assert len({cell.folder for cell in found}) == 8


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ((["clip", "clip"], [1], [10], [0]), "at least one method, and each once; given: clip, clip"),
        ((["clip"], [], [10], [0]), "at least one size"),
        ((["clip"], [0.0], [10], [0]), "the size 0 is not above 0"),
        ((["clip"], [1], [-5], [0]), "the budget -5 is not above 0"),
    ],
)
def test_a_grid_of_nothing_is_refused(lists, message):
    with pytest.raises(InputError, match=message):
        grid(*lists)


def test_widths_are_multiplied_and_stay_whole_for_heads():
    assert towers("clip", 1.0)[0].startswith("conv:image_size=48:widths=(48, 96, 192)")
    image, text = towers("clip", 0.5)
    assert "widths=(24, 48, 96)" in image
    assert "width=64:depth=1:heads=4" in text
    assert "width=160" in towers("clip", 1.2)[1]  # 153.6, in whole multiples of 8 a head
    assert "width=32" in towers("clip", 0.01)[1]
    with pytest.raises(InputError, match="the image tower .* has no width to multiply by 2"):
        cells._scaled("timm:resnet18", "image", 2.0)


def test_options_behind_a_method_go_to_the_method_and_to_its_recipe():
    cell = Cell(method="clip:scale=20:lr=0.25:batch_size=64", size=1.0, budget=300, seed=4)
    config = resolved(cell, "glyphs", 600)
    assert config.config["scale"] == 20
    assert (config.recipe.lr, config.recipe.batch_size, config.recipe.epochs, config.recipe.steps) == (
        0.25,
        64,
        0.5,
        None,
    )
    assert config.options.seed == 4
    for method, message in (
        ("clpi", "did you mean 'clip'"),
        ("clip:scal=3", "option of method CLIP 'scal'; did you mean 'scale'"),
        ("clip:epochs=3", "how long to train is the budget's; leave epochs out"),
    ):
        with pytest.raises(InputError, match=message):
            resolved(Cell(method=method, size=1.0, budget=300, seed=0), "glyphs", 600)


def test_a_cell_is_trained_and_measured(pairs_csv, tmp_path):
    """Three steps of a small method."""
    cell = Cell(method="clip:batch_size=20", size=0.25, budget=48, seed=1)
    task = Task(cell=cell, data=str(pairs_csv), test=str(pairs_csv), suites=("retrieval",), folder=tmp_path / "run")
    row = run(task, lambda line: None)
    assert row == json.loads((tmp_path / "run" / "row.json").read_text())
    assert (row["method"], row["size"], row["budget"], row["seed"]) == ("clip:batch_size=20", 0.25, 48, 1)
    assert (row["steps"], row["samples"], row["batch_size"]) == (3, 48, 20)  # three even batches of 16
    assert (row["optimizer"], row["lr"], row["schedule"]) == ("muon", 0.004, "cosine")
    assert 0 <= row["metrics"]["retrieval/t2i_r1"] <= 1
    assert row["metrics"]["retrieval/chance_t2i_r1"] == pytest.approx(1 / 48)
    assert not (tmp_path / "run" / "state").exists()
    model = load(tmp_path / "run")
    assert row["parameters"] == sum(p.numel() for p in model.encoder.parameters())
    assert row["gflops"] == pytest.approx(flops_by_hand(model) / 1e9)


def test_a_cell_that_was_killed_goes_on_from_its_checkpoint(pairs_csv, tmp_path, monkeypatch):
    """Killed between the last checkpoint and the row: nothing is trained again."""
    cell = Cell(method="clip:batch_size=20", size=0.25, budget=48, seed=1)
    task = Task(cell=cell, data=str(pairs_csv), test=str(pairs_csv), suites=("retrieval",), folder=tmp_path / "run")

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cells.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run(task, lambda line: None)
    before = json.loads((tmp_path / "run" / "row.json").read_text())
    (tmp_path / "run" / "row.json").unlink()
    after = run(task, lambda line: None)
    assert (after["metrics"], after["steps"]) == (before["metrics"], 3)
    losses = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(losses) == 3


def flops_by_hand(model) -> int:
    """Twice the multiply-adds of all products and convolutions, from shapes seen by hooks, and those of attention."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Linear):
            total += 2 * output.numel() * module.in_features
        if isinstance(module, torch.nn.Conv2d):
            total += 2 * output.numel() * module.in_channels // module.groups * module.kernel_size[0] ** 2

    hooks = [module.register_forward_hook(count) for module in model.encoder.modules()]
    size, context = model.preprocess.size, model.tokenizer.context
    with torch.no_grad():
        model.encoder.embed_images(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        model.encoder.embed_texts(torch.zeros(1, context, dtype=torch.long), torch.tensor([context]))
    for hook in hooks:
        hook.remove()
    return total + 2 * 2 * context**2 * model.encoder.text.width  # q k^T and its product with v, one layer


def test_a_table_grows_by_what_is_missing(fake, tmp_path):
    out = tmp_path / "two"
    small = grid(["clip", "siglip"], [1.0], [1000], [0, 1])
    table = compare(small, out=out, at_once=2, **DATA)
    assert len(ran(out)) == 4
    assert sorted(row["seed"] for row in read(out).rows) == [0, 0, 1, 1]
    compare(small, out=out, at_once=2, **DATA)
    assert len(ran(out)) == 4

    (out / "results.jsonl").write_text("\n".join((out / "results.jsonl").read_text().splitlines()[:3]) + "\n")
    compare(small, out=out, at_once=2, **DATA)  # a job that was done, and whose row the table had not taken in yet
    assert len(ran(out)) == 4
    assert len(read(out).rows) == 4

    wide = compare(grid(["siglip", "clip"], [1.0], [1000, 2000], [0]), out=out, at_once=2, **DATA)
    assert len(ran(out)) == 6
    assert len(wide.rows) == 6
    assert wide.methods == table.methods == ["clip", "siglip"]
    for name, value in (("data", "glyphs"), ("test", "glyphs")):
        with pytest.raises(InputError, match=f"compares with {name} glyphs:.* not glyphs; name another --out"):
            compare(small, out=out, **{**DATA, name: value})


def test_lines_are_means_over_seeds_and_gains_are_paired(tmp_path):
    (tmp_path / "runs").mkdir()
    table = Table(folder=tmp_path, suites=("retrieval",), methods=["clip", "siglip"], **DATA)
    for cell in grid(["clip", "siglip"], [0.5, 1.0], [1000, 2000], [0, 1, 2]):
        task = Task(cell=cell, suites=table.suites, folder=tmp_path / "runs" / cell.folder, **DATA)
        table.add(jobs.measured(task, print))
    assert chosen(table, None) == ("retrieval/t2i_r1",)
    assert chosen(table, ["mrr", "retrieval/t2i_r1"]) == ("retrieval/mrr", "retrieval/t2i_r1")
    with pytest.raises(InputError, match="unknown metric 'mrrr'; did you mean 'mrr'"):
        chosen(table, ["mrrr"])
    found = lines(table, ["retrieval/t2i_r1"])
    assert [(line.size, line.budget, line.method) for line in found] == [
        (size, budget, method) for size in (0.5, 1.0) for budget in (1000, 2000) for method in ("clip", "siglip")
    ]
    last = found[-1]
    assert last.metrics["retrieval/t2i_r1"].mean == pytest.approx(0.1 + 0.2 + 0.01 + 0.05)
    assert last.metrics["retrieval/t2i_r1"].half == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)
    gain = last.gains["retrieval/t2i_r1"]
    assert (gain.mean, gain.half) == pytest.approx((0.05, 0.0), abs=1e-12)
    assert found[0].gains == {}

    html = write_report(table).read_text()
    text = check(html).text
    assert html.count('role="img"') == 4  # two sizes against samples, two budgets against GFLOPs
    for part in ("clip, siglip: trained on glyphs:design=noto", "+0.0500 ± ", "0.3100 ± 0.025", "retrieval abc"):
        assert part in text, part


def test_what_does_not_fit_is_told_before_anything_is_trained(fake, tmp_path):
    def refused(message, out=tmp_path / "out", methods=("clip",), sizes=(1.0,), **changed):
        with pytest.raises(InputError, match=message):
            compare(grid(methods, sizes, [100], [0]), out=out, **{**DATA, **changed})
        assert not (tmp_path / "out").exists()

    refused("unknown method 'clpi'", methods=("clip", "clpi"))
    refused("the sizes 1 and 1.01 round to the same towers of clip; drop one", sizes=(1.0, 1.01))
    refused("unknown suite 'retrieva'", suites=("retrieva",))
    refused("unknown option of source 'glyphs' 'splt'", test="glyphs:splt=val")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    refused("mine holds something else; name a new or empty folder", out=tmp_path / "mine")
    with pytest.raises(InputError, match="mine holds no comparison; begin one with"):
        read(tmp_path / "mine")
