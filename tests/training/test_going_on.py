"""What a resumed run has of the one before: draws, samples, damage, skipped steps; and what a
skipped step leaves."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.factories import make_method
from tests.training.helpers import make_engine, poison, read_log, run_until

from diptych.data.sample import BadSample
from diptych.errors import InputError
from diptych.methods.base import Losses, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.spec import configure
from diptych.testing import Toy
from diptych.training.engine import Interrupted
from diptych.training.feed import Feed
from diptych.training.state import Position

DROPOUT = "text:width=32:depth=1:heads=2:dropout=0.3"
RAMP = {"crop": (0.2, 0.5), "flip": True, "ramp": (0.1, 0.9)}


class Noisy(CLIP):
    """Draws in its loss, as methods with random masks or negatives do."""

    def loss(self, features, batch, at):
        losses = super().loss(features, batch, at)
        return Losses({**losses.terms, "noise": torch.rand(())}, losses.logged, losses.carry)


class FewDamaged(Toy):
    """Two samples that the first epoch alone comes to before its third batch, and one other."""

    def __getitem__(self, index):
        if index in (7, 21, 40):
            raise BadSample("truncated")
        return super().__getitem__(index)


def noisy(seed=0):
    method = make_method(seed=seed, text=DROPOUT, augment=RAMP)
    method.__class__ = Noisy
    return method


def watched(ids, backward):
    """`backward`, with the keys of each step's samples put down in `ids`."""

    def watching(step, batch, at):
        ids.append((at.step, batch.keys))
        return backward(step, batch, at)

    return watching


def everything(out, ids, seed=0, workers=0):
    """A run with dropout, a draw in the loss, a ramp of augmentation, damaged samples, and a step
    that is skipped."""
    return make_engine(
        out,
        method=noisy(seed),
        source=FewDamaged(44),
        backward=watched(ids, poison("loss")),
        recipe={"ema": 0.9},
        nonfinite="skip",
        max_bad=0.2,
        save_every=1,
        workers=workers,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    ids = []
    engine = everything(tmp_path_factory.mktemp("unbroken"), ids)
    return engine, engine.run(), ids


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (4, 0), (6, 0), (8, 0), (4, 2)])
def test_all_that_is_drawn_seen_and_counted_goes_on(tmp_path, unbroken, step, workers):
    engine, summary, ids = unbroken
    mine = []
    run_until(everything(tmp_path, mine, workers=workers), step)
    resumed = everything(tmp_path, mine, seed=99, workers=workers)
    again = resumed.run(resume=True)
    for ours, theirs in [
        (resumed.method, engine.method),
        (resumed.delivered(), engine.delivered()),
    ]:
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[name]), name
    assert mine == ids
    assert read_log(tmp_path) == read_log(engine.out)
    assert again == summary
    assert summary.skipped == 1
    assert len(summary.damaged) == 3


def test_what_was_damaged_before_a_resumption_is_not_forgotten(tmp_path):
    """The last step reads other samples, so that what is known of damage comes from the
    checkpoint."""
    first = make_engine(
        tmp_path, source=FewDamaged(44), max_bad=0.2, save_every=1, recipe={"steps": 3}
    )
    run_until(first, 2)
    seen = dict(first.feed.damaged)
    assert seen
    resumed = make_engine(tmp_path, source=FewDamaged(44), max_bad=0.2, recipe={"steps": 3})
    assert resumed.run(resume=True).damaged.items() >= seen.items()


def test_damage_before_a_resumption_counts_towards_the_limit(tmp_path):
    first = make_engine(
        tmp_path, source=FewDamaged(44), max_bad=0.2, save_every=1, recipe={"steps": 3}
    )
    run_until(first, 2)
    with pytest.raises(InputError, match=f"{len(first.feed.damaged)} of 44 samples are damaged"):
        make_engine(tmp_path, source=FewDamaged(44), max_bad=0.01, recipe={"steps": 3}).run(
            resume=True
        )


def test_draws_in_a_loss_differ_from_step_to_step(unbroken):
    engine, _, _ = unbroken
    drawn = [
        line["loss/noise"]
        for line in read_log(engine.out)
        if "loss/noise" in line and not line.get("skipped")
    ]
    assert len(set(drawn)) == len(drawn) == 8


# ---- steps that are skipped


def leaping(engine, step):
    """The guard sees a spike at one step."""
    engine.guard.leap = lambda loss: 9.0 if engine.position.step == step else None
    return engine


@pytest.mark.parametrize("kind", ["spike", "not finite"])
def test_a_skipped_step_moves_neither_averaged_weights_nor_the_methods_state(tmp_path, kind):
    class Counting(CLIP):
        steps = ()

        def after_step(self, carry, at):
            self.steps = (*self.steps, at.step)

    method = make_method()
    method.__class__ = Counting
    extra = {"backward": poison("loss"), "nonfinite": "skip"} if kind == "not finite" else {}
    engine = make_engine(tmp_path, method=method, recipe={"ema": 0.5, "steps": 4}, **extra)
    if kind == "spike":
        leaping(engine, 2)
    averages = []
    snapshot = engine._snapshot

    def watching(optimizer):
        averages.append(
            {name: value.clone() for name, value in engine.delivered().state_dict().items()}
        )
        snapshot(optimizer)

    engine._snapshot = watching
    assert engine.run().skipped == 1
    _, before, after = averages
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert method.steps == (0, 1, 3)


