"""What a step of a method costs at any size: floating-point operations and bytes, counted on tensors
without data.

`count` builds the method and runs the step of one stage on fake tensors of torch, which have
shapes and no memory. Each operation is counted as it is dispatched, so what is counted is the code
that trains. Three things are counted apart, because they grow differently:

    encode, of n samples a device      a + b·n     a: what does not depend on the batch, such as prompts
                                       and where a step reads neither images nor texts, what was
                                       computed of each sample before, over the recipe's epochs
    loss, of the global batch N        a + b·N + c·N²; every rank computes it whole
    state                              weights, gradients, optimiser state, averaged weights

The counts hold for an accelerator: attention is fused, so dropout in it stores no matrix.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from diptych.data.batch import Batch, Tokens
from diptych.data.loader import Loader
from diptych.data.plan import Fixed
from diptych.data.sample import Source
from diptych.data.views import View
from diptych.errors import InputError, brief
from diptych.methods.base import At, Features, Method, Recipe, Stage
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.transformer import BLOCKS
from diptych.training import gradcache, optim, shard
from diptych.training.before import before
from diptych.training.estimate import kept
from diptych.training.fake import (
    Fused,
    RealScalars,
    ScalarsAsOne,
    fake_batch,
    fake_method,
    flop_counter,
    modules_of,
    unmoved,
)
from diptych.training.step import Step

SMALL = 4
"""The number of samples at which `encode` is counted, or a method's smallest batch if that is
larger, and at twice as many, for the line through both."""

LOSSES = (64, 128, 256)
"""The batches at which the loss of a larger one is counted, for the parabola through them."""

_AT = At(0, 1000, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A cost that is `fixed + per_sample * n` for n samples."""

    fixed: float
    per_sample: float

    def at(self, count: float) -> float:
        """The cost for `count` samples."""
        return self.fixed + self.per_sample * count


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one of a method's `parts`, a tower, costs: operations `forward` and `backward`, the
    bytes `kept` for backward, and the `tokens` of a sample as gradient caching counts them."""

    forward: Line
    backward: Line
    kept: Line
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the step of a method's stage costs.

    - `parameters` and `trained`: all weights, and those with a gradient.
    - `weight_bytes`, `buffer_bytes`, `gradient_bytes`, `optimizer_bytes`, `average_bytes`: the
      state. Of the weights `outer_bytes` lie outside of blocks, and the largest block has
      `block_bytes`.
    - `input_bytes` and `feature_bytes`: of a sample.
    - `loss_flops` and `loss_bytes`: of the loss of a global batch of `batch_size`, forward and
      backward; None if it cannot be counted without data, for the reason in `uncounted`.
    - `before_flops`: of a sample, where the step reads neither images nor texts but what `prepare`
      computed of each sample once; spread over the recipe's epochs. None if it cannot be counted.
    - `unchunkable` and `unshardable`: why gradient caching or sharding refuses the method, or "".
    - `min_batch`: the samples that a device has to encode together.
    """

    batch_size: int
    precision: str
    parameters: int
    trained: int
    weight_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    outer_bytes: int
    block_bytes: int
    parts: Mapping[str, Part]
    input_bytes: float
    feature_bytes: float
    unchunkable: str
    unshardable: str
    loss_flops: int | None
    loss_bytes: int | None
    uncounted: str = ""
    min_batch: int = 1
    before_flops: float | None = 0.0


