"""Edits of the residual stream, by which prompts and the like reach a transformer.

An edit is a function of a layer's number and the tokens at its input (`towers.encoded.Edit`).

Dimensions: B samples, N tokens, b inserted tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.encoded import Edit


@dataclass(frozen=True, eq=False)
class Insert:
    """An edit that puts `values` (b, D) or (B, b, D) into the stream at the input of block `layer`.

    `at` is a position, counted from the end if negative, or one position per sample (B,), such as
    `lengths - 1` for EOT. The `placement` "replace" overwrites positions at … at+b-1; "before" and
    "after" insert next to position `at`. Raises InputError if the values do not fit. It serves
    prompt tuning as in Khattak et al., 2023 (MaPLe).

    >>> tokens = torch.arange(4.0).view(1, 4, 1)
    >>> prompt = torch.tensor([[7.0], [8.0]])
    >>> Insert(prompt, layer=0, at=1)(0, tokens).flatten().tolist()
    [0.0, 7.0, 8.0, 3.0]
    >>> Insert(prompt, layer=0, at=-1, placement="after")(0, tokens).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 7.0, 8.0]
    """

    values: Tensor
    layer: int
    at: int | Tensor
    placement: Literal["replace", "before", "after"] = "replace"

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        if layer != self.layer:
            return tokens
        (B, N, _) = tokens.shape
        values = self.values.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        b = values.shape[1]
        # Positions that the values overwrite.
        taken = values.shape[1] if self.placement == "replace" else 0
        start = self.at + N * (self.at < 0) + (self.placement == "after")
        if not torch.compiler.is_compiling() and bool(
            torch.as_tensor((start < 0) | (start > N - taken)).any()
        ):
            raise InputError(
                f"{b} tokens at {self.at} ({self.placement}) do not fit into the {N} tokens of layer {layer}"
            )
        if isinstance(start, int):
            return torch.cat([tokens[:, :start], values, tokens[:, start + taken :]], dim=1)
        place = torch.arange(N + b - taken, device=tokens.device)
        start = start.view(B, 1)
        kept = torch.where(place < start, place, place - b + taken).clamp(min=0)
        source = torch.where((place >= start) & (place < start + b), N + place - start, kept)
        return torch.cat([tokens, values], dim=1).gather(
            1, source[..., None].expand(-1, -1, tokens.shape[2])
        )


def chain(*edits: Edit) -> Edit:
    """One edit that applies several in order."""

    def edit(layer: int, tokens: Tensor) -> Tensor:
        for one in edits:
            tokens = one(layer, tokens)
        return tokens

    return edit


@contextmanager
def edited(layers: Sequence[nn.Module], edit: Edit | None) -> Iterator[None]:
    """Context in which `edit` is applied to the first argument of each of a foreign model's
    `layers`."""

    def hook(layer: int) -> Callable:
        return lambda _, args: (edit(layer, args[0]), *args[1:]) if edit is not None else None

    handles = (
        [block.register_forward_pre_hook(hook(i)) for i, block in enumerate(layers)]
        if edit is not None
        else []
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
