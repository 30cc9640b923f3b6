"""Comparisons: the grid, what a cell trains, a table that goes on, and its page."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.lab import jobs
from tests.lab.helpers import check

from diptych.errors import InputError
from diptych.front.trying import write_page
from diptych.lab.compare import (
    Common,
    Table,
    chosen,
    compare,
    differences,
    grid,
    lines,
    notes,
    read,
    write_report,
)
from diptych.lab.compare import cell as cells
from diptych.lab.compare.cell import Cell, Task, delivered, gflops, resolved, run, setting, towers
from diptych.lab.scaling.report import cards_of_comparison
from diptych.methods.base import Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.store import load
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder

OWN = Path(__file__).parents[1] / "methods" / "decoupled.py"
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
        (seed, size, method)
        for seed in (0, 1)
        for size in (0.5, 1.0)
        for method in ("clip", "siglip")
    ]
    assert len({cell.folder for cell in found}) == 8


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            (["clip", "clip"], [1], [10], [0]),
            "at least one method, and each once; given: clip, clip",
        ),
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
    assert (
        config.recipe.lr,
        config.recipe.batch_size,
        config.recipe.epochs,
        config.recipe.steps,
    ) == (
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
    task = Task(
        cell=cell,
        data=str(pairs_csv),
        test=str(pairs_csv),
        suites=("retrieval",),
        folder=tmp_path / "run",
    )
    row = run(task, lambda line: None)
    assert row == json.loads((tmp_path / "run" / "row.json").read_text())
    assert (row["method"], row["size"], row["budget"], row["seed"]) == (
        "clip:batch_size=20",
        0.25,
        48,
        1,
    )
    assert (row["steps"], row["samples"], row["batch_size"]) == (
        3,
        48,
        20,
    )  # three even batches of 16
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
    task = Task(
        cell=cell,
        data=str(pairs_csv),
        test=str(pairs_csv),
        suites=("retrieval",),
        folder=tmp_path / "run",
    )

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
    losses = [
        line
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert len(losses) == 3


def test_at_a_constant_rate_lower_budgets_are_checkpoints_of_the_longest_run(pairs_csv, tmp_path):
    """Their weights are those of runs that end there, but for augmentation, which has a ramp."""
    rate = "clip:batch_size=20:schedule=constant:warmup=1:augment=None"

    def ran(name, budget, shorter=()):
        cell = Cell(method=rate, size=0.25, budget=budget, seed=1)
        folder = tmp_path / name / cell.folder
        task = Task(cell=cell, shorter=shorter, data=str(pairs_csv), test=str(pairs_csv),
                    suites=("retrieval",), folder=folder)  # fmt: skip
        return folder, run(task, lambda line: None)

    long, row = ran("kept", 96, (32, 64))
    assert (row["budget"], row["steps"], row.get("checkpoint_of")) == (96, 6, None)
    for budget, steps in ((32, 2), (64, 4)):
        own, alone = ran("alone", budget)
        kept = long.with_name(own.name)
        found = json.loads((kept / "row.json").read_text())
        assert (found["steps"], found["samples"], found["checkpoint_of"]) == (steps, budget, 96)
        assert found["metrics"] == alone["metrics"]
        weights = [(folder / "model.safetensors") for folder in (kept, own)]
        first, second = (load_file(path) for path in weights)
        assert all(torch.equal(first[name], second[name]) for name in second)
        assert 0 < found["seconds"] < row["seconds"]


def test_budgets_at_a_constant_rate_are_one_job(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "run", jobs.measured_with_shorter)
    out = tmp_path / "out"
    common = Common(recipe={"schedule": "constant", "warmup": 2})
    some = grid(["clip", "siglip:schedule=cosine"], [1.0], [1000, 2000], [0])
    table = compare(some, out=out, common=common, at_once=2, **DATA)
    assert sorted(name.partition("-x1-")[2] for name in ran(out)) == [
        "1000-seed0",
        "2000-seed0",
        "2000-seed0",
    ]
    assert len(table.rows) == 4
    assert all(table.has(cell) for cell in some)
    assert "1,000 samples: checkpoints of runs of 2,000 at a constant rate" in notes(table)
    assert "to the end of its schedule" not in write_report(table).read_text()
    short = Common(recipe={"schedule": "constant", "warmup": 0.1})
    few = grid(["clip"], [1.0], [1000, 20_000], [0])
    with pytest.raises(InputError, match="1,000 of clip .* 20,000 samples, which warms up for 2,"):
        compare(few, out=tmp_path / "b", common=short, **DATA)
    assert not (tmp_path / "b").exists()


def flops_by_hand(model) -> int:
    """Twice the multiply-adds of all products and convolutions, from shapes seen by hooks, and
    those of attention."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, torch.nn.Linear):
            total += 2 * output.numel() * module.in_features
        if isinstance(module, torch.nn.Conv2d):
            total += (
                2
                * output.numel()
                * module.in_channels
                // module.groups
                * module.kernel_size[0] ** 2
            )

    hooks = [module.register_forward_hook(count) for module in model.encoder.modules()]
    size, context = model.preprocess.size, model.tokenizer.context
    with torch.no_grad():
        model.encoder.embed_images(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        model.encoder.embed_texts(
            torch.zeros(1, context, dtype=torch.long), torch.tensor([context])
        )
    for hook in hooks:
        hook.remove()
    return (
        total + 2 * 2 * context**2 * model.encoder.text.width
    )  # q k^T and its product with v, one layer


def test_a_table_grows_by_what_is_missing(fake, tmp_path):
    out = tmp_path / "two"
    small = grid(["clip", "siglip"], [1.0], [1000], [0, 1])
    table = compare(small, out=out, at_once=2, **DATA)
    assert len(ran(out)) == 4
    assert sorted(row["seed"] for row in read(out).rows) == [0, 0, 1, 1]
    compare(small, out=out, at_once=2, **DATA)
    assert len(ran(out)) == 4

    (out / "results.jsonl").write_text(
        "\n".join((out / "results.jsonl").read_text().splitlines()[:3]) + "\n"
    )
    compare(
        small, out=out, at_once=2, **DATA
    )  # a job that was done, and whose row the table had not taken in yet
    assert len(ran(out)) == 4
    assert len(read(out).rows) == 4

    wide = compare(grid(["siglip", "clip"], [1.0], [1000, 2000], [0]), out=out, at_once=2, **DATA)
    assert len(ran(out)) == 6
    assert len(wide.rows) == 6
    assert wide.methods == table.methods == ["clip", "siglip"]
    for name, value in (("data", "glyphs"), ("test", "glyphs")):
        with pytest.raises(
            InputError, match=f"compares with {name} glyphs:.* not glyphs; name another --out"
        ):
            compare(small, out=out, **{**DATA, name: value})


def test_rows_of_a_method_whose_file_has_changed_are_refused(fake, tmp_path):
    own = tmp_path / "mine.py"
    shutil.copy(OWN, own)
    some = grid([str(own), "clip"], [1.0], [1000], [0])
    compare(some, out=tmp_path / "two", at_once=2, **DATA)
    compare(some, out=tmp_path / "two", at_once=2, **DATA)
    assert len(ran(tmp_path / "two")) == 2
    own.write_text(own.read_text() + "# another\n")
    more = [*some, *grid(["siglip"], [1.0], [1000], [0])]
    with pytest.raises(InputError, match="mine.py has changed since rows .* name another --out"):
        compare(more, out=tmp_path / "two", at_once=2, **DATA)
    assert read(tmp_path / "two").methods == [str(own), "clip"]
    compare(some[1:], out=tmp_path / "two", at_once=2, **DATA)


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
        (size, budget, method)
        for size in (0.5, 1.0)
        for budget in (1000, 2000)
        for method in ("clip", "siglip")
    ]
    last = found[-1]
    assert last.metrics["retrieval/t2i_r1"].mean == pytest.approx(0.1 + 0.2 + 0.01 + 0.05)
    assert last.metrics["retrieval/t2i_r1"].half == pytest.approx(
        4.302653 * 0.01 / 3**0.5, rel=1e-5
    )
    gain = last.gains["retrieval/t2i_r1"]
    assert (gain.mean, gain.half) == pytest.approx((0.05, 0.0), abs=1e-12)
    assert found[0].gains == {}

    html = write_report(table).read_text()
    text = check(html).text
    assert html.count('role="img"') == 4  # two sizes against samples, two budgets against GFLOPs
    for part in (
        "clip, siglip: trained on glyphs:design=noto",
        "+0.0500 ± ",
        "0.3100 ± 0.025",
        "retrieval abc",
    ):
        assert part in text, part


