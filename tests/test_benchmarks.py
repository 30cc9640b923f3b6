"""The harness of the benchmarks: its arithmetic, what it writes, and one row run small. No timing
is asserted."""

import json
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("open_clip")
from benchmarks import __main__ as harness
from benchmarks import loss_sigmoid, loss_softmax, measure

from diptych.errors import InputError


def test_ratios_are_those_of_the_pairs_and_not_of_the_medians():
    pairs = [((1.0, 2.0), (2.0, 2.0)), ((9.0, 1.0), (10.0, 2.0)), ((4.0, 3.0), (1.0, 2.0))]
    found = measure.summary(pairs)
    assert found["pairs"] == [[1.0, 2.0], [9.0, 10.0], [4.0, 1.0]]
    assert (found["ours"], found["theirs"]) == (4.0, 2.0)
    assert (found["ratio_min"], found["ratio"], found["ratio_max"]) == (0.5, 0.9, 4.0)
    assert found["wall_ratio"] == 1.0


def test_the_two_sides_run_in_turns_after_one_warm_up_each():
    seen = []
    found = measure.interleaved(
        lambda: seen.append("a"), lambda: seen.append("b") or _burn(), pairs=3
    )
    assert "".join(seen) == "ab" * 4
    assert len(found["pairs"]) == 3


def _burn(seconds=0.01):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_seconds_count_work_and_not_waiting():
    waiting, _ = measure.seconds(lambda: time.sleep(0.1))
    working, _ = measure.seconds(lambda: _burn(0.1))
    assert waiting < 0.05
    assert 0.09 < working < 0.2


def test_cpu_seconds_of_an_ended_child_are_counted():
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    cpu, _ = measure.seconds(lambda: subprocess.run([sys.executable, "-c", burn], check=True))
    assert cpu > 0.19


def test_a_bar_is_met_at_and_below_it():
    for ratio, met in ((0.5, True), (0.75, True), (0.76, False)):
        assert measure.judged("x", "s", {"ratio": ratio}, 0.75)["met"] is met
    assert measure.judged("x", "s", {"ratio": 9.0}, None)["met"] is None


def test_the_roofline_share_is_of_the_measured_product(monkeypatch):
    monkeypatch.setattr(
        measure, "peak", lambda dtype: {torch.float32: 100.0, torch.bfloat16: 400.0}[dtype]
    )
    a = torch.ones(8, 8)
    work = measure.flops(lambda: a @ a)
    assert work == 2 * 8**3
    assert measure.roofline(work, 20.48) == pytest.approx(0.5)
    assert measure.roofline(work, 20.48, "bfloat16") == pytest.approx(0.125)
    assert measure.roofline(work, 20.48, "int8") is None


def test_saved_bytes_leave_out_what_a_graph_inside_forward_held_for_a_while():
    def forward():
        y = torch.ones(50, requires_grad=True)
        (grad,) = torch.autograd.grad((y * y).sum(), y)
        return x * grad.sum()

    x = torch.ones(1000, requires_grad=True)
    assert measure.saved_bytes(forward) == 4


def test_saved_bytes_are_those_of_distinct_memory():
    x = torch.ones(1000, requires_grad=True)
    assert measure.saved_bytes(lambda: (x * x).sum()) == 4000
    assert measure.saved_bytes(lambda: (x.exp() * x).sum()) == 8000


@pytest.mark.parametrize("row", [loss_softmax, loss_sigmoid])
def test_a_loss_row_run_small(row, monkeypatch):
    monkeypatch.setattr(measure, "peak", lambda dtype: 1e11)
    time_line, bytes_line = row.run(n=64, pairs=1)
    assert time_line["unit"] == "CPU s"
    assert len(time_line["pairs"]) == 1
    assert time_line["roofline"] > 0
    assert bytes_line["ratio"] == bytes_line["ours"] / bytes_line["theirs"]


@pytest.mark.parametrize("row", [loss_softmax, loss_sigmoid])
def test_the_losses_keep_at_most_an_eighth_of_the_peers_bytes(row, monkeypatch):
    """Kept bytes need no quiet machine."""
    monkeypatch.setattr(
        loss_softmax, "interleaved", lambda *a: {"ours": 1.0, "theirs": 1.0, "ratio": 1.0}
    )
    monkeypatch.setattr(measure, "peak", lambda dtype: 1e11)
    monkeypatch.setattr(loss_softmax, "D", 64)  # as D to N as 512 to 4096
    assert row.run(n=512)[1]["met"]


