"""The claim on scaling laws asks what it says: a grid of runs that differ in schedule and data alone, pairs
that are ordered otherwise, and how far runs lie above a law of cheaper ones."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.lab.claim import Trial
from diptych.lab.claims import scaling_laws
from diptych.lab.compare import cell as cells
from diptych.lab.scaling import Runs, read_runs


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("scaling"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling_laws, "BATCH", 8)
        patch.setattr(scaling_laws, "TEST", 100)
        patch.setattr(scaling_laws, "WORDS", "bpe:vocab_size=300:context=16")
        yield replace(trial, prelude=scaling_laws.draw(trial))


def test_the_pool_is_a_part_of_the_unique_scenes_and_no_held_out_one_is_learnt(trial):
    train, pool, test = (open_source(trial.prelude[name]) for name in ("train", "pool", "test"))
    assert (len(train), len(pool), len(test)) == (16 * 8, 8, 20)
    assert set(pool.keys()) < set(train.keys())
    assert not set(train.keys()) & set(test.keys())
    full = Trial(seed=5, folder=trial.folder)
    assert scaling_laws.budgets(full)[-1] % (scaling_laws.REPEATS * 8) == 0  # whole epochs


def test_pairs_are_of_all_runs_and_ties_are_ordered_otherwise():
    small, large = (0.5, 10), (0.5, 20)
    cosine = ({small: 0.8, large: 0.4}, {small: 0.7, large: 0.5})
    assert scaling_laws.order_errors(cosine, cosine) == 0
    turned = ({small: 0.8, large: 0.4}, {small: 0.9, large: 0.5})
    assert scaling_laws.order_errors(cosine, turned) == 1 / 4
    assert scaling_laws.order_errors(cosine, turned, same_samples=True) == 1 / 2
    tied = ({small: 0.7, large: 0.4}, {small: 0.7, large: 0.5})
    assert scaling_laws.order_errors(cosine, tied) == 1 / 4
    exchanged = cosine[::-1]
    assert scaling_laws.order_errors(cosine, exchanged) == 1 / 2
    assert scaling_laws.order_errors(cosine, exchanged, same_samples=True) == 1
    further = ({**cosine[0], (0.5, 5): 0.9}, {**cosine[1], (0.5, 5): 0.9})
    assert scaling_laws.order_errors(cosine, further) == 0  # runs by the constant rate alone


def test_a_schedule_that_exchanges_the_methods_is_above_the_bound():
    sizes, ends = len(scaling_laws.SIZES), scaling_laws.ENDS
    cells_of = {
        (float(size), number): 1.0 - size - number
        for size in range(sizes)
        for number in range(ends)
    }
    ahead = {cell: error - 0.1 for cell, error in cells_of.items()}
    found = scaling_laws.order_errors((cells_of, ahead), (ahead, cells_of))
    assert found >= 1 / (sizes * ends) > scaling_laws.claim.headline[0].bound


def points(compute, error):
    compute = np.asarray(compute, float)
    return Runs(name="x", metric="m", compute=compute, samples=compute, error=np.asarray(error))


def test_excess_is_above_the_interval_of_the_law(trial):
    c = 2.0 ** np.arange(8)
    noise = np.exp(0.05 * np.sin(np.arange(8.0)))
    law = scaling_laws.law_of(points(c, 0.9 * c**-0.2 * noise), trial)
    assert law is not None
    assert scaling_laws.exponent(law) == pytest.approx(-0.2, abs=0.02)
    beyond = np.array([512.0, 1024.0])
    high = law.interval(beyond)[1]
    assert (high > law(beyond)).all()
    assert scaling_laws.excess(law, points(beyond, law(beyond))) == 0
    assert scaling_laws.excess(law, points(beyond, high + np.array([0.1, -0.1]))) == pytest.approx(
        0.05
    )


def test_runs_that_do_not_improve_have_no_law(trial):
    said = []
    law = scaling_laws.law_of(
        points([1, 2, 3, 4], [0.5, 0.4, 0.6, 0.7]), replace(trial, log=said.append)
    )
    assert law is None
    assert "no law" in said[0]
    assert (scaling_laws.excess(law, points([8], [1.0])), scaling_laws.exponent(law)) == (0, 0)


@pytest.fixture
def trained_in_name(monkeypatch):
    """Have runs write rows as if they had trained, and return the tasks: the error is a power of compute, times
    1.1 for mammut and 1.2 at a constant rate; on the pool it stays at .9."""
    begun = []

    def run(task, say):
        begun.append(task)
        method = task.cell.method.partition(":")[0]
        each = task.cell.size * (1.0 if method == "clip" else 2.5)
        for budget in (*task.shorter, task.cell.budget):
            cell = replace(task.cell, budget=budget)
            error = 0.8 * (each * budget) ** -0.1 * (1.1 if method == "mammut" else 1.0)
            error *= 1.2 if task.common.recipe["schedule"] == "constant" else 1.0
            if "pool" in task.data:
                error = 0.9
            row = {**vars(cell), "weight_gflops": each, "samples": budget,
                   "metrics": {f"retrieval/{way}_mrr": 1 - error for way in ("i2t", "t2i")}}  # fmt: skip
            folder = task.folder.with_name(cell.folder)
            folder.mkdir(parents=True)
            (folder / "row.json").write_text(json.dumps(row))

    monkeypatch.setattr(scaling_laws.cells, "run", run)
    return begun


def test_all_arms_are_made_of_a_grid_of_runs(trial, tmp_path, trained_in_name):
    (arms,) = scaling_laws.claim.arms
    found = scaling_laws.grid(replace(trial, folder=tmp_path, quick=False))
    assert tuple(sorted(found)) == tuple(sorted(arms))
    for name in arms:
        assert scaling_laws.claim.needs(name) <= set(found[name])
    assert found["constant"] == {"order_errors": 0, "same_samples": 0}
    assert found["unique"]["excess"] == pytest.approx(0, abs=1e-9)
    assert found["pool"]["excess"] > 0.3
    assert found["clip"]["exponent"] == pytest.approx(-0.1)
    assert found["clip_cosine"]["mrr"] == pytest.approx(1 - 0.8 * 1600**-0.1)
    tasks = trained_in_name
    told = {(t.common.recipe["schedule"], "pool" in t.data, len(t.shorter)) for t in tasks}
    assert told == {("constant", False, 4), ("constant", True, 1), ("cosine", False, 0)}
    assert len(tasks) == 2 * (3 + 3 * 3 + 1)  # constant, cosine, pool
    assert all(t.cell.size == 1 for t in tasks if "pool" in t.data)
    assert {t.cell.budget for t in tasks} == {400, 800, 1600}


def test_runs_differ_in_method_width_schedule_and_data_alone(trial, tmp_path, trained_in_name):
    scaling_laws.grid(replace(trial, folder=tmp_path))
    configs = {(t.cell.method, t.cell.size): [] for t in trained_in_name}
    for t in trained_in_name:
        config = cells.resolved(t.cell, t.data, 100, t.common)
        recipe = replace(config.recipe, schedule="", lr=1.0, epochs=1.0)
        same = replace(config, data={}, recipe=recipe)
        configs[t.cell.method, t.cell.size].append(str(same))
    assert all(len(set(each)) == 1 for each in configs.values())
    shared = {
        (t.common.image_tower, t.common.tokenizer, t.common.embed_dim / t.cell.size, t.test)
        for t in trained_in_name
    }
    assert len(shared) == 1


def test_a_rate_may_be_given(trial, tmp_path, trained_in_name):
    arm = scaling_laws.trained("mammut_cosine", rate=0.5)
    assert set(arm(replace(trial, folder=tmp_path))) == {"mrr"}
    assert {t.common.recipe["lr"] for t in trained_in_name} == {0.5}
    assert set(scaling_laws.RATES) == set(scaling_laws.claim.learning)


def test_a_run_at_a_constant_rate_is_measured_on_its_way(trial, tmp_path):
    trial = replace(trial, folder=tmp_path)
    rows = scaling_laws.runs(trial, "mammut", sizes=(0.25,), last=2)
    assert sorted(row["budget"] for row in rows) == [64, 128]
    assert [row["samples"] for row in rows] == [row["budget"] for row in rows]
    assert scaling_laws.largest(rows)["budget"] == 128
    found = scaling_laws.as_runs(rows)
    assert np.ptp(found.compute / found.samples) == 0
    assert all(0 < scaling_laws.mrr(row) <= 1 for row in rows)


def test_the_authors_runs_are_resampled(trial, data_pack, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack("clip-scaling-runs").parent))
    found = scaling_laws.resampled(trial)
    (arms,) = scaling_laws.real.arms
    assert set(found) == set(arms)
    for name in arms:
        assert scaling_laws.real.needs(name) <= set(found[name])
    assert found["clip"]["rmse"] == found["clip_log_t"]["rmse"] != found["clip_no_floor"]["rmse"]
    for method in scaling_laws.METHODS:
        assert found[f"{method}_log_t"]["covered"] <= found[method]["covered"]
    whole = read_runs(scaling_laws.published(), metrics=["miou"], by=["namespace"])[0]
    told = scaling_laws.predicted(scaling_laws.PUBLISHED.of(whole), "saturating", log_t=False)
    assert told["rmse"] == pytest.approx(0.0130, abs=5e-4)  # without resampling, as is known
    assert found["clip"]["rmse"] != told["rmse"]


def test_without_its_floor_a_law_of_bent_points_predicts_worse():
    c = np.geomspace(1e6, 1e12, 40)
    runs = points(c, 0.4 + 30 * c**-0.3)
    whole = scaling_laws.predicted(runs, "saturating", log_t=False)
    bare = scaling_laws.predicted(runs, "no_floor", log_t=False)
    assert whole["rmse"] < 1e-6 < 1e-3 < bare["rmse"]
    assert whole["explained"] > 0.999


def test_the_released_interval_is_narrower():
    c = np.geomspace(1e6, 1e12, 40)
    wave = 1 + 0.02 * np.sin(3 * np.log(c))
    runs = points(c, (0.4 + 30 * c**-0.3) * wave)
    right = scaling_laws.predicted(runs, "saturating", log_t=False)
    narrow = scaling_laws.predicted(runs, "saturating", log_t=True)
    assert narrow["covered"] < right["covered"]


def test_a_missing_pack_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match="set DIPTYCH_DATA to the folder that holds clip-scaling-"):
        scaling_laws.published()
