"""Stages: streams with their own plans and shares, streams that take turns, bounds of gradients by
prefix, and the choice of the best epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine, read_log, run_until

from diptych import collectives
from diptych.data.plan import Distinct, Fixed, InOrder, OneGroup, Shuffled
from diptych.data.views import LabelView
from diptych.errors import InputError
from diptych.methods.base import Losses, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.testing import check as suite
from diptych.testing.subject import Subject
from diptych.training import optim
from diptych.training.step import forward_backward


class Several(CLIP):
    """The contrastive loss of each stream on its own; logs which samples it met."""

    find_unused_parameters = True

    def encode(self, batch, at):
        found = {}
        for name, part in batch.items():
            for key, value in super().encode(part, at).items():
                found[f"{name}.{key}"] = value
        return found

    def loss(self, features, batch, at):
        terms = {}
        logged = {}
        for name, part in batch.items():
            own = {key: features[f"{name}.{key}"] for key in ("image", "text")}
            terms[name] = super().loss(own, part, at).total
            logged[f"keys/{name}"] = float(sum(int(key) for key in part.keys))
            logged[f"size/{name}"] = float(len(part))
        return Losses(terms, logged)

    def parts(self):
        return {"all": self.encode}


class Shared(Several):
    """Three quarters of a batch come from one stream, shuffled, a quarter from another, in order
    and always as many."""

    def stages(self):
        return (
            Stage(
                streams=("train", "other"),
                plan={"train": Shuffled(), "other": Fixed(InOrder())},
                share={"train": 0.75, "other": 0.25},
            ),
        )


class Turns(Several):
    """The streams take turns."""

    def stages(self):
        return (Stage(streams=("train", "other"), turns=True),)


def engine_of(folder, cls, *, source=None, other=None, **options):
    method = make_method()
    method.__class__ = cls
    made = make_engine(folder, method=method, source=source, save_every=1, **options)
    made.feed.given["other"] = other or Toy(20)
    return made


def assert_equal(one, other):
    for name, value in one.method.state_dict().items():
        assert torch.equal(value, other.method.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recipe": {"shedule": "constant"}},
            "the recipe of stage 'train' 'shedule'; did you mean",
        ),
        ({"every": "epochs"}, "'every' of stage 'train' is 'epochs'; .*did you mean 'epoch'"),
        ({"keep": "lst"}, "'keep' of stage 'train' is 'lst'"),
        ({"patience": 2}, "stage 'train' has patience and no number to select by; name one"),
        (
            {"optimize": False},
            "stage 'train' with optimize=False takes no steps; give it a prepare",
        ),
    ],
)
def test_a_stage_whose_options_do_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Stage(**options)


def test_each_stream_has_its_share_of_the_batch_and_its_plan(tmp_path):
    engine_of(tmp_path, Shared, source=Toy(48), other=Toy(10)).run()
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    assert {line["size/train"] for line in lines} == {12}
    assert [line["keys/other"] for line in lines[:3]] == [
        0 + 1 + 2 + 3,
        4 + 5 + 6 + 7,
        8 + 9 + 0 + 1,
    ]


def test_streams_take_turns_and_the_first_sets_the_epoch(tmp_path):
    engine_of(tmp_path, Turns, source=Toy(44), recipe={"steps": 9}).run()
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    streams = ["train" if "size/train" in line else "other" for line in lines]
    assert streams == ["train", "other"] * 4 + ["train"]
    assert [line["epoch"] for line in lines] == [0] * 6 + [1] * 3, "three batches of each"
    assert sum(line["keys/train"] for line in lines[:6:2]) == sum(range(44))
    assert sum(line["keys/other"] for line in lines[1:4:2]) == sum(range(20))


@pytest.mark.parametrize("cls", [Shared, Turns])
@pytest.mark.parametrize("done", [3])
def test_stages_of_several_streams_resume_to_the_bit(tmp_path, cls, done):
    unbroken = engine_of(tmp_path / "a", cls)
    unbroken.run()
    run_until(engine_of(tmp_path / "b", cls), done)
    resumed = engine_of(tmp_path / "b", cls)
    resumed.run(resume=True)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert_equal(unbroken, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": {"train": 0.5}}, "gives the stream 'other' no share.*train, other its own"),
        ({"plan": {"train": Shuffled()}}, "gives the stream 'other' no plan"),
    ],
)
def test_a_stream_without_its_own_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Stage(streams=("train", "other"), **options)


def test_a_share_below_the_smallest_batch_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch size 1 is below the 2"):
        engine_of(tmp_path, Shared, recipe={"batch_size": 1}).run()


@pytest.mark.parametrize("cls", [Shared, Turns])
def test_the_suite_runs_methods_of_several_streams(cls, two):
    subject = Subject(cls)
    suite.encode_mixes_no_samples(subject)
    suite.loss_changes_no_state(subject)
    suite.every_parameter_learns(subject)
    suite.cached_gradients_are_the_whole_batchs(subject)
    suite.missing_field_is_refused(subject)
    suite.two_ranks_train_as_one(subject, two)


# ---- gradients bounded by prefix


def test_each_prefix_has_its_bound(tmp_path):
    """The text tower's gradient is bounded by 1e-3, the projection of images by 2e-3, all others by
    the recipe's bound."""
    norms = {}
    method = make_method()
    clip = {"model.text": 1e-3, "model.image_projection": 2e-3}
    method.stages = lambda: (Stage(clip=clip),)
    engine = make_engine(tmp_path, method=method, recipe={"steps": 1, "clip": 1e-2})

    def watched(bounds):
        norm = type(engine)._clip(engine, bounds)
        for prefix in (*clip, "model.image"):
            gradients = [
                p.grad
                for name, p in method.named_parameters()
                if optim.longest(name, [prefix]) is not None
            ]
            norms[prefix] = float(torch.nn.utils.get_total_norm(gradients))
        norms["all"] = float(norm)
        return norm

    engine._clip = watched
    engine.run()
    assert norms["model.text"] == pytest.approx(1e-3, rel=1e-3)
    assert norms["model.image_projection"] == pytest.approx(2e-3, rel=1e-3)
    assert norms["model.image"] <= 1e-2
    assert read_log(tmp_path)[0]["grad_norm"] == pytest.approx(norms["all"])
    assert norms["all"] > 2e-2, "the log has the norm before clipping"


