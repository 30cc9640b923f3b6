"""Training on several ranks: equal to one process, and of one mind when something is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych import collectives
from diptych.data.sample import BadSample
from diptych.errors import InputError
from diptych.methods.base import Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import Toy
from diptych.testing.subject import toy_tokenizer
from diptych.training.engine import Engine, Options
from diptych.training.step import whole

VIT = "vit:image_size=32:patch=16:width=32:depth=1:heads=2"


def train(out: str, trouble: str | None = None, nonfinite: str = "stop", source=None, steps: int = 4, image: str = VIT):
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
        losses = whole(step, batch, at)
        if trouble and at.step == 1 and collectives.rank() == 1:
            next(p for p in step.parameters() if p.grad is not None).grad.view(-1)[0] = float(trouble)
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
    return summary.skipped, engine.position.done, {k: v.clone() for k, v in method.state_dict().items()}


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
