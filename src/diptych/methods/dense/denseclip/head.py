"""From maps of an image tower to logits of classes: the pyramid of a ViT, and Semantic FPN.

Dimensions: B images, C_i channels of map i, K classes, h x w positions.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import gcd
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

Norm = Literal["group", "batch"]
GROUPS = 32
"""The most groups of a group norm, each of two channels or more."""


def norm_of(kind: Norm) -> Callable[[int], nn.Module]:
    """What makes the norm of a number of channels: group norm, or batch norm, whose statistics are
    global on several ranks."""
    return nn.BatchNorm2d if kind == "batch" else _group_norm


def _group_norm(width: int) -> nn.Module:
    groups = gcd(GROUPS, width // 2) if width % 2 == 0 else 1
    return nn.GroupNorm(groups, width)


class VitPyramid(nn.Module):
    """Four maps (B, D, h, w) of a ViT's blocks as maps of 4, 2, 1 and 1/2 times their sides, or the last
    three without the first, which a detector does not read.

    Each passes a group norm of one group first.

    >>> import torch
    >>> maps = VitPyramid(8, "group")([torch.zeros(1, 8, 4, 4)] * 4)
    >>> [each.shape[-1] for each in maps]
    [16, 8, 4, 2]
    """

    def __init__(self, width: int, norm: Norm, skipped: int = 0):
        super().__init__()

        def twice() -> nn.Module:
            return nn.ConvTranspose2d(width, width, 2, 2)

        first = nn.Sequential(twice(), norm_of(norm)(width), nn.GELU(), twice())
        adapters = [first, twice(), nn.Identity(), nn.MaxPool2d(2)][skipped:]
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in adapters)
        self.adapters = nn.ModuleList(adapters)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        parts = zip(self.norms, self.adapters, maps, strict=True)
        return [adapter(norm(each)) for norm, adapter, each in parts]


class SemanticFPN(nn.Module):
    """Maps (B, C_i, h_i, w_i), fine to coarse, as logits (B, K, h_0, w_0).

    A feature pyramid gives all maps `width` channels. Map i then passes convolutions of `inner`
    channels, each followed by scaling up to the next finer map, until it has the size of the first;
    the sum of all is classified. Source: Kirillov et al. 2019 (Panoptic FPN), with the pyramid of
    Lin et al. 2017.

    >>> import torch
    >>> head = SemanticFPN((8, 8), width=8, inner=8, classes=3)
    >>> head([torch.zeros(2, 8, 6, 6), torch.zeros(2, 8, 3, 3)]).shape
    torch.Size([2, 3, 6, 6])
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        width: int,
        inner: int,
        classes: int,
        norm: Norm = "group",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(widths), width)

        def conv(channels: int) -> nn.Module:
            layer = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
            return nn.Sequential(layer, norm_of(norm)(inner), nn.ReLU())

        self.branches = nn.ModuleList(
            nn.ModuleList(conv(inner if at else width) for at in range(max(1, level)))
            for level in range(len(widths))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(inner, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        named = OrderedDict((str(at), each) for at, each in enumerate(maps))
        levels = list(self.pyramid(named).values())
        sizes = [each.shape[-2:] for each in levels]
        branches = zip(levels, self.branches, strict=True)
        found = [self._raised(x, branch, sizes[:at]) for at, (x, branch) in enumerate(branches)]
        return self.classify(self.dropout(sum(found[1:], start=found[0])))

    def _raised(self, x: Tensor, branch: nn.Module, finer: Sequence[tuple[int, ...]]) -> Tensor:
        """A map after the convolutions of its branch, at the size of the first of the `finer`."""
        for conv, size in zip(branch, [*reversed(finer)] or [x.shape[-2:]], strict=True):  # type: ignore[arg-type]  # a list
            x = conv(x)
            if x.shape[-2:] != size:
                x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return x