def test_the_harness_continues_past_a_row_that_cannot_be_measured(tmp_path, monkeypatch, capsys):
    line = measure.judged("a row", "CPU s", measure.summary([((1.0, 1.0), (2.0, 2.0))]), 0.75, 0.9)
    monkeypatch.setattr(loss_softmax, "run", lambda: [line])
    monkeypatch.setattr(loss_sigmoid, "run", lambda: _cannot())
    harness.main(["loss_sigmoid", "loss_softmax"], tmp_path)
    printed = capsys.readouterr()
    assert "not measured: needs a model" in printed.err
    assert "a row" in printed.out
    assert "yes" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["loss_softmax.json"]
    text = (tmp_path / "loss_softmax.json").read_text(encoding="utf-8")
    report = json.loads(text)
    assert report["rows"] == [line]
    assert set(report) == {
        "rows",
        "seconds",
        "python",
        "versions",
        "processor",
        "cores",
        "threads",
        "load",
    }
    assert {"diptych", "torch", "open_clip_torch"} <= set(report["versions"])
    assert str(harness.HERE.parent) not in text


def _cannot():
    raise InputError("needs a model")


def test_an_unknown_row_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="loss_softmax"):
        harness.main(["loss_softmx"])


def test_without_a_gpu_its_row_says_so(monkeypatch):
    from benchmarks import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs a CUDA device"):
        gpu.run()


def test_the_table_of_the_docs_is_that_of_the_stored_results():
    sys.path.insert(0, str(harness.HERE.parent / "tools"))
    import benchmark_table

    page = benchmark_table.PAGE.read_text(encoding="utf-8")
    assert page == benchmark_table.rewritten(page), "run `python tools/benchmark_table.py`"


def test_the_row_of_concepts_run_small():
    from benchmarks import concepts

    towers = {
        "image": "vit:image_size=32:patch=16:width=32:depth=1:heads=2",
        "text": "text:width=32:depth=2:heads=2",
        "embed_dim": 16,
    }
    kept, embedded, held = concepts.run(pairs=1, classes=5, batch=4, towers=towers)
    assert (kept["unit"], embedded["unit"], held["unit"]) == ("CPU s", "CPU s", "bytes")
    assert held["ratio"] < 0.5  # which needs no quiet machine
    ours = concepts.Side("cones", {}, 5, 4, towers)
    assert [tuple(parameter.shape) for parameter in ours.learnt] == [(5, 16)]
    torch.testing.assert_close(ours.loss(True), ours.loss(False))


def test_the_row_of_decoding_run_small():
    from benchmarks import decoding

    shape = {"width": 16, "depth": 1, "heads": 2, "vocab": 40, "context": 16}
    lines = decoding.run(pairs=1, tokens=4, batch=2, shape=shape)
    assert [line["unit"] for line in lines] == ["CPU s", "CPU s"]
    assert [line["bar"] for line in lines] == [2.0, 2.0]
    for line in lines:
        [(ours, theirs)] = line["pairs"]
        assert line["ours"] == ours / 8
        assert line["ratio"] == ours / theirs


def test_the_row_of_stores_run_small(monkeypatch):
    from benchmarks import stores

    # In this process, which holds enough already, so that the memory says nothing here.
    monkeypatch.setattr(stores, "in_child", lambda work, *args: work(*args))
    monkeypatch.setattr(stores, "peak_bytes", lambda: measure.peak_bytes() + 1_000_000)
    lines = stores.run(rows=3000, pairs=1)
    assert [line["unit"] for line in lines] == ["CPU s", "bytes"] * len(stores.STORES)
    assert [line["bar"] for line in lines] == [None, None, None, 0.25, None, None]
    plain, compressed, table = lines[0::2]
    assert min(plain["recall"], compressed["recall"], table["recall"]) > 0.97
    assert compressed["candidates"] >= stores.K
    assert compressed["disk_bytes"] < 0.4 * plain["disk_bytes"]
    assert plain["flat"]["disk_bytes"] == pytest.approx(3000 * stores.DIMENSION * 4, abs=100)


def test_the_rows_of_the_captioner_run_small():
    from benchmarks import captioner

    image = "conv:image_size=16:widths=(64,):depths=(1,)"
    step, written = captioner.run(pairs=1, batch=2, tokens=3, image=image)
    assert (step["bar"], written["bar"]) == captioner.BARS
    for line in (step, written):
        [(ours, theirs)] = line["pairs"]
        assert line["ratio"] == ours / theirs