def test_what_does_not_fit_is_told_before_anything_is_trained(fake, tmp_path, monkeypatch):
    def refused(message, out=tmp_path / "out", methods=("clip",), sizes=(1.0,), **changed):
        with pytest.raises(InputError, match=message):
            compare(grid(methods, sizes, [100], [0]), out=out, **{**DATA, **changed})
        assert not (tmp_path / "out").exists()

    refused("unknown method 'clpi'", methods=("clip", "clpi"))
    refused("the sizes 1 and 1.01 round to the same towers of clip; drop one", sizes=(1.0, 1.01))
    refused("unknown suite 'retrieva'", suites=("retrieva",))
    with monkeypatch.context() as patch:
        patch.setattr(CLIP, "stages", lambda self: (Stage(streams=("train", "web")),))
        remedy = "diptych train clip --data train=SOURCE --data web=SOURCE"
        refused(f"clip reads the streams train, web, and a comparison has one, .* {remedy}")
    refused("unknown option of source 'glyphs' 'splt'", test="glyphs:splt=val")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    refused("mine holds something else; name a new or empty folder", out=tmp_path / "mine")
    with pytest.raises(InputError, match="mine holds no comparison; begin one with"):
        read(tmp_path / "mine")


SMALL_TOWER = "conv:image_size=32:widths=(8,16):depths=(1,1)"


