"""Training on several ranks: equal to one process, and of one mind when something is wrong."""

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.factories import make_method
from tests.training.helpers import make_engine

from diptych import collectives
from diptych.data.plan import Shuffled
from diptych.data.sample import BadSample
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.testing.subject import toy_tokenizer
from diptych.training.engine import Engine, Interrupted
from diptych.training.options import Options
from diptych.training.step import Step, forward_backward

VIT = "vit:image_size=32:patch=16:width=32:depth=1:heads=2"


def train(
    out: str,
    trouble: str | None = None,
    nonfinite: str = "stop",
    source=None,
    steps: int = 4,
    image: str = VIT,
):
    """Runs on each rank: weights and log position after a few steps, or the error that it saw."""
    torch.manual_seed(0)
    make = Make(
        image=image,
        text="text:width=32:depth=1:heads=2",
        embed_dim=32,
        tokenizer=toy_tokenizer(CLIP.presets["small"]),
    )
    method = CLIP(CLIP.configure({}), make)

    def backward(step, batch, at):
        losses = forward_backward(step, batch, at)
        if trouble and at.step == 1 and collectives.rank() == 1:
            next(p for p in step.parameters() if p.grad is not None).grad.view(-1)[0] = float(
                trouble
            )
        return losses

    Path(out).mkdir(exist_ok=True, parents=True)
    recipe = replace(Recipe(lr=1e-3), batch_size=15, steps=steps)
    engine = Engine(
        method,
        recipe,
        {"train": source or Toy(44)},
        Path(out),
        Options(quiet=True, nonfinite=nonfinite),
        backward=backward,
    )
    try:
        summary = engine.run()
    except InputError as error:
        return str(error), engine.position.done, None
    return (
        summary.skipped,
        engine.position.done,
        {k: v.clone() for k, v in method.state_dict().items()},
    )


def test_two_ranks_follow_the_path_of_one_process(tmp_path, two):
    _, _, alone = train(str(tmp_path / "one"))
    first, second = two.run(train, str(tmp_path / "two"))
    for name, value in alone.items():
        assert torch.equal(first[2][name], second[2][name]), f"ranks drift apart in {name}"
        assert torch.allclose(value, first[2][name], atol=2e-3), name


