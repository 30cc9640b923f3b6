"""The harness of the benchmarks: its arithmetic, what it writes, and rows run small. No timing is
asserted."""

import io
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

pytest.importorskip("open_clip")
import open_clip
from benchmarks import __main__ as harness
from benchmarks import loss_sigmoid, loss_softmax, material, measure

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


def test_the_peak_is_that_of_the_fastest_library(monkeypatch):
    found = {"float32": {"torch": 100.0, "oneDNN": 124.0}, "bfloat16": {"torch": 400.0}}
    monkeypatch.setattr(measure, "measured", found)
    assert measure.peak() == 124.0
    assert measure.peak(torch.bfloat16) == 400.0
    assert not measure.torch_is_slow()
    found["float32"]["OpenVINO"] = 125.0
    assert measure.torch_is_slow()


def test_every_library_multiplies_as_exactly_as_its_type(monkeypatch):
    expected = {"torch", "oneDNN", "oneDNN, packed", "OpenVINO"}
    found = measure.rates(torch.float32, side=96, rounds=1)
    assert set(found) == (expected if torch.backends.mkldnn.is_available() else found.keys())
    assert min(found.values()) > 0
    assert min(measure.rates(torch.bfloat16, side=96, rounds=1).values()) > 0
    monkeypatch.setattr(
        measure, "libraries", lambda a, b: {"other": lambda: a.bfloat16().float() @ b}
    )
    with pytest.raises(AssertionError, match="other"):
        measure.rates(torch.float32, side=96, rounds=1)


def test_the_fastest_call_is_that_of_the_least_cpu_seconds():
    ways = {"slow": lambda: _burn(0.05), "waits": lambda: time.sleep(0.06)}
    assert measure.fastest(ways, rounds=1) == "waits"


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
        "products",
    }
    assert {"diptych", "torch", "open_clip_torch"} <= set(report["versions"])
    assert str(harness.HERE.parent) not in text


def test_a_run_of_the_harness_probes_anew(tmp_path, monkeypatch):
    line = measure.judged("a row", "CPU s", measure.against(1.0, 2.0), None)
    places = []
    monkeypatch.setattr(
        loss_softmax, "run", lambda: places.append(os.environ["XDG_CACHE_HOME"]) or [line]
    )
    before = os.environ.get("XDG_CACHE_HOME")
    harness.main(["loss_softmax"], tmp_path)
    harness.main(["loss_softmax"], tmp_path)
    assert len({before, *places}) == 3
    assert os.environ.get("XDG_CACHE_HOME") == before


def test_the_harness_says_which_part_of_a_row_is_not_measured(tmp_path, monkeypatch, capsys):
    line = measure.judged("a row", "CPU s", measure.against(1.0, 2.0), None)
    lacking = {"onnx in float32": "it needs a package"}
    monkeypatch.setattr(loss_softmax, "run", lambda: [{**line, "not_measured": lacking}])
    harness.main(["loss_softmax"], tmp_path)
    printed = capsys.readouterr().err
    assert "a row: onnx in float32 is not measured: it needs a package" in printed


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


def test_a_row_that_the_order_does_not_name_ends_the_table(tmp_path):
    sys.path.insert(0, str(harness.HERE.parent / "tools"))
    import benchmark_table

    line = measure.judged("a later row", "CPU s", measure.against(1.0, 2.0), 0.75)
    (tmp_path / "later.json").write_text(json.dumps({"rows": [line]}), encoding="utf-8")
    *_, last = benchmark_table.table(tmp_path).splitlines()
    assert last == "| a later row | CPU s | 1 | 2 | 0.500 |  | 0.750 |  |"


SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 64,
        "heads": 1,
        "layers": 1,
    },
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small model in the place of ViT-B/32, and a peak that is not measured."""
    (tmp_path / "small-benchmark.json").write_text(json.dumps(SMALL), encoding="utf-8")
    open_clip.add_model_config(tmp_path)
    monkeypatch.setattr(material, "NAME", "small-benchmark")
    monkeypatch.setattr(
        measure, "measured", {"float32": {"torch": 1e11}, "bfloat16": {"torch": 1e11}}
    )


def test_the_row_of_the_start_run_small(tmp_path, monkeypatch, capsys):
    from benchmarks import start

    [photo] = material.photographs(1, (40, 30))
    photo.save(tmp_path / "photo.jpg")
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "photo.jpg")])
    exec(compile(start.WORK, "the work", "exec"), {})  # in this process, which has torch
    monkeypatch.setattr(start, "WORK", "import sys; assert sys.argv[1].endswith('.jpg')")
    [line] = start.run(times=2)
    assert line["ratio"] == line["ours"] / start.LIMIT
    assert (line["bar"], len(line["pairs"])) == (1.0, 2)


def test_the_row_of_exact_search_run_small(monkeypatch):
    from benchmarks import search

    monkeypatch.setattr(measure, "measured", {"float32": {"torch": 1e11}})
    [line] = search.run(rows=2000, pairs=1)
    assert line["bar"] == 1.1
    work = 2 * search.QUERIES * 2000 * search.DIMENSION
    assert line["roofline"] == pytest.approx(work / line["ours"] / 1e11)


@pytest.mark.usefixtures("small")
def test_the_row_of_a_step_run_small_says_where_its_time_goes():
    from benchmarks import step

    lines = step.run(pairs=1, batch=4)
    assert [line["bar"] for line in lines] == [1 / 1.35, 1 / 2.5]
    measure.measured["float32"]["oneDNN"] = 1.25e11
    assert step.bars()["float32"] == 1 / 1.8
    for line in lines:
        found = line["profile"]
        assert list(found["shares"]) == ["data", "forward", "backward", "optimizer"]
        assert min(found["cpu_seconds"].values()) > 0
        assert sum(found["shares"].values()) == pytest.approx(1)


@pytest.mark.usefixtures("small")
def test_the_rows_of_the_backends_run_small():
    from benchmarks import backends

    *images, text = backends.run(images=2, texts=4, pairs=1)
    assert [line["bar"] for line in images] == [1, 1 / 0.85, 1 / 0.85, 1 / 0.97, 1 / 0.9]
    assert min(line["cosine"] for line in images[:3]) >= 1 - 1e-6
    assert images[2]["computed_by"] == "float32"
    assert text["bar"] == 0.5
    assert text["padding"] in ("77", "longest")
    measure.measured["float32"]["oneDNN"] = 1.25e11
    assert backends._bars()[0][-1] == 1 / 1.6


@pytest.mark.usefixtures("small")
def test_the_rows_against_sentence_transformers_run_small(monkeypatch):
    from benchmarks import sentences_clip

    ways = sentences_clip._ways()
    assert {name for name, _, _ in ways} == {"torch", "onnx", "openvino"}
    absent = ("no such backend", "float32", {})
    monkeypatch.setattr(sentences_clip, "_ways", lambda: [*ways[:2], absent])
    lines = sentences_clip.run(images=4, texts=4, pairs=1)
    assert [line["bar"] for line in lines] == [1 / 1.2] * 4
    for line, precision in zip(lines, ("float32", "float32", "auto", "auto"), strict=True):
        assert precision in line["what"]
        assert line["theirs_by"].startswith("torch in ")
        assert "no such backend" in line["not_measured"]["no such backend in float32"]
    assert {line["theirs_by"] for line in lines[:2]} == {"torch in float32"}


FAKE = """
import json, sys
name, *_, source = sys.argv[1:]
past = "past" in source
if name == "coop":
    sys.exit("it cannot")