class Levels(CLIP):
    """Two stages whose losses are of different size."""

    def stages(self):
        return (Stage(name="low", recipe={"steps": 21}), Stage(name="high", recipe={"steps": 2}))

    def loss(self, features, batch, at):
        losses = super().loss(features, batch, at)
        times = 100.0 if at.stage == "high" else 1.0
        return replace(losses, terms={name: times * term for name, term in losses.terms.items()})


def test_the_usual_loss_of_a_stage_is_not_that_of_the_stage_before(tmp_path):
    method = make_method()
    method.__class__ = Levels
    engine = make_engine(tmp_path, method=method, spike=5.0, recipe={"batch_size": 4})
    assert engine.run().skipped == 0
    assert sum(line.get("stage") == "high" for line in read_log(tmp_path)) == 2


def test_validation_measures_the_averaged_weights(tmp_path):
    def total(module):
        return float(sum(value.double().sum() for value in module.state_dict().values()))

    seen = []
    engine = make_engine(
        tmp_path,
        recipe={"ema": 0.9, "steps": 3, "lr": 0.1},
        validate=lambda module, done: (
            seen.append((total(module), total(engine.delivered()), total(engine.method.deliver())))
            or {}
        ),
    )
    engine.run()
    [(measured, averaged, raw)] = seen
    assert measured == averaged
    assert measured != raw


# ---- data that changed, epochs without batches


def test_a_checkpoint_knows_its_data(tmp_path):
    run_until(make_engine(tmp_path, save_every=1), 2)
    for count, message in ((24, "had 44 samples and has 24"), (64, "had 44 samples and has 64")):
        with pytest.raises(InputError, match=f"stream 'train' {message}"):
            make_engine(tmp_path, source=Toy(count)).run(resume=True)
    other = Toy(44)
    other.keys = lambda: [f"x{index}" for index in range(44)]
    with pytest.raises(InputError, match="as before, but others"):
        make_engine(tmp_path, source=other).run(resume=True)


def test_a_checkpoint_of_an_older_version_knows_nothing_of_its_data(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Feed, "identity", {})
        run_until(make_engine(tmp_path, save_every=1), 2)
    assert make_engine(tmp_path).run(resume=True).steps == 9


def test_an_epoch_that_gives_no_batch_is_an_error_and_no_loop(tmp_path, monkeypatch):
    """As of a checkpoint of an older version, resumed on a source that shrank."""
    with monkeypatch.context() as patched:
        patched.setattr(Feed, "identity", {})
        run_until(make_engine(tmp_path, save_every=1), 2)
    with pytest.raises(InputError, match="toy gives 1 batches an epoch, and number 3 is asked for"):
        make_engine(tmp_path, source=Toy(16)).run(resume=True)


# ---- signals


@pytest.mark.parametrize("when", ["validation", "log"])
def test_a_signal_beside_the_step_saves_too(tmp_path, when):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)
        return {}

    engine = make_engine(tmp_path, validate=stop if when == "validation" else None)
    if when == "log":
        engine.log.advance = lambda step, loss: stop() if step == 3 else None
    with pytest.raises(Interrupted, match="after step 3"):
        engine.run()
    assert engine.checkpoints.steps() == [3]


class Searching(CLIP):
    """A stage that computes columns before its steps."""

    def stages(self):
        return (Stage(prepare=self.prepare, recipe={"steps": 2}),)

    def prepare(self, run):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_a_preparation_saves_at_the_first_step(tmp_path):
    method = make_method()
    method.__class__ = Searching
    engine = make_engine(tmp_path, method=method)
    with pytest.raises(Interrupted, match="after step 1"):
        engine.run()
    assert engine.checkpoints.steps() == [1]


def test_a_worker_that_is_killed_is_told_in_a_line(tmp_path):
    class Fatal(Toy):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(
        InputError, match="worker process that read toy was killed.*--workers.*--resume"
    ):
        make_engine(tmp_path, source=Fatal(44), workers=1).run()


def test_a_worker_that_torch_misses_during_a_step_is_told_too(tmp_path):
    def backward(step, batch, at):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(InputError, match="worker process that read toy was killed"):
        make_engine(tmp_path, backward=backward).run()
    with pytest.raises(RuntimeError, match="out of memory"):
        make_engine(
            tmp_path / "b", backward=lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory"))
        ).run()


# ---- checkpoints of any content


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    out = tmp_path_factory.mktemp("checkpoint")
    run_until(make_engine(out, save_every=1, recipe={"steps": 2}), 1)
    return out, make_engine(out).checkpoints.load()


ODD = st.sampled_from(
    [None, True, -1, 10**30, 2.5, "", "here", [], [1], {}, {"a": 1}, torch.zeros(3)]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_checkpoint_of_any_content_is_refused_in_words_or_goes_on(checkpoint, data):
    out, saved = checkpoint
    tree = dict(saved)
    name = data.draw(st.sampled_from(sorted(tree)))
    inner = tree[name]
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        tree[name] = dict(inner)
        tree[name][data.draw(st.sampled_from(list(inner)))] = data.draw(ODD)
    elif data.draw(st.booleans()):
        del tree[name]
    else:
        tree[name] = data.draw(ODD)
    engine = make_engine(out, recipe={"steps": 2})
    engine.checkpoints.load = lambda: tree
    engine.checkpoints.save = lambda *_: None
    try:
        engine.run(resume=True)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


def test_a_place_before_the_start_is_refused():
    with pytest.raises(InputError, match="'step' of .* is -1"):
        configure(Position, {"step": -1}, "checkpoint")
