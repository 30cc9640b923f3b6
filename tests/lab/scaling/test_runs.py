"""Tables of runs, good and damaged."""

import json

import numpy as np
import pytest

from diptych.errors import InputError
from diptych.lab.scaling import Fit, Limits, Runs, crossings, held_out, read_runs

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
