"""Tables of runs, good and damaged."""

import json

import numpy as np
import pytest

from diptych.errors import InputError
from diptych.lab.compare.cell import gflops
from diptych.lab.scaling import Fit, Limits, Runs, crossings, held_out, read_runs
from diptych.methods.store import load

HEAD = "model,samples_seen,gflops,acc1,loss\n"


def table(tmp_path, *rows):
    path = tmp_path / "runs.csv"
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return path


def test_a_law_for_each_group_and_metric(tmp_path):
    path = table(tmp_path, "b,10,1e6,.2,3", "a,20,2e6,.3,2", "b,30,4e6,,1.5")
    found = read_runs(path, metrics=["acc1"], losses=["loss"], by=["model"])
    assert [(each.metric, each.name, len(each)) for each in found] == [
        ("acc1", "a", 1),
        ("acc1", "b", 1),
        ("loss", "a", 1),
        ("loss", "b", 2),
    ]
    assert found[1].error.tolist() == [0.8]
    assert found[3].error.tolist() == [3, 1.5]
    assert found[3].compute.tolist() == [1e6, 4e6]
    assert found[3].samples.tolist() == [10, 30]
    (alone,) = read_runs(path, losses=["loss"], compute="samples_seen")
    assert (alone.name, alone.compute.tolist()) == ("all", [10, 20, 30])


def test_limits():
    runs = Runs(
        name="x",
        metric="m",
        compute=np.array([1e5, 1e7, 1e12, 1e12]),
        samples=np.array([1e6, 1e6, 1e6, 1e11]),
        error=np.array([0.9, 0.9, 0.9, 0.2]),
    )
    assert len(Limits().of(runs)) == 4
    published = Limits(min_compute=1e6, max_samples=1e10, failed=(0.7, 1e11))
    assert published.of(runs).compute.tolist() == [1e7]


def test_a_comparison_has_a_law_for_each_method(tmp_path):
    head = {"format": "diptych-compare/1", "data": "x", "test": "y", "suites": ["retrieval"],
            "methods": ["clip"], "common": {}, "differs": {}}  # fmt: skip
    (tmp_path / "compare.json").write_text(json.dumps(head))
    rows = [
        {"method": "clip", "size": 1, "budget": n, "seed": 0, "samples": n, "gflops": 2.0, "weight_gflops": 1.5,
         "metrics": {"retrieval/t2i_r1": 0.1, "retrieval/chance_t2i_r1": 0.01}} for n in (100, 200)
    ]  # fmt: skip
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = read_runs(tmp_path)
    assert (found.name, found.metric) == ("clip", "retrieval/t2i_r1")
    assert found.compute.tolist() == [150, 300]
    assert read_runs(tmp_path, metrics=["t2i_r1"])[0].error.tolist() == [0.9, 0.9]
    (tmp_path / "results.jsonl").write_text("")
    with pytest.raises(InputError, match="no run is done"):
        read_runs(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the weights of `tiny`, and validations at steps 10, 20, 30 and 40 of 40."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    load("tiny").save(folder)

    def write(schedule):
        recipe = {"batch_size": 8, "schedule": schedule, "warmup": 0.25}
        (folder / "config.yaml").write_text(json.dumps({"method": "clip", "recipe": recipe}))
        lines = [{"done": step, "loss": 1.0} for step in range(40)]
        lines += [
            {"done": step - 1, "event": "validation", "val/i2t_r1": step / 100}
            for step in (10, 20, 30, 40)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return write


def test_a_run_at_a_constant_rate_gives_a_point_for_each_validation_after_the_warm_up(run):
    folder = run("constant")
    (found,) = read_runs([folder], metrics=["i2t_r1"])
    assert (found.name, found.error.tolist()) == ("clip", [0.8, 0.7, 0.6])
    assert found.samples.tolist() == [160, 240, 320]
    each = gflops(load("tiny"))["weight_gflops"]
    assert found.compute == pytest.approx([160 * each, 240 * each, 320 * each])
    (last,) = read_runs([run("cosine"), folder], metrics=["i2t_r1"])
    assert last.error.tolist() == [0.6, 0.6]


def test_several_paths_are_runs(run, tmp_path):
    folder = run("constant")
    with pytest.raises(InputError, match="several paths are folders of runs"):
        read_runs([folder, table(tmp_path, "a,1,1,.5,1")], metrics=["i2t_r1"])
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="no validation after its warm-up"):
        read_runs(folder, metrics=["i2t_r1"])


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        (["a,1,1,.5,1"], {}, "name what to fit"),
        (["a,1,1,.5,1"], {"metrics": ["acc"]}, "unknown column 'acc'; did you mean 'acc1'"),
        (["a,1,1,.5,1"], {"metrics": ["acc1"], "compute": "flops"}, "did you mean 'gflops'"),
        (["a,1,1,.5,1", "a,1,1,many,1"], {"metrics": ["acc1"]}, "row 2, acc1: 'many' is no number"),
        (["a,1,1,45.1,1"], {"metrics": ["acc1"]}, "row 1, acc1: 45.1 is no share"),
        (["a,1,0,.5,1"], {"metrics": ["acc1"]}, "row 1, gflops: 0 is not above 0"),
        (["a,,1,.5,1"], {"metrics": ["acc1"]}, "row 1, samples_seen: None is no number"),
    ],
)
def test_bad_tables_are_refused_with_their_place(tmp_path, rows, settings, said):
    with pytest.raises(InputError, match=said):
        read_runs(table(tmp_path, *rows), **settings)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such table or comparison"):
        read_runs(tmp_path / "none.csv", metrics=["acc1"])


def test_the_published_runs_cross_where_it_was_found_before(data_pack):
    """MaMMUT overtakes CLIP on segmentation near 9e8 GFLOPs, and a floor predicts larger runs better
    than none."""
    path = data_pack("clip-scaling-runs") / "runs.csv"
    limits = Limits(min_compute=1e6, max_samples=1e10, failed=(0.7, 1e11))
    clip, mammut = (limits.of(each) for each in read_runs(path, metrics=["miou"], by=["namespace"]))
    assert (len(clip), len(mammut)) == (581, 850)
    laws = [Fit().law(each.compute, each.error) for each in (clip, mammut)]
    (late,) = [found for found in crossings(*laws, 1e6, 2.6e12) if found.separate]
    assert late.compute == pytest.approx(9.18e8, rel=0.01)
    errors = [
        held_out(clip.compute, clip.error, Fit(form=form), 6.24e9).rmse
        for form in ("saturating", "no_floor", "power")
    ]
    assert errors == pytest.approx([0.0130, 0.0499, 0.0293], abs=5e-4)


def test_the_alpha_frontier_of_the_published_runs_has_more_than_the_ends(data_pack):
    path = data_pack("clip-scaling-runs") / "runs.csv"
    limits = Limits(min_compute=1e6, max_samples=1e10, failed=(0.7, 1e11))
    clip, _ = (limits.of(each) for each in read_runs(path, metrics=["acc1"], by=["namespace"]))
    kinds = (Fit(frontier="all"), Fit(), Fit(frontier="hull", alpha=0.1), Fit(frontier="hull"))
    assert [len(fit.points(clip.compute, clip.error)) for fit in kinds] == [40, 24, 17, 3]
