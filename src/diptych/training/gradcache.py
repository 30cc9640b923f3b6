"""Gradient caching: the gradient of a batch of any size in the memory of a part of it.

A contrastive loss needs the features of the whole batch at once, but not all graphs. So each part
of the method (a tower) is first encoded piece by piece without a graph. The loss of all features is
computed once, with its gradient with respect to the features, dL/df. Then each piece is encoded
again, with a graph, and dL/df of its rows is backpropagated through it:

    dL/dw = Σ_pieces (dL/df_piece) (df_piece/dw)          loss-only parameters (scale, bias): dL/dw of the one loss

Both passes of a piece draw the same random numbers, by (seed, stage, step, rank, part, piece).
Dropout differs from that of the whole batch only as with another seed; without it the gradient
equals that of the whole batch up to rounding. The cost is one more forward pass. Source: Gao et al.
2021 (GradCache), here for each tower separately and split by tokens.
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
"""The side in pixels of the image area that counts as one token, whatever the patch size of a
tower."""


def strategy(chunk: int | None) -> Callable[[Any, Any, At], Losses]:
    """Return the function that runs forward and backward of a step: at once, or in pieces."""
    return forward_backward if chunk is None else cached(chunk)


def cached(chunk: int) -> Callable[[Any, Any, At], Losses]:
    """Return the equivalent of `step.forward_backward` in pieces of at most `chunk` tokens (and at
    least one sample).

    It averages gradients over the ranks itself, once, after the last piece, so the step must not be
    wrapped by DDP.
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
        # In a proxy: in a dict FSDP would find the tensors, and give those that the loss does not
        # use a gradient of zeros.
        losses = Losses(*step.terms(MappingProxyType(features), batch, at))
        losses.total.backward()
        losses = Losses(
            {name: term.detach() for name, term in losses.terms.items()},
            losses.logged,
            losses.carry,
        )
        gradients = {name: value.grad for name, value in features.items()}
        # frees the loss's graph too: beyond a piece, the second pass needs only the gradients
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
    """Return how many samples of a batch have `chunk` tokens in what a part reads, at least 1.

    Tokens of a sample: V · ⌈H/16⌉ · ⌈W/16⌉ for images (V views), C · L for texts (C captions padded
    to L).

    >>> from diptych.data.batch import Images, Tokens
    >>> images = {"main": Images(torch.zeros(9, 1, 3, 64, 64))}
    >>> texts = {"main": Tokens(torch.zeros(9, 1, 10), torch.zeros(9, 1))}
    >>> [samples_at_once(Batch(images, texts), part, 60) for part in ("images", "texts", "all")]
    [3, 6, 2]
    """
    return max(1, chunk // max(1, tokens(batch, part)))


def tokens(batch: Batch, part: str) -> int:
    """Return the tokens of a sample in what a part reads, as `samples_at_once` counts them."""
    images = sum(
        i.pixels.shape[1] * -(-i.pixels.shape[3] // PATCH) * -(-i.pixels.shape[4] // PATCH)
        for i in batch.images.values()
    )
    words = sum(t.ids.shape[1] * t.ids.shape[2] for t in batch.texts.values())
    return {"images": images, "texts": words, "all": images + words}[part]


def check(method: Method) -> None:
    """Raise InputError if a method, in its current mode, cannot be chunked because `encode` mixes
    samples."""
    if method.whole or not method.chunkable:
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
    """Yield a batch, or batches side by side, in pieces of nearly equal size, none with more than
    `chunk` tokens a stream.

    The number of pieces is the same on all ranks, since sharded ranks must encode each piece
    together; so it is at most the number of samples of the shortest batch.
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