def cell_of(method, **changed):
    return Cell(**{"method": method, "size": 1.0, "budget": 300, "seed": 0, **changed})


def test_what_is_common_goes_to_every_method_and_its_own_options_win():
    common = Common(
        image_tower="vit:width=64:heads=2",
        text_tower="text:width=64",
        tokenizer="clip",
        embed_dim=32,
        recipe={"optimizer": "adamw", "lr": 0.002},
    )
    configs = {
        method: resolved(cell_of(method), "glyphs", 600, common)
        for method in ("clip", "siglip:lr=0.5", "simclr", "language_model")
    }
    own = ("image_tower", "text_tower", "tokenizer", "embed_dim")
    assert [getattr(configs["clip"], name) for name in own] == [
        "vit:width=64:heads=2",
        "text:width=64",
        "clip",
        32,
    ]
    assert [configs["simclr"].image_tower, configs["simclr"].text_tower] == [
        "vit:width=64:heads=2",
        "none",
    ]
    assert [configs["language_model"].image_tower, configs["language_model"].text_tower] == [
        "none",
        "text:width=64",
    ]
    assert [(each.recipe.optimizer, each.recipe.lr) for each in configs.values()] == [
        ("adamw", 0.002),
        ("adamw", 0.5),
        ("adamw", 0.002),
        ("adamw", 0.002),
    ]
    half = towers("clip", 0.5, common.image_tower, common.text_tower)
    assert "width=32" in half[0]
    assert setting(configs["simclr"])["tokenizer"] == "none"


def test_a_method_on_images_alone_is_trained_and_counted(pairs_csv, tmp_path):
    cell = cell_of("simclr:batch_size=24", budget=48)
    task = Task(
        cell=cell,
        common=Common(image_tower=SMALL_TOWER),
        data=str(pairs_csv),
        test=str(pairs_csv),
        suites=(),
        folder=tmp_path / "run",
    )
    row = run(task, lambda line: None)
    model = load(tmp_path / "run")
    assert model.tokenizer is None
    assert row["parameters"] == sum(p.numel() for p in model.encoder.parameters())
    assert 0 < row["gflops"] < 0.1
    assert (row["setting"]["image tower"], row["setting"]["text tower"]) == (
        SMALL_TOWER.replace(",", ", "),
        "none",
    )


