"""The key-value cache of a transformer: a new token costs only its own matrix products.

Dimensions: B samples, M tokens read so far or of a memory, D width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class LayerCache:
    """The keys and values (B, heads, M, D / heads) of one attention layer, None before its first
    call.

    >>> kept = LayerCache()
    >>> _ = kept.extend(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    >>> kept.extend(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))[0].shape
    torch.Size([1, 2, 4, 4])
    """

    keys: Tensor | None = None
    values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of more tokens; returns all of them."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys = keys
        self.values = values
        return keys, values

    def select(self, index: Tensor | None = None) -> "LayerCache":
        """The cache of the samples `index`; None: of all."""
        if index is None or self.keys is None or self.values is None:
            return LayerCache(self.keys, self.values)
        return LayerCache(self.keys[index], self.values[index])

    def take(self, index: Tensor, k: int) -> "LayerCache":
        """The cache with token `index` (B,) of the last k tokens of each sample in their place."""
        if self.keys is None or self.values is None:
            return LayerCache()
        return LayerCache(one_of_last(self.keys, index, k), one_of_last(self.values, index, k))


def one_of_last(values: Tensor, index: Tensor, k: int) -> Tensor:
    """Values (B, heads, M, d) with only number `index` (B,) of the last k of the M.

    >>> one_of_last(torch.arange(5.0).view(1, 1, 5, 1), torch.tensor([1]), 3).flatten().tolist()
    [0.0, 1.0, 3.0]
    """
    M = values.shape[2] - k
    rows = torch.arange(len(index), device=index.device)
    chosen = values[rows, :, M + index]
    return torch.cat([values[:, :, :M], chosen[:, :, None]], dim=2)


class KVCache:
    """One `LayerCache` per layer: `own` for self-attention, `cross` for the memory, which is read
    once.

    A stack fills the cache that it is given in place. A cache returned by `select` is filled
    independently.
    """

    def __init__(self, own: Iterable[LayerCache], cross: Iterable[LayerCache]):
        self.own = list(own)
        self.cross = list(cross)

    @classmethod
    def empty(cls, depth: int) -> "KVCache":
        """The cache of a stack of `depth` layers that has read no tokens."""
        return cls((LayerCache() for _ in range(depth)), (LayerCache() for _ in range(depth)))

    def layers(self, start: int = 0, stop: int | None = None) -> "KVCache":
        """The cache of layers start … stop-1, which shares its entries: of a stack that is run in
        parts."""
        return KVCache(self.own[start:stop], self.cross[start:stop])

    def select(self, index: Tensor | None = None) -> "KVCache":
        """A cache of the samples `index` (N,), which may repeat; None: of all."""
        return KVCache(
            (kept.select(index) for kept in self.own), (kept.select(index) for kept in self.cross)
        )

    def take(self, index: Tensor, k: int) -> "KVCache":
        """The cache after token `index` (B,) of the last k, which were read as k candidates for one
        place."""
        return KVCache(
            (kept.take(index, k) for kept in self.own), (kept.select() for kept in self.cross)
        )
