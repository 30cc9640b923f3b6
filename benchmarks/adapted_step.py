"""A process that takes steps of one method of adaptation on request; `benchmarks.adaptation` starts
it.

    python -m benchmarks.adapted_step METHOD SPEC WEIGHTS CLASSES BATCH SOURCE

It writes one line of JSON with what it trains, then for each line that it reads one with the CPU and
wall seconds of a step and its loss. It runs with the code of another commit, too: it calls only what
both have. SOURCE is the folder that diptych must come from.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import diptych
from benchmarks.measure import seconds
from diptych.data.batch import Batch, Images
from diptych.methods.base import At, Losses
from diptych.methods.make import Make
from diptych.methods.registry import method_class
from diptych.training.optim import build
from diptych.training.step import Step, freeze_modes


def main(name: str, spec: str, weights: str, classes: int, batch: int, source: str) -> None:
    assert Path(diptych.__file__).is_relative_to(source), (diptych.__file__, source)
    method = prepared(name, diptych.load(spec, weights=Path(weights)), classes)
    step = stepper(method, classes, batch)
    learnt = [parameter.numel() for parameter in method.parameters() if parameter.requires_grad]
    print(json.dumps({"parameters": sum(learnt), "loss": step()}), flush=True)
    for _ in sys.stdin:
        losses: list[float] = []
        cpu, wall = seconds(lambda: losses.append(step()))  # noqa: B023  called at once
        print(json.dumps([cpu, wall, losses[0]]), flush=True)


def prepared(name: str, model: Any, classes: int) -> Any:
    """The method on the model, with class names."""
    torch.manual_seed(0)
    cls: Any = method_class(name)
    config = cls.configure({})
    make = Make.of(model)
    if hasattr(cls, "adapter"):  # later than the commit
        make.adapter = cls.adapter(config)
        method = cls.of(config, make)
    else:
        method = cls(config, make)
    method.model.set_classes([f"thing {number}" for number in range(classes)])
    method.train()
    freeze_modes(method)
    return method


def stepper(method: Any, classes: int, batch: int) -> Callable[[], float]:
    """Forward, loss, backward and update on one batch of random pixels; returns the loss."""
    size = method.model.image.preprocess.size
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (batch, 1, 3, size, size), dtype=torch.uint8, generator=draw)
    samples = Batch(
        images={"main": Images(pixels)},
        fields={"class": torch.arange(batch) % classes},
        keys=[str(number) for number in range(batch)],
    )
    optimizer = build(method, type(method).presets["paper"].recipe, {})
    step = Step(method, "float32")

    def run() -> float:
        losses = Losses(*step(samples, At(0, 1, 0, 0)))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses.total.item()

    return run


if __name__ == "__main__":
    name, spec, weights, classes, batch, source = sys.argv[1:]
    main(name, spec, weights, int(classes), int(batch), source)