def test_a_prefix_of_no_parameter_is_refused(tmp_path):
    method = make_method()
    method.stages = lambda: (Stage(clip={"model.txt": 1.0}),)
    with pytest.raises(InputError, match=r"begins with 'model.txt'; there are .*model.text"):
        make_engine(tmp_path, method=method).run()


# ---- the best epoch

NUMBERS = [0.3, 0.5, 0.4, 0.45, 0.2, 0.1]


def selecting(
    folder, *, select="val/r1", numbers=NUMBERS, patience=None, seen=None, shard=False, **recipe
):
    """An engine of six epochs of two steps, whose validation gives `numbers` in turn."""
    method = make_method()
    stage = Stage(select=select, patience=patience)
    method.stages = lambda: (stage,)
    seen = {} if seen is None else seen

    def validate(module, done):
        seen[done] = {name: value.clone() for name, value in module.state_dict().items()}
        return {"val/r1": numbers[done // 2 - 1], "val/loss": -numbers[done // 2 - 1]}

    return make_engine(
        folder,
        method=method,
        source=Toy(32),
        validate=validate,
        recipe={"steps": 12, **recipe},
        save_every=1,
        shard=shard,
    )


@pytest.mark.parametrize("select", ["val/r1", "-val/loss"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_stage_ends_with_the_weights_of_its_best_epoch(tmp_path, select, ema):
    seen = {}
    engine = selecting(tmp_path, select=select, seen=seen, ema=ema)
    engine.run()
    assert engine.summary.steps == 12
    for name, value in engine.weights().items():
        assert torch.equal(value, seen[4][name]), name
    selected = [line for line in read_log(tmp_path) if line.get("event") == "selected"]
    assert [line["epoch"] for line in selected] == [1]


def test_a_number_that_is_none_is_never_the_best(tmp_path):
    seen = {}
    numbers = [float("nan"), 0.5, float("nan"), 0.4, 0.4, 0.4]
    engine = selecting(tmp_path, numbers=numbers, seen=seen)
    engine.run()
    assert all(torch.equal(value, seen[4][name]) for name, value in engine.weights().items())


def test_patience_ends_a_stage(tmp_path):
    seen = {}
    engine = selecting(tmp_path, patience=2, seen=seen)
    engine.run()
    assert engine.summary.steps == 8, "epochs 2 and 3 were no better than epoch 1"
    assert all(torch.equal(value, seen[4][name]) for name, value in engine.weights().items())


@pytest.mark.parametrize("done", [5, 6])
def test_selection_resumes_to_the_bit(tmp_path, done):
    unbroken = selecting(tmp_path / "a", patience=3)
    unbroken.run()
    run_until(selecting(tmp_path / "b", patience=3), done)
    resumed = selecting(tmp_path / "b", patience=3)
    resumed.run(resume=True)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert_equal(unbroken, resumed)


def test_a_later_stage_begins_with_the_selected_weights(tmp_path):
    seen = {}
    engine = selecting(tmp_path, seen=seen)
    first = replace(engine.method.stages()[0], recipe={"steps": 12})
    frozen = Stage(
        name="second", lr_scale={"": 0.0, "model.image": 1.0}, recipe={"steps": 1, "lr": 1e-30}
    )
    engine.method.stages = lambda: (first, frozen)
    engine.validate = lambda module, done: (
        selecting_numbers(module, done, seen) if done <= 12 else {"val/r1": 0.0}
    )
    engine.run()
    assert all(torch.equal(value, seen[4][name]) for name, value in engine.weights().items())


def selecting_numbers(module, done, seen):
    seen[done] = {name: value.clone() for name, value in module.state_dict().items()}
    return {"val/r1": NUMBERS[done // 2 - 1]}


def test_selection_without_a_validation_says_how_to_give_one(tmp_path):
    engine = selecting(tmp_path)
    engine.validate = None
    with pytest.raises(
        InputError, match="whose val/r1 is best in the validation; give it with --val"
    ):
        engine.run()


def test_a_number_that_the_validation_lacks_is_named(tmp_path):
    with pytest.raises(
        InputError, match="stage 'train' selects by.*'val/r2'.*did you mean 'val/r1'"
    ):
        selecting(tmp_path, select="val/r2").run()


def test_a_damaged_file_of_the_best_weights_is_named(tmp_path):
    engine = selecting(tmp_path)
    end = engine._take_selected

    def damaged(stage):
        path = tmp_path / "state" / "best-train.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        end(stage)

    engine._take_selected = damaged
    with pytest.raises(
        InputError, match=r"best-train.safetensors, the weights of the best epoch, is damaged"
    ):
        engine.run()


def train_selecting(out, shard=False):
    """Runs on each rank: the weights of the best epoch, and the steps taken."""
    torch.set_num_threads(1)
    engine = selecting(out, patience=2, lr=1e-4, shard=shard)
    engine.run()
    weights = {k: collectives.full_tensor(v) for k, v in engine.method.state_dict().items()}
    return engine.summary.steps, {k: v.clone() for k, v in weights.items()}


@pytest.mark.parametrize("shard", [False, True])
def test_all_ranks_select_the_same_epoch(tmp_path, two, shard):
    steps, alone = train_selecting(tmp_path / "one")
    for found, weights in two.run(train_selecting, tmp_path / "two", shard):
        assert found == steps == 8
        assert all(torch.allclose(value, weights[name], atol=5e-4) for name, value in alone.items())


# ---- columns of each epoch


class Regrouped(CLIP):
    """Each epoch's `prepare` computes the groups that its plan and its views read."""

    def stages(self):
        return (Stage(prepare=self.group, every="epoch", plan=OneGroup("group")),)

    def group(self, run):
        count = len(run.sources["train"])
        groups = (np.arange(count) + run.at.epoch) % 2
        run.store("train", {"group": groups, "of": np.full(count, run.at.epoch)})

    def views(self, stage, stream="train"):
        return (*super().views(stage, stream), LabelView(label="group"), LabelView(label="of"))

    def loss(self, features, batch, at):
        assert len(set(batch.fields["group"].tolist())) == 1
        assert set(batch.fields["of"].tolist()) == {at.epoch}
        found = super().loss(features, batch, at)
        return Losses(found.terms, {"keys": float(sum(int(key) % 2 for key in batch.keys))})


def regrouped(folder, **options):
    method = make_method()
    method.__class__ = Regrouped
    return make_engine(folder, method=method, source=Toy(32), save_every=1, **options)


def test_views_and_plan_read_the_columns_of_their_epoch(tmp_path):
    regrouped(tmp_path, recipe={"steps": 6}).run()
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    assert [(line["epoch"], line["keys"]) for line in lines] == [
        (0, 0), (0, 16), (1, 16), (1, 0), (2, 0), (2, 16)
    ]  # fmt: skip


@pytest.mark.parametrize("done", [2, 3])
def test_columns_of_epochs_resume_to_the_bit(tmp_path, done):
    unbroken = regrouped(tmp_path / "a", recipe={"steps": 6})
    unbroken.run()
    run_until(regrouped(tmp_path / "b", recipe={"steps": 6}), done)
    resumed = regrouped(tmp_path / "b", recipe={"steps": 6})
    resumed.run(resume=True)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert_equal(unbroken, resumed)


def test_a_column_that_no_prepare_fills_is_refused_before_the_first_step(tmp_path):
    engine = regrouped(tmp_path)
    engine.method.group = lambda run: run.store("train", {"of": np.zeros(32, np.int64)})
    with pytest.raises(InputError, match="toy has no labels.group, which Regrouped needs"):
        engine.run()
    assert not any("loss" in line for line in read_log(tmp_path))


def test_prepare_keeps_the_shapes_of_parameters(tmp_path):
    engine = regrouped(tmp_path)
    group = engine.method.group

    def resizing(run):
        group(run)
        engine.method.model.image_projection = torch.nn.Linear(32, 16)

    engine.method.group = resizing
    with pytest.raises(InputError, match="changed the shape of model.image_projection.weight"):
        engine.run()


def test_prepare_of_an_epoch_leaves_frozen_parts_in_evaluation_mode(tmp_path):
    engine = regrouped(tmp_path, recipe={"steps": 6})
    stage = replace(engine.method.stages()[0], lr_scale={"model.image": 0.0})
    engine.method.stages = lambda: (stage,)
    mapped = engine.method.group

    def mapping(run):
        mapped(run)
        views = CLIP.views(engine.method, stage)[:1]
        run.map(lambda batch: {"x": batch.image.flat[:, 0, 0, 0]}, views, run.sources["train"])

    stage = replace(stage, prepare=mapping)
    seen = []

    def backward(step, batch, at):
        seen.append((engine.method.model.image.training, engine.method.model.text.training))
        return forward_backward(step, batch, at)

    engine.backward = backward
    engine.run()
    assert set(seen) == {(False, True)}


# ---- the contract suite


class Grouped(CLIP):
    """A method whose plan and views read the column of its own `prepare`, before each epoch."""

    def stages(self):
        return (Stage(prepare=self.group, every="epoch", plan=Distinct("group")),)

    def group(self, run):
        source = run.sources["train"]
        run.store("train", {"group": np.arange(len(source)) % 24})

    def views(self, stage, stream="train"):
        return (*super().views(stage, stream), LabelView(label="group"))


def test_the_suite_runs_prepare_of_stages_with_steps(two):
    subject = Subject(Grouped)
    schema = subject.sources(subject.small())["train"].schema()
    assert "labels.group" not in schema, "the suite makes up no column that the method computes"
    suite.missing_field_is_refused(subject)
    suite.resume_is_exact(subject)
    suite.two_ranks_train_as_one(subject, two)


def test_what_is_kept_on_the_way_is_kept_at_the_end_of_so_many_epochs(tmp_path):
    engine = make_engine(tmp_path, source=Toy(48))  # 9 steps, 3 an epoch
    kept = []
    engine.keep = {epochs: lambda: kept.append(engine.position.step) for epochs in (0.6, 2.0, 3.0)}
    engine.run()
    assert kept == [2, 6, 9]


def test_nothing_is_kept_on_the_way_of_several_stages(tmp_path):
    method = make_method()
    method.stages = lambda: (Stage(name="first"), Stage(name="second"))
    engine = make_engine(tmp_path, method=method)
    engine.keep = {1.0: lambda: None}
    with pytest.raises(InputError, match="trains in 2 stages, so a checkpoint is no shorter run"):
        engine.run()