def count(
    build: Callable[[], Method],
    sources: Callable[[Method], Mapping[str, Source]],
    recipe: Recipe,
    heavy: bool = False,
) -> Costs:
    """Count a step of the method that `build` returns, of its stage `estimated`, else of the first one
    with steps, on samples of `sources(method)`.

    A `heavy` method, which is not to be held in memory, is built on tensors without data, too;
    others lose theirs when they are built and set up. Texts are filled to the tokenizer's context.
    Raises InputError if the method cannot be run without data.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    method, found = _built(fake, build, sources, heavy)
    stages = [stage for stage in method.stages() if stage.optimize]
    named = [stage for stage in stages if stage.name == method.estimated]
    stage = next(iter(named or stages), None)
    if stage is None:
        raise InputError(f"{method.name} takes no training steps, so there is nothing to estimate")
    optim.freeze(method, stage.lr_scale)
    step = Step(method, recipe.precision)
    at = replace(_AT, stage=stage.name)
    batches = _batches(method, stage, found)
    large = max(batches)
    loss_flops = loss_bytes = None
    try:
        parts, features = _parts(fake, step, batches, at)
    except Exception as error:  # whatever a method does with data that are not there
        uncounted = f"all but the towers{_why(error)}"
        parts, features = _towers(fake, step, batches, at, uncounted)
    else:
        loss_flops, loss_bytes, uncounted = _loss(
            fake, step, batches[large], features, at, (large, recipe.batch_size)
        )
    return Costs(
        batch_size=recipe.batch_size,
        precision=recipe.precision,
        **_state(fake, method, recipe, stage),
        parts=parts,
        input_bytes=_nbytes(batches[large]) / large,
        feature_bytes=sum(value.nbytes for value in features.values()) / large,
        loss_flops=loss_flops,
        loss_bytes=loss_bytes,
        uncounted=uncounted,
        unchunkable=_refusal(gradcache.check, method),
        unshardable=_refusal(shard.check, method),
        min_batch=1 if method.chunkable else stage.min_batch,
        before_flops=before(fake, method, stage, found, batches[large], recipe),
    )


def _built(
    fake: FakeTensorMode,
    build: Callable[[], Method],
    sources: Callable[[Method], Mapping[str, Source]],
    heavy: bool,
) -> tuple[Method, Mapping[str, Source]]:
    """Return the method on fake tensors, and its sources."""
    if not heavy:
        method = build().train()
        found = sources(method)
        method.setup(found)
        return fake_method(fake, method), found
    try:
        with fake, RealScalars(), unmoved():
            method = build().train()
            found = sources(method)
            method.setup(found)
    except InputError:
        raise
    except Exception as error:  # whatever a method does with weights that are not there
        raise InputError(
            f"a method of this size cannot be built without data: {brief(error)}"
        ) from error
    return method, found


def _why(error: Exception) -> str:
    """Return why something cannot be counted, as the end of a sentence."""
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        return " (it depends on the data)"
    return f" ({type(error).__name__}: {brief(error)})"


def _refusal(check: Callable[[Method], None], method: Method) -> str:
    try:
        check(method)
    except InputError as error:
        return str(error)
    return ""


def _parts(
    fake: FakeTensorMode, step: Step, batches: Mapping[int, Any], at: At
) -> tuple[dict[str, Part], dict[str, Tensor]]:
    """Return what each part costs, and the features of all parts of the large batch."""
    parts = {}
    features = {}
    for part in step.method.parts():
        parts[part], found = _part(
            fake, step, batches, part, lambda batch, part=part: step.encode(batch, at, part)
        )
        features |= found
    return parts, features


def _part(
    fake: FakeTensorMode,
    step: Step,
    batches: Mapping[int, Any],
    part: str,
    encode: Callable[[Any], Features],
) -> tuple[Part, dict[str, Tensor]]:
    """Return what a part costs, and its features of the large batch."""
    sizes = sorted(batches)
    small, large = (_encoded(fake, step, fake_batch(fake, batches[size]), encode) for size in sizes)
    found = Part(
        forward=_line(sizes, small.forward, large.forward),
        backward=_line(sizes, small.backward, large.backward),
        kept=_line(sizes, small.kept, large.kept),
        tokens=_tokens(batches[sizes[1]], part),
    )
    return found, large.features


def _towers(
    fake: FakeTensorMode, step: Step, batches: Mapping[int, Any], at: At, reason: str
) -> tuple[dict[str, Part], dict[str, Tensor]]:
    """Return what the towers cost on the images and texts of the first stream, where the method
    cannot encode without data. Raises InputError if there are none."""
    dual = next((part for part in step.method.modules() if isinstance(part, DualEncoder)), None)
    if dual is None:
        raise InputError(f"the costs of {step.method.name} cannot be counted, {reason}")

    def encode(batch: Any) -> Features:
        batch = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
        found = {}
        with torch.autocast("cpu", torch.bfloat16, enabled=step.precision == "bfloat16"):
            for name, images in batch.images.items():
                found[f"image.{name}"] = dual.embed_images(images.flat)
            for name, texts in batch.texts.items() if dual.text is not None else ():
                found[f"text.{name}"] = dual.embed_texts(*texts.flat)
        return found

    part, features = _part(fake, step, batches, "all", encode)
    return {"all": part}, features


def _tokens(batch: Any, part: str) -> int:
    """Return the tokens of a sample that a part reads, those of the longest stream."""
    streams = batch.values() if isinstance(batch, Mapping) else [batch]
    return max(gradcache.tokens(each, part) for each in streams)


def _line(sizes: Sequence[int], small: float, large: float) -> Line:
    per_sample = (large - small) / (sizes[1] - sizes[0])
    return Line(fixed=max(0.0, small - per_sample * sizes[0]), per_sample=per_sample)


@dataclass
class _Encoded:
    features: dict[str, Tensor]
    forward: int
    backward: int
    kept: int


def _encoded(
    fake: FakeTensorMode, step: Step, batch: Any, encode: Callable[[Any], Features]
) -> _Encoded:
    with fake, Fused(), flop_counter() as counter:
        features, held = kept(step, lambda: encode(batch))
        forward = counter.get_total_flops()
        learning = [value for value in features.values() if value.requires_grad]
        if learning:
            torch.autograd.backward(learning, [torch.ones_like(value) for value in learning])
        backward = counter.get_total_flops() - forward
    return _Encoded(
        {name: value.detach() for name, value in features.items()}, forward, backward, held
    )


def _loss(
    fake: FakeTensorMode,
    step: Step,
    batch: Any,
    features: Mapping[str, Tensor],
    at: At,
    given: tuple[int, int],
) -> tuple[int | None, int | None, str]:
    """Return operations and kept bytes of the loss of a global batch, or why they cannot be counted.
    `given` are the sizes of the batch at hand and of the global one."""
    large, size = given
    sizes = LOSSES if size > LOSSES[-1] else (max(large, size),)
    try:
        counted = [
            _loss_at(fake, step, batch, features, at, max(1, count // large)) for count in sizes
        ]
    except Exception as error:  # whatever a loss does with data that are not there
        return None, None, f"the loss{_why(error)}"
    flops, held = zip(*counted, strict=True)
    return _parabola(sizes, flops, size), _parabola(sizes, held, size), ""


def _loss_at(
    fake: FakeTensorMode,
    step: Step,
    batch: Any,
    features: Mapping[str, Tensor],
    at: At,
    times: int,
) -> tuple[int, int]:
    """Return operations and kept bytes of the loss of a batch that is repeated."""
    whole = fake_batch(fake, _repeated(batch, times, images=step.method.whole))
    with fake, Fused(), flop_counter() as counter:
        grown = {}
        for name, value in features.items():
            grown[name] = value.new_empty(len(value) * times, *value.shape[1:])
            grown[name].requires_grad_(value.is_floating_point())
        losses, held = kept(step, lambda: step.loss(grown, whole, at))
        if losses.total.requires_grad:
            losses.total.backward()
    return counter.get_total_flops(), held


def _parabola(sizes: Sequence[int], values: Sequence[int], size: int) -> int:
    """Return the value at `size` of the parabola through three points, or the only point's.

    >>> _parabola((1, 2, 4), (4, 9, 25), 9)  # (n + 1)²
    100
    """
    if len(sizes) == 1:
        return values[0]
    total = 0.0
    for at, value in zip(sizes, values, strict=True):
        others = [other for other in sizes if other != at]
        total += value * math.prod((size - other) / (at - other) for other in others)
    return max(round(total), 0)


def _state(fake: FakeTensorMode, method: Method, recipe: Recipe, stage: Stage) -> Mapping[str, int]:
    parameters = [value for part in modules_of(method) for value in part._parameters.values()]
    parameters = list(dict.fromkeys(value for value in parameters if value is not None))
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    with fake:
        optimizer = optim.build(method, replace(recipe, **stage.recipe), stage.lr_scale)
        for parameter in learning:
            parameter.grad = torch.empty_like(parameter)
        with ScalarsAsOne():
            optimizer.step()
        optimizer_bytes = optim.state_bytes(optimizer)
    weights = sum(parameter.nbytes for parameter in parameters)
    blocks = [
        sum(parameter.nbytes for parameter in module.parameters())
        for module in method.modules()
        if isinstance(module, BLOCKS)
    ]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in learning),
        "weight_bytes": weights,
        "buffer_bytes": sum(buffer.nbytes for buffer in method.buffers()),
        "gradient_bytes": sum(parameter.nbytes for parameter in learning),
        "optimizer_bytes": optimizer_bytes,
        "average_bytes": weights if recipe.ema else 0,
        "outer_bytes": weights - sum(blocks),
        "block_bytes": max(blocks, default=0),
    }


def _batches(method: Method, stage: Stage, sources: Mapping[str, Source]) -> dict[int, Any]:
    """Return two batches by their sizes, one twice as large as the other."""
    if stage.min_batch <= SMALL:
        return {size: _batch(method, stage, sources, size) for size in (SMALL, 2 * SMALL)}
    first = _batch(method, stage, sources, stage.min_batch)
    return {stage.min_batch: first, 2 * stage.min_batch: _repeated(first, 2, images=True)}


def _batch(method: Method, stage: Stage, sources: Mapping[str, Source], size: int) -> Any:
    """Return a batch of real tensors, with texts that fill the context."""
    streams = stage.streams[:1] if stage.turns else stage.streams
    parts = {}
    for stream in streams:
        source = _samples(method, stage, stream, sources[stream])
        views = method.views(stage, stream)
        loader = Loader(source, views, Fixed(), stage.batch_size(stream, size), steps=1)
        parts[stream] = _filled(next(iter(loader.epoch(0))), views)
    return parts if len(stage.streams) > 1 else parts[streams[0]]


def _samples(method: Method, stage: Stage, stream: str, source: Source) -> Source:
    try:
        return method.samples(stage, stream, source)
    except AssertionError:  # they are chosen by an earlier stage; each costs as much as any other
        return source


def _filled(batch: Batch, views: Sequence[View]) -> Batch:
    """Return the batch with texts as long as the contexts of the tokenizers that made them."""
    contexts: dict[str, int] = {}
    for view in views:
        tokenizer = getattr(view, "tokenizer", None)
        if tokenizer is not None:
            contexts |= {name.removeprefix("texts."): tokenizer.context for name in view.gives}
    texts = {
        name: _to_context(tokens, contexts.get(name, 0)) for name, tokens in batch.texts.items()
    }
    return replace(batch, texts=texts)


def _to_context(tokens: Tokens, context: int) -> Tokens:
    lacking = max(0, context - tokens.ids.shape[2])

    def longer(tensor: Tensor) -> Tensor:
        return (
            torch.nn.functional.pad(tensor, (0, lacking), mode="replicate") if lacking else tensor
        )

    return Tokens(
        longer(tokens.ids.float()).long(),
        torch.full_like(tokens.lengths, max(context, tokens.ids.shape[2])),
        None if tokens.marks is None else longer(tokens.marks.float()).long(),
    )


def _repeated(batch: Any, times: int, images: bool) -> Any:
    if isinstance(batch, Mapping):
        return {name: _repeated(each, times, images) for name, each in batch.items()}
    shown = batch.images if images else {}
    found = replace(batch, images=shown).map(
        lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1))
    )
    keys = [f"{number}-{key}" for number in range(times) for key in batch.keys]
    return replace(found, keys=tuple(keys))


def _nbytes(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return sum(map(_nbytes, batch.values()))
    found: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.nbytes)
        return tensor

    batch.map(note)
    return sum(found)
