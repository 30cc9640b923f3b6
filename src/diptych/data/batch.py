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
    crops: Tensor | None = None  # (B, V, 4): x0, y0, x1, y1 of the view, as fractions of the image
    masks: Tensor | None = None  # (B, V, P) bool: patches hidden from the student

    @property
    def flat(self) -> Tensor:
        """The pixels (B * V, 3, H, W)."""
        return self.pixels.flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids (B, C, L), padded on the right; `lengths` (B, C) are the numbers of real ids."""

    ids: Tensor
    lengths: Tensor

    @property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Ids (B * C, L) and lengths (B * C,), as towers accept them."""
        return self.ids.flatten(0, 1), self.lengths.flatten()

    def columns(self) -> "list[Tokens]":
        """One `Tokens` (B, 1, L) per caption: the c-th holds caption c of all samples."""
        return [
            Tokens(*column)
            for column in zip(self.ids.split(1, 1), self.lengths.split(1, 1), strict=True)
        ]


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

        def on(value: Tensor | None) -> Tensor | None:
            return None if value is None else fn(value)

        return replace(
            self,
            images={
                k: Images(fn(v.pixels), on(v.crops), on(v.masks)) for k, v in self.images.items()
            },
            texts={k: Tokens(fn(v.ids), fn(v.lengths)) for k, v in self.texts.items()},
            fields={k: fn(v) for k, v in self.fields.items()},
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; copies overlap with compute where the memory is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (the hook that torch's DataLoader calls)."""
        return self.map(lambda tensor: tensor.pin_memory())

    def rows(self, start: int, stop: int) -> "Batch":
        """The batch of samples start … stop-1, for gradient caching."""

        def on(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[start:stop]

        return replace(
            self,
            images={
                k: Images(v.pixels[start:stop], on(v.crops), on(v.masks))
                for k, v in self.images.items()
            },
            texts={
                k: Tokens(v.ids[start:stop], v.lengths[start:stop]) for k, v in self.texts.items()
            },
            fields={k: v[start:stop] for k, v in self.fields.items()},
            keys=self.keys[start:stop],
        )