SIMCSE = "simcse"


def test_a_method_of_texts_alone_is_trained_and_counted(tmp_path):
    task = Task(
        cell=cell_of(SIMCSE, budget=64),
        common=Common(image_tower=SMALL_TOWER, embed_dim=16),
        data="sentences:count=64",
        test="sentences:count=32:paraphrases=1",
        suites=("text_retrieval",),
        folder=tmp_path / "run",
    )
    row = run(task, lambda line: None)
    model = load(tmp_path / "run")
    assert row["parameters"] == sum(p.numel() for p in model.encoder.parameters())
    assert 0 < row["gflops"] < 0.1
    assert (row["setting"]["image tower"], row["setting"]["dimension"]) == ("none", 16)
    assert "text_retrieval/t2t_r1" in row["metrics"]


@pytest.mark.parametrize(
    ("patch", "width", "depth", "text_width", "published"),
    [(32, 768, 12, 512, 14.54), (16, 768, 12, 512, 39.51), (14, 1024, 24, 768, 168.61)],
)
def test_products_with_weights_are_counted_as_published(patch, width, depth, text_width, published):
    """CLIP B/32, B/16 and L/14 in the table of Nezhurina et al. 2025."""
    image = f"vit:image_size=224:patch={patch}:width={width}:depth={depth}:heads={width // 64}"
    text = f"text:width={text_width}:depth=12:heads={text_width // 64}"
    with torch.device("meta"):
        encoder = DualEncoder(
            image_tower(image), text_tower(text, vocab_size=49408, context=77), text_width
        )
    model = SimpleNamespace(
        encoder=encoder,
        delivered=None,
        preprocess=SimpleNamespace(shape=(3, 224, 224)),
        tokenizer=SimpleNamespace(context=77),
    )
    counted = gflops(model)
    assert round(counted["weight_gflops"], 2) == published
    assert counted["gflops"] > counted["weight_gflops"]


def test_a_language_model_is_counted_by_one_text():
    model = load("tiny-lm")
    parameters = sum(p.numel() for p in delivered(model).parameters())
    context = model.tokenizer.context
    assert parameters == sum(p.numel() for p in model.lm.parameters())
    blocks = [
        p.numel() for name, p in model.lm.named_parameters() if "layers" in name and p.ndim > 1
    ]
    counted = gflops(model)
    assert counted["gflops"] > counted["weight_gflops"] >= 2 * context * sum(blocks) / 1e9


def test_what_a_suite_cannot_measure_is_told_before_anything_is_trained(fake, tmp_path):
    def refused(message, *methods, suite):
        with pytest.raises(InputError, match=message):
            compare(grid(methods, [1.0], [100], [0]), out=tmp_path / "out", suites=(suite,), **DATA)
        assert not (tmp_path / "out").exists()

    refused(
        "simclr has no text tower, so retrieval .* such as probe",
        "clip",
        "simclr",
        suite="retrieval",
    )
    refused(
        "language_model is a language model, so gap .* such as perplexity",
        "language_model",
        suite="gap",
    )
    refused(f"{SIMCSE} has no image tower, so gap .* such as sts", SIMCSE, suite="gap")
    refused("clip writes no texts, so perplexity .* such as retrieval", "clip", suite="perplexity")
    refused("coca writes about images alone, so perplexity", "coca", suite="perplexity")
    refused(
        "coop adapts a trained model.*diptych train coop --init MODEL",
        "clip",
        "coop",
        suite="retrieval",
    )


def table_of(tmp_path, methods, **changed):
    (tmp_path / "runs").mkdir()
    table = Table(folder=tmp_path, suites=("retrieval",), methods=list(methods), **DATA)
    for cell in grid(methods, [1.0], [800], [0, 1]):
        task = Task(cell=cell, suites=table.suites, folder=tmp_path / "runs" / cell.folder, **DATA)
        row = jobs.measured(task, print)
        table.add({**row, **changed.get(cell.method, {})})
    return table


