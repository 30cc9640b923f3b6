"""Elastic: what was begun on some ranks goes on with any other number, as if nothing had
changed."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.factories import make_method

from diptych.methods.base import Recipe
from diptych.testing import Toy
from diptych.training.engine import Engine
from diptych.training.gradcache import strategy
from diptych.training.options import Options

STEPS, BROKEN = 9, 4  # 3 batches an epoch: broken in the middle of the second


class Stopped(Exception):
    pass


def train(out: str, stop: int | None, resume: bool, chunk: int | None) -> dict[int, list[str]]:
    """Run in float64, until `stop` where it is given; which samples this rank saw, step by step."""
    seen: dict[int, list[str]] = {}

    def backward(step, batch, at):
        seen[at.step] = list(batch.keys)
        return strategy(chunk)(step, batch, at)

    Path(out).mkdir(exist_ok=True, parents=True)
    recipe = replace(Recipe(lr=1e-3, batch_size=15, steps=STEPS, ema=0.9, clip=1.0), chunk=chunk)
    options = Options(quiet=True, save_every=1)
    engine = Engine(
        make_method(seed=3 if resume else 0).double(),
        recipe,
        {"train": Toy(43)},
        Path(out),
        options,
        backward=backward,
    )
    snapshot = engine._snapshot

    def stopping(optimizer):
        snapshot(optimizer)
        if engine.position.done == stop:
            raise Stopped

    engine._snapshot = stopping
    try:
        engine.run(resume)
    except Stopped:
        engine.log.close()
    return seen


def curve(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("chunk", [None, 40], ids=["at_once", "in_pieces"])
def test_04_a_run_saved_on_2_ranks_goes_on_with_1_or_4(tmp_path, two, four, chunk):
    """Every sample of each epoch exactly once, and the losses of the unbroken run."""
    unbroken = train(str(tmp_path / "one"), None, False, chunk)
    expected = curve(tmp_path / "one")
    assert len(expected) == STEPS
    for count in (1, 4):
        out = tmp_path / str(count)
        parts = two.run(train, str(out), BROKEN, False, chunk)
        more = (
            [train(str(out), None, True, chunk)]
            if count == 1
            else four.run(train, str(out), None, True, chunk)
        )
        assert curve(out) == pytest.approx(expected, abs=1e-6)
        samples = [
            [key for seen in (parts if step < BROKEN else more) for key in seen[step]]
            for step in range(STEPS)
        ]
        assert samples == [unbroken[step] for step in range(STEPS)]
        for epoch in range(3):
            met = Counter(key for batch in samples[3 * epoch : 3 * epoch + 3] for key in batch)
            assert sorted(met) == list(Toy(43).keys())
            assert set(met.values()) == {1}
        starts = [
            line for line in (out / "metrics.jsonl").read_text().splitlines() if '"start"' in line
        ]
        assert [json.loads(line)["world_size"] for line in starts] == [2, count]
