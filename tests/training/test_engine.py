"""The engine: resumption to the bit, signals, non-finite steps, freezing, averaging, logs."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from tests.data.helpers import Still, held
from tests.factories import make_method
from tests.training.helpers import Broken, make_engine, poison, read_log, run_until

from diptych.data.plan import Shuffled
from diptych.data.sample import BadSample
from diptych.data.views import collate, look
from diptych.errors import InputError
from diptych.methods.base import Recipe, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.training import optim
from diptych.training.engine import Interrupted
from diptych.training.step import forward_backward


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """9 steps of 3 batches an epoch, checkpoint at each."""
    out = tmp_path_factory.mktemp("unbroken")
    engine = make_engine(out, save_every=1, recipe={"ema": 0.9})
    engine.run()
    return engine


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 4, 6, 8], ids=["first", "mid-epoch", "epoch-edge", "last"])
def test_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path, unbroken, step, workers):
    """Weights, averaged weights and log (so the samples, through their losses) are those of the
    whole run."""
    run_until(make_engine(tmp_path, save_every=1, workers=workers, recipe={"ema": 0.9}), step)
    resumed = make_engine(
        tmp_path, method=make_method(seed=99), save_every=1, workers=workers, recipe={"ema": 0.9}
    )
    resumed.run(resume=True)
    for mine, theirs in [
        (resumed.method, unbroken.method),
        (resumed.delivered(), unbroken.delivered()),
    ]:
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, mine.state_dict()[name]), name
    assert read_log(tmp_path) == read_log(unbroken.out)


def test_checkpoint_holds_the_optimiser_state_to_the_bit(tmp_path, unbroken):
    run_until(make_engine(tmp_path / "a", save_every=1), 5)
    saved = make_engine(tmp_path / "a").checkpoints.load()
    run_until(
        make_engine(tmp_path / "a", method=make_method(seed=99), save_every=1), 7, resume=True
    )
    run_until(make_engine(tmp_path / "b", save_every=1), 7)
    whole_run, broken_run = (make_engine(tmp_path / name).checkpoints.load() for name in "ba")
    assert saved["position"]["done"] == 5
    for index, state in whole_run["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(
                torch.as_tensor(value),
                torch.as_tensor(broken_run["optimizer"]["state"][index][name]),
            )


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    engine = make_engine(tmp_path)
    engine.run()
    log = read_log(tmp_path)
    again = make_engine(tmp_path, method=make_method(seed=5))
    assert again.run(resume=True).steps == 9
    assert all(
        torch.equal(v, again.method.state_dict()[k]) for k, v in engine.method.state_dict().items()
    )
    assert read_log(tmp_path) == log


def test_same_seed_gives_the_same_log_and_another_seed_another(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        make_engine(tmp_path / name, seed=seed).run()
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    assert read_log(tmp_path / "a") != read_log(tmp_path / "c")


def test_a_signal_saves_and_says_how_to_go_on(tmp_path):
    def backward(step, batch, at):
        if at.step == 3:
            # else the signal would end the process of the tests
            assert callable(signal.getsignal(signal.SIGTERM))
            # to this thread: what another one gets may arrive when the run is over
            signal.raise_signal(signal.SIGTERM)
        return forward_backward(step, batch, at)

    engine = make_engine(tmp_path, backward=backward)
    with pytest.raises(Interrupted, match="after step 4.*--resume"):
        engine.run()
    assert engine.checkpoints.steps() == [4]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_step_stops_before_the_update_and_names_step_and_samples(tmp_path, where):
    whole_run = make_engine(tmp_path / "two", recipe={"steps": 9})
    run_until(whole_run, 2)
    engine = make_engine(tmp_path / "bad", backward=poison(where))
    with pytest.raises(InputError, match="not finite at step 2") as error:
        engine.run()
    assert all(
        torch.equal(v, engine.method.state_dict()[k])
        for k, v in whole_run.method.state_dict().items()
    )
    listed = json.loads((tmp_path / "bad" / "nonfinite-2.json").read_text())
    third = Shuffled()(Toy(44), 0, 0, 16)[2]
    assert listed == {
        "stage": "train",
        "step": 2,
        "keys": {"train": [f"{index:03d}" for index in third]},
    }
    assert "nonfinite-2.json" in str(error.value)


def test_a_non_finite_step_can_be_skipped_and_is_counted(tmp_path):
    class Counting(CLIP):
        steps = ()

        def after_step(self, carry, at):
            self.steps = (*self.steps, at.step)

    method = make_method()
    method.__class__ = Counting
    summary = make_engine(tmp_path, method=method, backward=poison("loss"), nonfinite="skip")
    result = summary.run()
    assert result.skipped == 1
    assert method.steps == (0, 1, 3, 4, 5, 6, 7, 8), "a skipped step must run no after_step"
    assert [line["step"] for line in read_log(tmp_path) if line.get("skipped")] == [2]


class Staged(CLIP):
    """A stage with the text tower frozen, then one with it slow."""

    def stages(self):
        return (
            Stage(name="locked", lr_scale={"model.text": 0.0}, recipe={"steps": 3}),
            Stage(name="open", lr_scale={"model.text": 0.1}, recipe={"steps": 3}),
        )


def staged():
    method = make_method()
    method.__class__ = Staged
    return method


def test_frozen_parts_keep_their_bytes_and_go_on_in_the_next_stage(tmp_path):
    method = staged()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    engine = make_engine(tmp_path, method=method, save_every=1)
    run_until(engine, 2)
    after = method.state_dict()
    frozen = [name for name in before if name.startswith("model.text.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not method.model.text.training
    assert not all(torch.equal(before[name], after[name]) for name in before if name not in frozen)
    engine = make_engine(tmp_path, method=staged(), save_every=1)
    engine.run(resume=True)
    assert not all(torch.equal(before[name], engine.method.state_dict()[name]) for name in frozen)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_stages_resume_to_the_bit(tmp_path, step):
    unbroken = make_engine(tmp_path / "a", method=staged(), save_every=1)
    unbroken.run()
    engine = make_engine(tmp_path / "b", method=staged(), save_every=1)
    if step == 3:  # the end of a stage is saved apart from the steps
        save = engine._save

        def stopping(optimizer):
            save(optimizer)
            if optimizer is None:
                raise Broken

        engine._save = stopping
        with pytest.raises(Broken):
            engine.run()
    else:
        run_until(engine, step)
    resumed = make_engine(tmp_path / "b", method=staged(), save_every=1)
    resumed.run(resume=True)
    assert all(
        torch.equal(v, resumed.method.state_dict()[k])
        for k, v in unbroken.method.state_dict().items()
    )
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


def test_groups_cover_every_trainable_parameter_once_and_spare_small_ones_decay():
    method = make_method()
    recipe = Recipe()
    optim.freeze(method, {"model.text": 0.0, "model.image": 0.5})
    optimizer = optim.build(method, recipe, {"model.text": 0.0, "model.image": 0.5})
    found = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = [id(p) for name, p in method.named_parameters() if not name.startswith("model.text.")]
    assert sorted(found) == sorted(wanted)
    for group in optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    rates = {name: g["multiplier"] for g in optimizer.param_groups for name in g["names"]}
    assert {rates[n] for n in rates if n.startswith("model.image.")} == {0.5}
    assert rates["model.text_projection.weight"] == 1.0


class Slower(CLIP):
    """One tower learns at a tenth of the rate."""

    def stages(self):
        return (Stage(lr_scale={"model.image": 0.1}),)


def slower():
    torch.manual_seed(0)
    return Slower(Slower.configure({}), make_method().make)


def test_each_step_has_the_rate_of_the_schedule_times_that_of_its_prefix(tmp_path):
    """What the optimiser was given, not what is logged: 4 steps of cosine with a warm-up of 2."""
    engine = make_engine(tmp_path, method=slower(), recipe={"lr": 0.02, "steps": 4, "warmup": 2})
    given = []
    step = engine._step

    def recording(backward, optimizer, *rest):
        step(backward, optimizer, *rest)
        given.append(
            {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
        )

    engine._step = recording
    engine.run()
    for rates, share in zip(given, (0.5, 1.0, 1.0, 0.5), strict=True):
        assert rates["model.text_projection.weight"] == pytest.approx(0.02 * share)
        assert rates["model.image.patch_embed.weight"] == pytest.approx(0.002 * share)


@pytest.mark.parametrize("clip", [1e-2, None])
def test_the_gradient_of_a_step_is_no_longer_than_clip(tmp_path, clip):
    """One step of plain descent at rate 1 moves the weights by the gradient, or by its direction
    times `clip`."""
    plain = {
        "optimizer": "sgd",
        "lr": 1.0,
        "betas": (0.0, 0.0),
        "weight_decay": 0.0,
        "schedule": "constant",
    }
    engine = make_engine(tmp_path, recipe={**plain, "warmup": 0, "steps": 1, "clip": clip})
    before = [value.detach().clone() for value in engine.method.parameters()]
    engine.run()
    moved = [
        value.detach() - old for value, old in zip(engine.method.parameters(), before, strict=True)
    ]
    length = float(torch.stack([each.norm() for each in moved]).norm())
    [line] = read_log(tmp_path)
    assert line["grad_norm"] > 0.1, "the gradient is short: clipping would not show"
    assert length == pytest.approx(line["grad_norm"] if clip is None else clip, rel=1e-2)


def test_a_prefix_that_fits_nothing_is_refused():
    with pytest.raises(InputError, match="no parameter's name begins with 'model.txt'"):
        optim.freeze(make_method(), {"model.txt": 0.0})


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'adamw'"):
        optim.build(make_method(), replace(Recipe(), optimizer="adamww"), {})


def test_average_follows_the_weights_and_is_what_is_delivered(tmp_path):
    engine = make_engine(tmp_path, recipe={"ema": 0.5, "steps": 4}, save_every=1)
    history = []
    step = engine._step

    def recording(*args):
        step(*args)
        history.append(engine.method.model.image_projection.weight.detach().clone())

    start = engine.method.model.image_projection.weight.detach().clone()
    engine._step = recording
    engine.run()
    expected = start
    for value in history:
        expected = expected.lerp(value, 0.5)
    assert torch.allclose(engine.delivered().image_projection.weight, expected, atol=1e-6)


def test_scale_stays_inside_its_bounds(tmp_path):
    method = make_method(scale=99.0)
    make_engine(tmp_path, method=method, recipe={"lr": 0.5, "steps": 3}).run()
    assert float(method.model.logit_scale().detach()) <= 100.0 + 1e-4


class Damaged(Toy):
    def __getitem__(self, index):
        if index % 10 == 0:
            raise BadSample("truncated")
        return super().__getitem__(index)


def test_too_much_damage_stops_the_run_and_says_what_and_how_much(tmp_path):
    with pytest.raises(InputError, match=r"of 44 samples are damaged.*truncated.*--max-bad"):
        make_engine(tmp_path, source=Damaged(44)).run()
    kept = make_engine(tmp_path / "b", source=Damaged(44), max_bad=0.2).run()
    assert kept.damaged == dict.fromkeys(["000", "010", "020", "030", "040"], "truncated")


def test_missing_field_is_named_before_the_first_step(tmp_path):
    with pytest.raises(
        InputError, match=r"toy has no texts.caption, which CLIP needs; it has images.main"
    ):
        make_engine(tmp_path, source=Toy(44, ["images.main"])).run()


def test_validation_is_logged_after_each_epoch_on_the_delivered_module(tmp_path):
    engine = make_engine(
        tmp_path, validate=lambda module, done: {"val/at": done, "training": float(module.training)}
    )
    engine.run()
    lines = [line for line in read_log(tmp_path) if line.get("event") == "validation"]
    assert [line["val/at"] for line in lines] == [3, 6, 9]
    assert not any(line["training"] for line in lines)


def test_overfits_32_pairs_to_perfect_recall(tmp_path):
    """What is learnt by heart is known without an error; that each method learns is asked by the
    contract suite."""
    method = make_method("clip", augment={"crop": (1.0, 1.0), "ratio": (1.0, 1.0)})
    source = Toy(32)
    make_engine(
        tmp_path, method=method, source=source, recipe={"lr": 3e-3, "batch_size": 32, "steps": 150}
    ).run()
    assert recall(method, source, range(32)) == 1.0


@torch.no_grad()
def recall(method, source, indices):
    """Share of images whose own caption is nearest."""
    method.eval()
    views = method.views(method.stages()[0])
    rows = [look(source[i], views, (0, 0, i), None) for i in indices]
    batch = collate([str(i) for i in indices], rows, {"main": method.make.tokenizer})
    image = method.model.embed_images(batch.image.flat)
    text = method.model.embed_texts(*batch.text.flat)
    return float(((image @ text.T).argmax(1) == torch.arange(len(batch))).float().mean())


def test_memory_stays_flat_while_it_trains(tmp_path):
    """The process grows by less than 2 kB a sample: no step keeps its batch, features or graph."""
    sizes = {}

    def measure(module, done):
        if done in (30, 90):
            sizes[done] = held()
        return {}

    make_engine(
        tmp_path, source=Still(64), validate=measure, recipe={"batch_size": 32, "steps": 90}
    ).run()
    assert (sizes[90] - sizes[30]) / (60 * 32) < 2000


def test_an_average_longer_than_the_run_is_warned_of(tmp_path, caplog):
    engine = make_engine(tmp_path / "long", recipe={"ema": 0.999, "steps": 2})
    engine.options = replace(engine.options, quiet=False)
    engine.run()
    assert "ema 0.999 averages over about 1000 steps and there are 2" in caplog.text
    caplog.clear()
    engine = make_engine(tmp_path / "short", recipe={"ema": 0.5, "steps": 4})
    engine.options = replace(engine.options, quiet=False)
    engine.run()
    assert not caplog.text


def test_a_presets_batch_is_no_larger_than_few_samples(tmp_path, caplog):
    made = make_method("coop", n_ctx=2, init_from_template=False)
    source = Toy(8, ["images.main", "labels.class"])
    make_engine(
        tmp_path / "few", method=made, source=source, recipe={"batch_size": 16, "steps": 2}
    ).run()
    assert "batch size 16 of the preset is more than the 8 samples" in caplog.text
    for method, size in (
        (make_method("coop", n_ctx=2, init_from_template=False), 17),
        (make_method("clip"), 128),
    ):
        toy = source if size == 17 else Toy(8)
        with pytest.raises(InputError, match=f"batch size {size} is larger than the 8 samples"):
            make_engine(
                tmp_path / f"{size}",
                method=method,
                source=toy,
                recipe={"batch_size": size, "steps": 2},
            ).run()