def test_what_differs_beside_the_method_is_told_and_stored(tmp_path):
    alike = {"image tower": "vit", "optimizer": "adamw"}
    mine = {
        "setting": {**alike, "image tower": "conv"},
        "parameters": 5,
        "image_tower": "conv",
        "text_tower": "none",
    }
    table = table_of(tmp_path, ["clip", "siglip"], clip={"setting": alike}, siglip=mine)
    expected = {
        "image tower": {"clip": "vit", "siglip": "conv"},
        "parameters": {"clip": 1_000_000, "siglip": 5},
    }
    assert differences(table) == expected
    table.write_head()
    assert json.loads((tmp_path / "compare.json").read_text())["differs"] == expected
    assert differences(read(tmp_path)) == expected
    html = write_report(table).read_text()
    assert "What differs" in html
    assert "siglip: no text tower, so parameters and GFLOPs are of images alone" in notes(table)


def test_the_page_draws_the_law_of_each_method_with_enough_runs(tmp_path):
    """Errors are 1.5 C^-.2; the law of the fewer runs of siglip is not drawn, nor one of a loss."""
    (tmp_path / "runs").mkdir()
    metrics = ("retrieval/t2i_r1", "retrieval/rank")
    methods = ["clip", "siglip"]
    table = Table(folder=tmp_path, suites=("retrieval",), methods=methods, **DATA)
    for cell in [
        *grid(["clip"], [1.0], [1000, 2000, 4000, 8000], [0]),
        *grid(["siglip"], [1.0], [1000, 2000], [0]),
    ]:
        task = Task(cell=cell, suites=table.suites, folder=tmp_path / "runs" / cell.folder, **DATA)
        row = jobs.measured(task, print)
        error = 1.5 * (row["gflops"] * row["samples"]) ** -0.2
        table.add({**row, "metrics": dict(zip(metrics, (1 - error, 20 * error), strict=True))})
    table.write_head()
    html = write_page(table, metrics).read_text()
    shown = check(html).text
    assert shown.count("Laws of t2i_r1") == 1
    assert "Laws of rank" not in shown
    law = html.partition("Laws of t2i_r1")[2]
    found = cards_of_comparison(tmp_path, metrics)
    assert list(found) == ["retrieval/t2i_r1"]
    drawing, numbers = found["retrieval/t2i_r1"]
    assert drawing in law
    assert numbers in law
    assert "clip" in numbers
    assert "siglip" not in drawing + numbers
    assert "-0.2" in numbers
    assert "Laws of" not in write_report(table, metrics).read_text()


def test_a_table_of_before_shows_what_it_has(tmp_path):
    table = table_of(tmp_path, ["clip", "siglip"], siglip={"lr": 0.5})
    assert differences(table) == {"lr": {"clip": 0.004, "siglip": 0.5}}
    assert "batch" in check(write_report(table).read_text()).text


def test_a_budget_that_became_another_number_of_samples_is_told(tmp_path):
    table = table_of(tmp_path, ["clip", "siglip"], siglip={"samples": 850})
    assert notes(table) == [
        "a budget of 800 became 850 samples of siglip: runs take whole steps, in each of their stages"
    ]


def test_the_interval_of_a_recall_ends_at_0_and_1(tmp_path):
    def scored(value):
        return {"retrieval/t2i_r1": value, "retrieval/chance_t2i_r1": 0.01, "retrieval/mrr": value}

    table = table_of(tmp_path, ["clip"])
    table.rows = [
        {**row, "metrics": scored(0.02 * number)} for number, row in enumerate(table.rows)
    ]
    [line] = lines(table, ["retrieval/t2i_r1", "retrieval/mrr"])
    recall, other = line.metrics.values()
    assert (recall.low, recall.mean) == (0.0, 0.01)
    assert recall.high == pytest.approx(other.high)
    assert other.low < 0  # nothing says what chance gives, so nothing says that it is a share
    assert "0.0100 [0, 0.14]" in check(write_report(table).read_text()).text