def test_batch_norm_of_a_foreign_tower_sees_the_samples_of_all_ranks(tmp_path, two):
    tower = "timm:resnet10t:image_size=32"
    _, _, alone = train(str(tmp_path / "one"), steps=1, image=tower)
    first, _ = two.run(train, str(tmp_path / "two"), None, "stop", None, 1, tower)
    statistics = [name for name in alone if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        assert torch.allclose(alone[name], first[2][name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("trouble", ["nan", "inf"])
def test_trouble_on_one_rank_stops_all_before_the_update(tmp_path, two, trouble):
    answers = two.run(train, str(tmp_path / "run"), trouble)
    for message, done, _ in answers:
        assert "not finite at step 1" in message
        assert done == 1
    assert len(list((tmp_path / "run").glob("nonfinite-1.json"))) == 1


def test_trouble_on_one_rank_is_skipped_by_all(tmp_path, two):
    first, second = two.run(train, str(tmp_path / "run"), "nan", "skip")
    assert first[0] == second[0] == 1
    assert all(torch.equal(value, second[2][name]) for name, value in first[2].items())


class HalfDamaged(Toy):
    def __getitem__(self, index):
        if index % 4 == 0:
            raise BadSample("truncated")
        return super().__getitem__(index)


def test_too_much_damage_stops_all_ranks_together(tmp_path, two):
    answers = two.run(train, str(tmp_path / "run"), None, "stop", HalfDamaged(44))
    assert all("truncated" in message for message, _, _ in answers)


def saved_by(out: str, when: str) -> tuple[str, list[int]]:
    """Runs on each rank: what rank 1 (or 0) being sent SIGTERM ends in, and the checkpoints."""

    def stop():
        signal.raise_signal(signal.SIGTERM)

    def backward(step, batch, at):
        if when == "step" and at.step == 1 and collectives.rank() == 1:
            stop()
        return forward_backward(step, batch, at)

    engine = make_engine(Path(out), backward=backward, recipe={"batch_size": 22, "steps": 4})
    if when == "validation":
        engine.validate = lambda module, done: stop() or {}
    if when == "after" and collectives.rank() == 1:
        engine.log.advance = lambda step, loss: stop() if step == 2 else None
    try:
        engine.run()
    except Interrupted as error:
        return str(error), engine.checkpoints.steps()
    return "went on", engine.checkpoints.steps()


@pytest.mark.parametrize(("when", "step"), [("step", 2), ("after", 3), ("validation", 3)])
def test_a_signal_to_one_rank_saves_and_ends_all(tmp_path, two, when, step):
    """A signal that comes behind the exchange of a step is heeded in the next, so that ranks stay
    together."""
    for message, steps in two.run(saved_by, str(tmp_path / "run"), when):
        assert f"after step {step}" in message
        assert steps == [step]


def weights_after_trouble(out: str, trouble: bool) -> list[dict]:
    """Runs on each rank: the weights, and the averaged ones, of a run that stops at its second
    step, or ends there."""

    def backward(step, batch, at):
        losses = forward_backward(step, batch, at)
        if trouble and at.step == 1 and collectives.rank() == 1:
            return Losses({name: term * float("nan") for name, term in losses.terms.items()})
        return losses

    engine = make_engine(
        Path(out), backward=backward, recipe={"batch_size": 22, "ema": 0.5, "steps": 4}
    )
    if not trouble:
        engine._snapshot = lambda optimizer: (_ for _ in ()).throw(InputError("enough"))
    with contextlib.suppress(InputError):
        engine.run()
    return [
        {k: v.clone() for k, v in module.state_dict().items()}
        for module in (engine.method, engine.delivered())
    ]


def test_a_loss_that_is_not_finite_on_one_rank_updates_nothing_on_any(tmp_path, two):
    spoilt = two.run(weights_after_trouble, str(tmp_path / "spoilt"), True)
    sound = two.run(weights_after_trouble, str(tmp_path / "sound"), False)
    for mine, theirs in zip(spoilt, sound, strict=True):
        for ours, expected in zip(mine, theirs, strict=True):
            assert all(torch.equal(value, ours[name]) for name, value in expected.items())
    listed = json.loads((tmp_path / "spoilt" / "nonfinite-1.json").read_text())
    assert sorted(listed["keys"]["train"]) == sorted(
        f"{i:03d}" for i in Shuffled()(Toy(44), 0, 0, 22)[1]
    )


class Drawing(CLIP):
    """Features and losses that are draws."""

    def encode(self, batch, at):
        return {"image": torch.rand(4)}

    def loss(self, features, batch, at):
        return Losses({"draw": torch.rand(())})


def draws() -> tuple[torch.Tensor, torch.Tensor]:
    method = make_method()
    method.__class__ = Drawing
    step = Step(method, "float32")
    at = At(0, 1, 0, 0)
    drawn = step.encode(None, at)["image"]
    return drawn, step.loss({}, {}, at).terms["draw"]


def test_ranks_draw_their_own_in_encode_and_the_same_in_the_loss(two):
    (encoded, lost), (other_encoded, other_lost) = two.run(draws)
    assert not torch.equal(encoded, other_encoded)
    assert torch.equal(lost, other_lost)


def ragged() -> list[str]:
    """Runs on each rank: what is said of tensors that cannot be gathered."""
    said = []
    wide = torch.zeros(3, 2, 5 + collectives.rank())
    flat = wide[0, 0] if collectives.rank() else wide
    typed = torch.zeros(2, 5, dtype=(torch.int32, torch.float32)[collectives.rank()])
    for x in (wide, flat, typed):
        try:
            collectives.gather(x, "feature 'tokens'")
        except InputError as error:
            said.append(str(error))
    return said


def test_features_of_other_sizes_are_refused_on_all_ranks_with_one_message(two):
    first, second = two.run(ragged)
    assert first == second
    assert first[0].startswith(
        "feature 'tokens' is torch.float32 (3, 2, 5) on rank 0 and torch.float32 (3, 2, 6) on rank 1"
    )
    assert "torch.int32 (2, 5) on rank 0 and torch.float32 (2, 5) on rank 1" in first[2]
