"""Stages that compute columns before they begin, and streams side by side: the contracts that odd
methods rest on."""

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log, run_until

from diptych import collectives
from diptych.data.batch import Batch
from diptych.data.columns import MappedColumn
from diptych.data.plan import Distinct
from diptych.data.sources import Concat
from diptych.data.views import ArrayView, LabelView
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.training.engine import Interrupted
from diptych.training.prepare import Run, load_columns, save_columns


def test_a_column_is_numbers_with_a_row_a_sample():
    run = Run(make_method(), {}, At(0, 1, 0, 0), torch.device("cpu"))
    run.store("train", {"a": [1, 2], "b": torch.ones(2, 3, dtype=torch.bfloat16)})
    assert run.columns["train"]["a"].tolist() == [1, 2]
    assert run.columns["train"]["b"].dtype == np.float32
    for wrong in ([[1], [2, 3]], ["x", "y"], 3, {"a": 1}):
        with pytest.raises(InputError, match="the column 'c' of the stream 'train'.*; give an arr"):
            run.store("train", {"c": wrong})


class Clustered(CLIP):
    """Two stages: the second computes columns with the first's weights, plans by one and reads both, of
    which the other lies in a file."""

    def stages(self):
        return (
            Stage(name="first", recipe={"steps": 2}),
            Stage(
                name="second",
                prepare=self.cluster,
                plan=Distinct("cluster"),
                recipe={"steps": 9, "batch_size": 4},
            ),
        )

    def cluster(self, run: Run) -> None:
        source = run.sources["train"]
        views = super().views(self.stages()[0])[:1]
        found = run.map(
            lambda batch: {"image": self.model.embed_images(batch.image.flat)},
            views,
            source,
            batch_size=7,
            mapped="image",
        )
        order = found["image"][:, 0].argsort().argsort()
        run.store(
            "train",
            {"cluster": (order * 8 // len(order)).astype(np.int64), "image": found["image"]},
        )

    def views(self, stage, stream="train"):
        extra = (LabelView(label="cluster"), ArrayView(array="image"))
        return (*super().views(stage), *extra[: 2 * (stage.name == "second")])

    def loss(self, features, batch: Batch, at):
        losses = super().loss(features, batch, at)
        if at.stage == "second":
            clusters = batch.fields["cluster"]
            assert len(set(clusters.tolist())) == len(clusters)
            image = batch.fields["image"].sum()
            return Losses(losses.terms, {"clusters": float(clusters.sum()), "image": float(image)})
        return losses


def clustered(seed=0):
    method = make_method(seed=seed)
    method.__class__ = Clustered
    return method


def test_map_gives_rows_in_the_order_of_the_source(tmp_path):
    engine = make_engine(tmp_path, method=clustered())
    method, toy = engine.method, Toy(20)
    run = Run(method, {"train": toy}, None, torch.device("cpu"))
    run.at = At(0, 0, 0, 0)
    views = method.views(Stage(name="first"))[:1]

    def means(batch):
        mean = batch.image.pixels.float().mean((1, 2, 3, 4))
        return {"mean": mean, "both": torch.stack([mean, -mean], 1).half()}

    found = run.map(means, views, toy, batch_size=7)
    expected = [np.asarray(toy[i].images["main"].decode()).mean() for i in range(20)]
    assert found["mean"] == pytest.approx(expected, abs=0.5)
    run.out = tmp_path
    kept = run.map(means, views, toy, batch_size=7, mapped="both")
    assert np.array_equal(kept["mean"], found["mean"])
    for column in (kept["both"], pickle.loads(pickle.dumps(kept["both"]))):
        assert isinstance(column, MappedColumn)
        assert np.array_equal(column[:], found["both"])
    save_columns(tmp_path / "state" / "columns.safetensors", {"train": kept})
    assert (tmp_path / "state" / "columns.safetensors").stat().st_size < 400
    kept["both"].path.unlink()
    with pytest.raises(InputError, match=r"columns.safetensors is damaged .it lacks .*both.npy"):
        load_columns(tmp_path / "state" / "columns.safetensors")


def bare_run(out):
    return Run(make_method(), {}, At(0, 0, 0, 0), torch.device("cpu"), out=out)


def test_write_makes_a_file_of_the_runs_folder_on_rank_0(tmp_path, monkeypatch):
    run = bare_run(tmp_path)
    run.write("found.txt", lambda path: path.write_text("one"))
    run.write("found.txt", lambda path: path.write_text("two"))
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    run.write("found.txt", lambda path: pytest.fail("only rank 0 writes"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("found.txt", "two")]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError

    run = bare_run(tmp_path)
    run.write("found.txt", lambda path: path.write_text("whole"))
    with pytest.raises(RuntimeError):
        run.write("found.txt", fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("found.txt", "whole")
    ]


def test_write_does_nothing_where_the_run_has_no_folder():
    bare_run(None).write("found.txt", lambda path: pytest.fail("there is no folder"))


def test_warn_logs_the_message_as_it_is_on_rank_0(monkeypatch, caplog):
    run = bare_run(None)
    with caplog.at_level(logging.WARNING):
        run.warn("5 % of the texts are cut")
        monkeypatch.setattr(collectives, "rank", lambda: 1)
        run.warn("only rank 0 warns")
    assert caplog.messages == ["5 % of the texts are cut"]


def test_columns_are_read_as_fields_and_rule_the_plan(tmp_path):
    make_engine(tmp_path, method=clustered()).run()
    logged = [line["clusters"] for line in read_log(tmp_path) if line.get("stage") == "second"]
    assert len(logged) == 9


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_run_broken_off_around_prepare_resumes_to_the_bit(tmp_path, step):
    unbroken = make_engine(tmp_path / "a", method=clustered(), save_every=1)
    unbroken.run()
    if step == 2:
        engine = make_engine(tmp_path / "b", method=clustered(), save_every=1)
        engine._prepare = lambda stage: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.run()
    else:
        run_until(make_engine(tmp_path / "b", method=clustered(), save_every=1), step)
    resumed = make_engine(tmp_path / "b", method=clustered(seed=9), save_every=1)
    resumed.run(resume=True)
    assert all(
        torch.equal(v, resumed.method.state_dict()[k])
        for k, v in unbroken.method.state_dict().items()
    )
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


class Doubled(Clustered):
    """Its second stage learns from each sample twice: another source, made of the stream's with its
    columns."""

    def samples(self, stage, stream, source):
        if stage.name == "first":
            return source
        assert "labels.cluster" in source.schema(), "columns are there"
        return Concat([source, source])

    def loss(self, features, batch: Batch, at):
        self.met = [*getattr(self, "met", []), *(batch.keys if at.stage == "second" else ())]
        return CLIP.loss(self, features, batch, at)


def test_a_stage_may_make_other_samples_of_its_source(tmp_path):
    method = make_method()
    method.__class__ = Doubled
    engine = make_engine(tmp_path, method=method, source=Toy(16))
    stages = method.stages()
    method.stages = lambda: [stages[0], replace(stages[1], recipe={"batch_size": 4, "epochs": 1.0})]
    engine.recipe = replace(engine.recipe, steps=None, batch_size=8)
    engine.run()
    keys = sorted(key.split("/")[1] for key in method.met)
    assert keys == sorted(2 * [f"{at:03d}" for at in range(16)])
    assert {key.split("/")[0] for key in method.met} == {"0", "1"}


class TwoStreams(CLIP):
    """A second stream runs beside the first and goes round on its own."""

    def stages(self):
        return (Stage(streams=("train", "other"), recipe={"batch_size": 16}),)

    def encode(self, batch, at):
        ours, other = super().encode(batch["train"], at), super().encode(batch["other"], at)
        return {**ours, **{f"other_{name}": value for name, value in other.items()}}

    def loss(self, features, batch, at):
        first = super().loss(features, batch["train"], at).terms["contrastive"]
        second = super().loss(
            {k: features[f"other_{k}"] for k in ("image", "text")}, batch["other"], at
        )
        return Losses(
            {"first": first, "second": second.terms["contrastive"]},
            logged={"other": float(sum(int(key) for key in batch["other"].keys))},
        )


def test_streams_run_side_by_side_and_resume_to_the_bit(tmp_path):
    def engine(name):
        method = make_method()
        method.__class__ = TwoStreams
        made = make_engine(tmp_path / name, method=method, save_every=1)
        made.feed.given["other"] = Toy(20)
        return made

    unbroken = engine("a")
    unbroken.run()
    run_until(engine("b"), 5)
    resumed = engine("b")
    resumed.run(resume=True)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert all(
        torch.equal(v, resumed.method.state_dict()[k])
        for k, v in unbroken.method.state_dict().items()
    )
    others = [line["other"] for line in read_log(tmp_path / "a")]
    assert others[0] + others[1] == sum(range(20)), (
        "an epoch of the second stream meets each of its samples once"
    )


def test_a_stream_without_source_says_how_to_give_one(tmp_path):
    method = make_method()
    method.__class__ = TwoStreams
    with pytest.raises(InputError, match="--data other=SOURCE"):
        make_engine(tmp_path, method=method).run()


class Counting(CLIP):
    """Its one stage searches: no step, no optimiser, what it finds is in a buffer."""

    def __init__(self, config, make):
        super().__init__(config, make)
        self.model.register_buffer("found", torch.zeros(()))
        self.model.requires_grad_(False)

    def stages(self):
        return (Stage(name="search", prepare=self.search, optimize=False),)

    def search(self, run: Run) -> None:
        for step in range(3):
            self.model.found += 1
            run.note(step, 3, float(-self.model.found), fitness=float(self.model.found))


def test_steps_are_warned_of_where_no_stage_descends(tmp_path, caplog):
    method = make_method()
    for name, quiet, warned in (("a", False, 1), ("b", True, 0)):
        engine = make_engine(
            tmp_path / name, method=Counting(method.config, method.make), recipe={"steps": 5}
        )
        engine.options = replace(engine.options, quiet=quiet)
        caplog.clear()
        assert engine.run().steps == 3
        said = "counting is fitted without steps of an optimizer: --steps 5 changes nothing"
        assert [message.lower() for message in caplog.messages] == [said] * warned


def test_a_stage_that_does_not_descend_takes_no_step_and_is_logged(tmp_path):
    method = make_method()
    config, make = method.config, method.make
    engine = make_engine(tmp_path, method=Counting(config, make))
    assert engine.run().steps == 3
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    assert [(line["done"], line["step"], line["loss"], line["fitness"]) for line in lines] == [
        (0, 0, -1, 1),
        (1, 1, -2, 2),
        (2, 2, -3, 3),
    ]
    again = make_engine(tmp_path, method=Counting(config, make))
    again.run(resume=True)
    assert float(again.method.model.found) == 3  # it was finished, and is not begun anew


def test_what_a_search_found_is_validated(tmp_path):
    method, seen = make_method(), []
    counting = Counting(method.config, method.make)
    engine = make_engine(
        tmp_path,
        method=counting,
        recipe={"ema": 0.9},  # of which there is nothing to average
        validate=lambda module, done: {
            "val/found": seen.append((float(module.found), done)) or 1.0
        },
    )
    engine.run()
    assert seen == [(3, 3)]
    assert engine.delivered() is counting.model


def test_a_signal_stops_a_search_which_is_begun_anew(tmp_path):
    method = make_method()
    engine = make_engine(tmp_path, method=Counting(method.config, method.make))
    engine._on_signal(15, None)
    with pytest.raises(Interrupted, match="begin it anew"):
        engine.run()
    again = make_engine(tmp_path, method=Counting(method.config, method.make))
    assert again.run(resume=True).steps == 3
    assert [line["step"] for line in read_log(tmp_path) if "loss" in line] == [0, 1, 2]
