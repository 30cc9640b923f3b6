"""Small runs for the tests of training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.factories import AT, IMAGE, make_method
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from diptych import collectives
from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.methods.base import Losses, Recipe
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.siglip import SigLIP
from diptych.testing import Toy
from diptych.training.engine import Engine
from diptych.training.gradcache import strategy
from diptych.training.options import Options
from diptych.training.programs.program import Program, parse
from diptych.training.step import Step, forward_backward

HEAD = "def train(weight, gradient, state1, lr):\n    "
"""The head of a program with one state."""

METHODS = {"clip": CLIP, "siglip": SigLIP}


def rule(*lines: str, returned: str = "update, state1") -> Program:
    """The program of some lines, with one state."""
    return parse(HEAD + "\n    ".join([*lines, f"return {returned}"]))


def make_engine(
    out: Path, *, method=None, source=None, backward=None, validate=None, recipe=None, **options
) -> Engine:
    out.mkdir(parents=True, exist_ok=True)
    base = Recipe(lr=1e-3, batch_size=16, steps=9)
    extra = {"backward": backward} if backward else {}
    return Engine(
        method or make_method(),
        replace(base, **(recipe or {})),
        {"train": source or Toy(44)},
        out,
        Options(quiet=True, **options),
        validate=validate,
        **extra,
    )


def read_log(out: Path, times=False) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if times or k != "seconds"}
        for line in lines
        if line.get("event") != "start"
    ]


class Broken(Exception):
    """The process ends here."""


def run_until(engine, done, resume=False):
    """Run, and break off right after the snapshot of step `done`, as a killed process would."""
    snapshot = engine._snapshot

    def stopping(optimizer):
        snapshot(optimizer)
        if engine.position.done == done:
            raise Broken

    engine._snapshot = stopping
    with pytest.raises(Broken):
        engine.run(resume)


def poison(where):
    """A backward that spoils step 2: the loss itself, or one gradient after a good loss."""

    def backward(step, batch, at):
        losses = forward_backward(step, batch, at)
        if at.step != 2:
            return losses
        if where == "loss":
            return Losses({name: term * float("nan") for name, term in losses.terms.items()})
        next(p for p in step.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")
        return losses

    return backward


def a_batch(method, count=13, source=None):
    """This rank's part of one batch of `count` samples."""
    views = method.views(method.stages()[0])
    rank, ranks = collectives.rank(), collectives.world_size()
    loader = Loader(
        source or Toy(3 * count), views, Shuffled(), count, steps=10, rank=rank, ranks=ranks
    )
    return next(iter(loader.epoch(0)))


def peak(chunk: int | None, count: int) -> int:
    """The most bytes that autograd holds at a time in one step, parameters and the batch's own
    images apart."""
    method = make_method(image=IMAGE.replace("depth=1", "depth=3")).train()
    step, batch = Step(method, "float32"), a_batch(method, count, Toy(128))
    own = {t.data_ptr() for t in (*method.parameters(), batch.image.pixels, batch.text.ids)}
    held, most, alive = [0], [0], {}

    class Held:
        def __init__(self, tensor):
            self.tensor, self.pointer = tensor, tensor.untyped_storage().data_ptr()
            self.counted = self.pointer not in own
            if self.counted:
                alive[self.pointer] = alive.get(self.pointer, 0) + 1
                self.size = tensor.untyped_storage().nbytes()
                held[0] += self.size if alive[self.pointer] == 1 else 0
                most[0] = max(most[0], held[0])

        def __del__(self):
            if self.counted:
                alive[self.pointer] -= 1
                held[0] -= self.size if alive[self.pointer] == 0 else 0

    with saved_tensors_hooks(Held, lambda saved: saved.tensor):
        strategy(chunk)(step, batch, AT)
    return most[0]


def small_model(dtype=torch.float32) -> nn.Module:
    """Three layers, with parameters of one and of two dimensions."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3)).to(dtype)
