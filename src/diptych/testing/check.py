"""The contract suite: the checks that every method must pass. `check_method("clip")` runs it;
authors of methods run it on their own class.

Each check is a function of a `Subject`, and its first line says what it proves. The checks use the
method's own presets on a toy source with the fields that the method reads.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.base import At, Method
from diptych.methods.make import Make
from diptych.methods.registry import cards, is_file
from diptych.testing.learning import learns_its_own_signal, shuffled_texts_teach_nothing
from diptych.testing.ranks import Ranks
from diptych.testing.runs import (
    batch_of,
    batches,
    engine_of,
    float64,
    found_by,
    gradients_of,
    halves,
    sizes,
    snapshot,
    train,
)
from diptych.testing.subject import Subject, columns_of, toy_tokenizer
from diptych.training.optim import freeze
from diptych.training.step import Step, forward_backward


def encode_mixes_no_samples(subject: Subject) -> None:
    """`encode` computes the same features of a sample whatever else is in the batch."""
    method = subject.small().eval()
    if not method.chunkable:
        return
    for stage, batch in batches(subject, method):
        at = At(0, 10, 0, 0, stage.name)
        with torch.no_grad():
            together = method.encode(batch, at)
            parts = [method.encode(half, at) for half in halves(batch)]
        for name, value in together.items():
            apart = torch.cat([part[name] for part in parts])
            assert value.shape == apart.shape and len(value) in sizes(batch), (
                f"feature {name!r} of encode has shape {tuple(value.shape)}; its first dimension must be the batch"
            )
            assert torch.allclose(value, apart, atol=1e-4, rtol=1e-3), (
                f"feature {name!r} of encode changes with who else is in the batch (by "
                f"{float((value - apart).abs().max()):.2g}); move what mixes samples into loss, or set "
                "chunkable = False"
            )


def loss_changes_no_state(subject: Subject) -> None:
    """`encode` and `loss` change no parameters and no buffers except the running statistics of
    batch norms, and return the same value twice."""
    method = subject.small()
    running = {
        f"{place}.{name}"
        for place, module in method.named_modules()
        if isinstance(module, _BatchNorm)
        for name, _ in module.named_buffers()
    }
    step = Step(method, "float32")
    for stage, batch in batches(subject, method):
        at = At(0, 10, 0, 0, stage.name)
        before = snapshot(method)
        values: list[torch.Tensor] = []
        for _ in range(2):
            with torch.no_grad():
                values.append(step.loss(step.encode(batch, at), batch, at).total)
        assert all(bool(torch.isfinite(value).all()) for value in values), (
            f"the loss of the first batch is {values[0]}, and must be finite: look for a logarithm or root of 0, a "
            "division by 0, an exponential of something large, a softmax over nothing"
        )
        after = {name: value for name, value in method.state_dict().items() if name not in running}
        changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
        assert not changed, (
            f"loss changes state ({', '.join(changed[:3])}); change it in after_step"
        )
        assert torch.equal(values[0], values[1]), (
            "loss gives another value the second time on the same features: it keeps state outside buffers"
        )


def every_parameter_learns(subject: Subject) -> None:
    """Each stage's loss is one finite number. Every trainable parameter gets a finite gradient in
    some stage, and in every stage unless the class sets `find_unused_parameters`."""
    method = subject.small()
    lost: set[str] | None = (
        None if any(stage.optimize for stage in method.stages()) else _trainable(method)
    )
    for stage, batch in batches(subject, method):
        freeze(method, stage.lr_scale)
        method.zero_grad(set_to_none=True)
        losses = forward_backward(Step(method, "float32"), batch, At(0, 10, 0, 0, stage.name))
        assert losses.total.ndim == 0 and bool(torch.isfinite(losses.total)), (
            f"the loss is {losses.total}"
        )
        missing = set()
        for name, parameter in method.named_parameters():
            if parameter.grad is None:
                missing |= {name} if parameter.requires_grad else set()
            else:
                assert bool(torch.isfinite(parameter.grad).all()), (
                    f"the gradient of {name} is not finite"
                )
        assert not missing or method.find_unused_parameters, (
            f"stage {stage.name!r} gives {', '.join(sorted(missing)[:3])} no gradient; "
            "set find_unused_parameters = True"
        )
        lost = missing if lost is None else lost & missing
    assert not lost, (
        f"no gradient ever reaches {', '.join(sorted(lost)[:5])}; freeze or remove what is not trained"
    )


def _trainable(method: Method) -> set[str]:
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


def cached_gradients_are_the_whole_batchs(subject: Subject) -> None:
    """When encoded a few samples at a time (`--chunk`), a step of each stage has the loss and the
    gradients of the whole batch."""
    if (
        subject.cls.chunkable
        and not subject.cls.whole
        and any(stage.optimize for stage in subject.small().stages())
    ):
        _compare(
            gradients_of(subject),
            gradients_of(subject, chunk=40),
            "when encoded in pieces",
        )


def two_ranks_train_as_one(subject: Subject, ranks: Ranks) -> None:
    """On two ranks, loss and gradients of each stage equal those of one process; so does the result
    of a search."""
    if not subject.small().stages()[0].optimize:
        one = found_by(subject)
        for rank, two in enumerate(ranks.run(found_by, subject)):
            for name, value in one.items():
                assert torch.allclose(value, two[name], atol=1e-4, rtol=1e-3), (
                    f"{name} is another on rank {rank} of two"
                )
    if not any(stage.optimize for stage in subject.small().stages()):
        return
    one = gradients_of(subject)
    # as many samples for both ranks together
    batch = batch_of(subject.small())
    for rank, two in enumerate(ranks.run(gradients_of, subject, batch)):
        _compare(one, two, f"on rank {rank} of two")


def _compare(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], where: str) -> None:
    """Compare the steps of `gradients_of`."""
    for own, theirs in zip(one, other, strict=True):
        _compare_step(own, theirs, where if len(one) == 1 else f"{where} in stage {own['stage']!r}")


def _compare_step(one: dict[str, Any], other: dict[str, Any], where: str) -> None:
    assert abs(one["loss"] - other["loss"]) < 1e-8 * max(1, abs(one["loss"])), (
        f"the loss is {one['loss']} in one process at once, {other['loss']} {where}"
    )
    # Some gradients are zero up to rounding (a softmax ignores the bias of its keys), so the norm
    # of all gradients sets their scale.
    whole_norm = torch.stack([gradient.norm() for gradient in one["gradients"].values()]).norm()
    for name, gradient in one["gradients"].items():
        assert name in other["gradients"], f"{name} has no gradient {where}"
        scale = torch.maximum(gradient.norm(), 1e-4 * whole_norm)
        off = (gradient - other["gradients"][name]).norm()
        # not a quotient, since all gradients of a stage may be zero
        assert off <= 1e-6 * scale, (
            f"the gradient of {name} {where} is off by {float(off / scale):.2g} of its norm"
        )


def resume_is_exact(subject: Subject) -> None:
    """A run that is interrupted and resumed ends with the same bits as an uninterrupted one."""
    with tempfile.TemporaryDirectory() as folder:
        unbroken = train(subject, Path(folder) / "a", 4)
        train(subject, Path(folder) / "b", 4, stop_after=2)
        resumed = train(subject, Path(folder) / "b", 4, resume=True)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), (
            f"after resuming, {name} differs from the unbroken run's"
        )


def saved_model_loads(subject: Subject) -> None:
    """The module of `deliver` is written to model.safetensors and loaded into a new method with the
    same bits."""
    method = subject.small()
    preset = subject.preset("small", 4)
    delivered = method.deliver()
    with tempfile.TemporaryDirectory() as folder:
        preprocess = store.preprocess_of(delivered)
        description = store.describe(
            subject.name or "unnamed", preset.config, delivered, toy_tokenizer(preset), preprocess
        )
        store.save_model(Path(folder), description, delivered.state_dict())
        json.dumps(description)  # plain values only
        fresh = subject.make(preset)
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.zero_()
        store.load_state(fresh.deliver(), Path(folder) / "model.safetensors")
        if subject.name is not None and (subject.name in cards() or is_file(subject.name)):
            store.load(folder)
    for name, value in delivered.state_dict().items():
        assert torch.equal(value, fresh.deliver().state_dict()[name]), (
            f"{name} changed on its way through the file"
        )


def missing_field_is_refused(subject: Subject) -> None:
    """A source without a field that is read raises an InputError that names it, before the first
    step."""
    method = subject.small()
    first = method.stages()[0]
    computed = {field for _, field in columns_of(subject)}
    needed = [name for stream in first.streams for name in method.needs(first, stream)]
    for name in dict.fromkeys(needed):
        if name in computed:
            continue
        sources = subject.sources(method, without=name)
        with tempfile.TemporaryDirectory() as folder:
            try:
                engine_of(subject, method, sources, Path(folder), 1).run()
            except InputError as error:
                assert name in str(error), (
                    f"the error for a source without {name} does not name it: {error}"
                )
            else:
                raise AssertionError(f"a source without {name} was accepted")


def paper_preset_builds(subject: Subject) -> None:
    """`paper` builds at full size on the meta device, and takes two real steps at 1/16 of its width
    (or solves once if it has no steps)."""
    full = subject.cls.preset("paper")
    with torch.device("meta"):
        maker = Make(
            image=full.image,
            text=full.text,
            embed_dim=full.embed_dim,
            tokenizer=toy_tokenizer(full),
        )
        method = subject.cls.of(subject.cls.configure(full.config), maker)
    assert sum(p.numel() for p in method.parameters()) > 1_000_000, (
        "the paper preset is no full-size model"
    )
    narrow = subject.preset("paper", 16)
    with tempfile.TemporaryDirectory() as folder:
        small = subject.make(narrow)
        engine = engine_of(subject, small, subject.sources(small), Path(folder), 2, batch=4)
        assert engine.run().steps >= (2 if any(stage.optimize for stage in small.stages()) else 1)


def golden_losses(subject: Subject, path: Path) -> None:
    """The losses of 20 steps in float64 equal those in the stored file."""
    losses = _losses(subject)
    assert path.exists(), (
        f"{path} is missing; write it with `python -m diptych.testing {subject.name} --golden {path}`"
    )
    stored = [float(line) for line in path.read_text().split()]
    assert len(stored) == len(losses), (
        f"{path} holds {len(stored)} losses, the run has {len(losses)}"
    )
    for step, (old, new) in enumerate(zip(stored, losses, strict=True)):
        # Measured between instruction sets: at most 1e-13. Float32 losses would differ by some
        # percent, since Muon scales the rounding errors in null directions to the size of a step.
        assert abs(old - new) <= 1e-7 * max(1, abs(old)), (
            f"at step {step} the loss is {new}, stored is {old} ({path})"
        )


def _losses(subject: Subject) -> list[float]:
    with float64(), tempfile.TemporaryDirectory() as folder:
        train(subject, Path(folder) / "run", 20)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [reported["loss"] for reported in map(json.loads, lines) if "loss" in reported]


CHECKS: Sequence[Callable[[Subject], None]] = (
    encode_mixes_no_samples,
    loss_changes_no_state,
    every_parameter_learns,
    cached_gradients_are_the_whole_batchs,
    missing_field_is_refused,
    saved_model_loads,
    resume_is_exact,
    paper_preset_builds,
    learns_its_own_signal,
    shuffled_texts_teach_nothing,
)


def check_method(
    method: str | Path | type[Method],
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    ranks: Ranks | None = None,
    golden: str | Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Run the contract suite on a method, given by its name, its file (`*.py`) or its class. An
    AssertionError says what is wrong and how to fix it.

    `options` are options of the method, for one that trains in several ways.
    `ranks` provides two running ranks (else two are started); `golden` names the file of stored
    losses. `tell` receives a line as each check begins, by default it prints to stderr. Raises
    InputError for a method that does not exist or lacks a preset.

    >>> check_method("clpi")
    Traceback (most recent call last):
    diptych.errors.InputError: unknown method 'clpi'; did you mean 'clip'?
    """
    if isinstance(method, str | Path):
        subject = Subject.of(str(method), options)
    elif method.__module__ == "__main__":  # two ranks are processes of their own
        raise InputError(
            f"{method.__name__} is a class of the running program, which the checks on two ranks cannot import; give "
            "the file that it is in: check_method('FILE.py')"
        )
    else:
        subject = Subject(method, options=tuple(options.items()))
    for name in ("small", "paper"):
        subject.cls.preset(name)
    tell = tell or partial(print, file=sys.stderr, flush=True)
    count = len(CHECKS) + 1
    for number, check in enumerate(CHECKS, 1):
        tell(f"check {number} of {count}: {_title(check)}")
        check(subject)
    tell(f"check {count} of {count}: {_title(two_ranks_train_as_one)}")
    if ranks is not None:
        two_ranks_train_as_one(subject, ranks)
    else:
        with Ranks(2) as own:
            two_ranks_train_as_one(subject, own)
    if golden is not None:
        golden_losses(subject, Path(golden))


def _title(check: Callable[..., None]) -> str:
    return check.__name__.replace("_", " ")


def write_golden(name: str, path: Path) -> None:
    """Store the losses of 20 steps in float64; review the difference before you commit it."""
    path.write_text("".join(f"{loss:.12g}\n" for loss in _losses(Subject.of(name))))
