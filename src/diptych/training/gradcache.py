"""Gradient caching: the gradient of a batch of any size in the memory of a piece of it.

The loss of a contrastive batch needs all features at once, but not all graphs. So each part of the
method (a tower) is encoded piece by piece without graph; the loss of all features is taken once,
with its gradient with respect to the features, dL/df; then each piece is encoded again, with graph,
and dL/df of its rows is sent through it:

    dL/dw = Σ_pieces (dL/df_piece) (df_piece/dw)          loss-only parameters (scale, bias): dL/dw of the one loss

Both passes of a piece draw the same random numbers, by (seed, stage, step, rank, part, piece).
Dropout differs from that of the batch as a whole only as another seed would; without it the
gradient is the whole batch's but for rounding. Costs one more forward pass. Source: Gao et al. 2021
(GradCache), here for each tower apart and cut by tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from diptych import collectives
from diptych.data.batch import Batch
from diptych.errors import InputError
from diptych.methods.base import At, Losses, Method
from diptych.training.step import Step, forward_backward

PATCH = 16
"""Pixels a side of what counts as one token of an image, whatever patches a tower cuts."""


def strategy(chunk: int | None) -> Callable[[Any, Any, At], Losses]:
    """How a recipe runs forward and backward of a step: at once, or in pieces."""
    return forward_backward if chunk is None else cached(chunk)


def cached(chunk: int) -> Callable[[Any, Any, At], Losses]:
    """What `step.forward_backward` does, in pieces of at most `chunk` tokens (and at least one
    sample).

    Averages gradients over the ranks itself, once, after the last piece; so it takes a step that
    DDP does not wrap.
    """

    def backward(step: Step, batch: Any, at: At) -> Losses:
        found: dict[str, list[Tensor]] = {}
        parts = step.method.parts()
        pieces = {part: list(_pieces(batch, part, chunk)) for part in parts}
        with torch.no_grad():
            for part in parts:
                for number, piece in enumerate(pieces[part]):
                    for name, value in step.encode(piece, at, part, number).items():
                        found.setdefault(name, []).append(value)
        features = {name: torch.cat(values) for name, values in found.items()}
        found.clear()
        for value in features.values():
            value.requires_grad_(value.is_floating_point())
        # Behind a proxy: in a dict FSDP finds the tensors, and gives what the loss leaves out a
        # gradient of zeros.
        losses = Losses(*step.terms(MappingProxyType(features), batch, at))
        losses.total.backward()
        losses = Losses(
            {name: term.detach() for name, term in losses.terms.items()},
            losses.logged,
            losses.carry,
        )
        gradients = {name: value.grad for name, value in features.items()}
        # and the loss's graph: what the second round needs beyond a piece are the gradients alone
        del features
        row = dict.fromkeys(gradients, 0)
        for part in parts:
            for number, piece in enumerate(pieces[part]):
                learning = []
                for name, value in step.encode(piece, at, part, number).items():
                    gradient = gradients[name]
                    start = row[name]
                    row[name] += len(value)
                    if value.requires_grad and gradient is not None:
                        learning.append((value, gradient[start : row[name]]))
                if not learning:  # a frozen tower: one forward pass is enough
                    break
                values, wanted = zip(*learning, strict=True)
                torch.autograd.backward(values, wanted)
        collectives.average_gradients(step.method.parameters())
        return losses

    return backward


def samples_at_once(batch: Batch, part: str, chunk: int) -> int:
    """How many samples of a batch have `chunk` tokens in what a part reads, at least 1.

    Tokens of a sample: V · ⌈H/16⌉ · ⌈W/16⌉ for images (V views), C · L for texts (C captions padded
    to L).

    >>> from diptych.data.batch import Images, Tokens
    >>> images = {"main": Images(torch.zeros(9, 1, 3, 64, 64))}
    >>> texts = {"main": Tokens(torch.zeros(9, 1, 10), torch.zeros(9, 1))}
    >>> [samples_at_once(Batch(images, texts), part, 60) for part in ("images", "texts", "all")]
    [3, 6, 2]
    """
    images = sum(
        i.pixels.shape[1] * -(-i.pixels.shape[3] // PATCH) * -(-i.pixels.shape[4] // PATCH)
        for i in batch.images.values()
    )
    words = sum(t.ids.shape[1] * t.ids.shape[2] for t in batch.texts.values())
    tokens = {"images": images, "texts": words, "all": images + words}[part]
    return max(1, chunk // max(1, tokens))


def check(method: Method) -> None:
    """InputError where a method, in the mode it is in, may not be cut: its samples meet in
    `encode`."""
    if not method.chunkable:
        raise InputError(
            f"{type(method).__name__} encodes a batch only as a whole, so --chunk cannot cut it; leave it out, and "
            "lower --batch-size where memory is short"
        )
    for name, module in method.named_modules():
        if getattr(module, "mixes_samples", False) or (
            isinstance(module, _BatchNorm) and module.training
        ):
            raise InputError(
                f"{name} has batch norm, whose features depend on who else is in the batch, so --chunk cannot cut it; "
                "choose a tower without (vit, conv, timm:convnext_atto), or leave --chunk out"
            )


def _pieces(batch: Any, part: str, chunk: int) -> Iterator[Any]:
    """A batch, or batches side by side, in pieces of nearly equal size, none with more than `chunk`
    tokens a stream.

    The same number on all ranks, as shards take all of them to encode a piece; so at most the
    samples of the shortest.
    """
    streams = dict(batch) if isinstance(batch, Mapping) else {"": batch}
    wanted = max(-(-len(each) // samples_at_once(each, part, chunk)) for each in streams.values())
    asked = collectives.gather_objects((wanted, min(len(each) for each in streams.values())))
    count = max(1, min(max(wanted for wanted, _ in asked), *(length for _, length in asked)))
    for number in range(count):
        cut = {
            name: each.rows(len(each) * number // count, len(each) * (number + 1) // count)
            for name, each in streams.items()
        }
        yield cut if isinstance(batch, Mapping) else cut[""]
