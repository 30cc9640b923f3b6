"""The input of a method's step: a frozen `Batch` of tensors.

Dimensions: B samples, V views, C captions, L text length, P patches, H x W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Images:
    """Images (B, V, 3, H, W), uint8 until they reach a tower."""

    pixels: Tensor

    @property
    def flat(self) -> Tensor:
        """The pixels (B * V, 3, H, W)."""
        return self.pixels.flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids (B, C, L), padded on the right; `lengths` (B, C) are the numbers of real ids.

    `marks` (B, C, L), of views that mask ids, are the ids that were there, -1 at all other places.
    """

    ids: Tensor
    lengths: Tensor
    marks: Tensor | None = None

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Ids (B * C, L) and lengths (B * C,), as towers accept them."""
        return self.ids.flatten(0, 1), self.lengths.flatten()

    def columns(self) -> "list[Tokens]":
        """One `Tokens` (B, 1, L) per caption: the c-th holds caption c of all samples."""
        return [
            self.map(lambda tensor, at=at: tensor[:, at : at + 1])
            for at in range(self.ids.shape[1])
        ]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Tokens":
        """The tokens with `fn` applied to each tensor."""
        marks = None if self.marks is None else fn(self.marks)
        return Tokens(fn(self.ids), fn(self.lengths), marks)


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one training step."""

    images: Mapping[str, Images] = field(default_factory=dict)
    texts: Mapping[str, Tokens] = field(default_factory=dict)
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def image(self) -> Images:
        return self.images["main"]

    @property
    def text(self) -> Tokens:
        return self.texts["main"]

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `fn` applied to each of its tensors."""
        return replace(
            self,
            images={name: Images(fn(images.pixels)) for name, images in self.images.items()},
            texts={name: tokens.map(fn) for name, tokens in self.texts.items()},
            fields={name: fn(value) for name, value in self.fields.items()},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; copies overlap with compute where the memory is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (the hook that torch's DataLoader calls)."""
        return self.map(lambda tensor: tensor.pin_memory())

    def rows(self, start: int, stop: int) -> "Batch":
        """The batch of samples start … stop-1, for gradient caching."""
        cut = self.map(lambda tensor: tensor[start:stop])
        return replace(cut, keys=self.keys[start:stop])