print(json.dumps({"parameters": 7, "loss": 2.0 if name == "lora" or past else 3.0}), flush=True)
for number, _ in enumerate(sys.stdin):
    print(json.dumps([4.0 + number if past else 2.0, 1.0, 0.5]), flush=True)
"""


@pytest.mark.usefixtures("small")
def test_the_row_of_adaptation_asks_both_processes_in_turns(tmp_path, monkeypatch):
    from benchmarks import adaptation

    root = tmp_path / "root"
    (root / "benchmarks").mkdir(parents=True)
    (root / "benchmarks/__init__.py").touch()
    (root / "benchmarks/adapted_step.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(adaptation, "ROOT", root)
    monkeypatch.setattr(adaptation, "worktree", nullcontext)
    monkeypatch.setattr(adaptation, "METHODS", ("maple", "lora"))
    lines = adaptation.run(pairs=2, classes=3, batch=2)
    for line in lines:
        assert line["pairs"] == [[2.0, 5.0], [2.0, 6.0]]  # after a warm-up
        assert line["parameters"] == 7
        assert line["bar"] == 1 / 1.5
    monkeypatch.setattr(adaptation, "METHODS", ("coop",))
    with pytest.raises(InputError, match="ended: it cannot"):
        adaptation.run(pairs=1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["maple", "coop", "lora"])
def test_the_process_of_adaptation_takes_the_steps_that_it_is_asked_for(
    name, tmp_path, monkeypatch, capsys
):
    from benchmarks import adapted_step

    import diptych
    from diptych.methods.registry import method_class

    material.same_weights(material.peer()[0], tmp_path, "float32")
    place = str(tmp_path / "peer.safetensors")
    root = str(Path(diptych.__file__).parents[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("step\nstep\n"))
    options = {"maple": {"depth": 1}}.get(name, {})  # the small towers have one block
    cls = method_class(name)
    configure = cls.configure
    monkeypatch.setattr(cls, "configure", lambda given: configure({**given, **options}))
    adapted_step.main(name, "openclip:small-benchmark", place, 3, 2, root)
    begun, *steps = map(json.loads, capsys.readouterr().out.splitlines())
    assert begun["parameters"] > 0
    assert len(steps) == 2
    assert min(cpu for cpu, _, _ in steps) > 0
    assert steps[0][2] != begun["loss"]  # the first step changed what it trains
    with pytest.raises(AssertionError):
        adapted_step.main(name, "openclip:small-benchmark", place, 3, 2, str(tmp_path))


def test_a_commit_is_checked_out_and_removed_again(tmp_path):
    from benchmarks import adaptation

    git = ["git", "-C", str(tmp_path / "repository")]
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/file").write_text("before", encoding="utf-8")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "file"], check=True)
    author = ["-c", "user.name=Name", "-c", "user.email=name@example.org"]
    subprocess.run([*git, *author, "commit", "--quiet", "-m", "one"], check=True)
    (tmp_path / "repository/file").write_text("after", encoding="utf-8")
    with adaptation.worktree(tmp_path / "past", tmp_path / "repository", "HEAD") as place:
        assert (place / "file").read_text(encoding="utf-8") == "before"
    assert not (tmp_path / "past").exists()
    with (
        pytest.raises(InputError, match=r"full clone"),
        adaptation.worktree(tmp_path / "past", tmp_path / "repository", "0123456"),
    ):
        pass


def test_without_git_the_row_of_adaptation_says_so(tmp_path, monkeypatch):
    from benchmarks import adaptation

    monkeypatch.setattr(adaptation.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="git is not installed"):
        adaptation.worktree(tmp_path / "past").__enter__()
