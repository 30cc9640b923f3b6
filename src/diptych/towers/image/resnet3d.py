"""A residual network of volumes: 3D ResNet with shortcuts of type A (He et al. 2016; Hara et al.
2018).

Dimensions: B samples, C channels, d x h x w the positions of a map, D x H x W voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.volumes import VolumePreprocess
from diptych.errors import InputError
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.tower import ImageTower


@dataclass(frozen=True, kw_only=True)
class ResNet3DConfig:
    """Options of `resnet3d`: stage i has `depths[i]` blocks of `widths[i]` channels.

    `stem` is the kernel of the first convolution. The first convolution, the pool behind it and
    every stage but the first halve the map. Volumes are scaled to `scaled_slices` and
    `scaled_size`, then cropped to `slices` and `image_size`. With `detached_shortcut` no gradient
    flows through the shortcuts that halve the map, as in implementations that build them of
    `.data`.
    """

    image_size: int = 128
    slices: int = 32
    scaled_size: int | None = None
    scaled_slices: int | None = None
    window: tuple[float, float] = (-200.0, 300.0)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    stem: int = 7
    detached_shortcut: bool = False
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("window", "widths", "depths"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.widths) != len(self.depths) or not self.widths:
            raise InputError(
                f"resnet3d has {len(self.widths)} widths but {len(self.depths)} depths; give one of each a stage"
            )
        if min(self.widths + self.depths) < 1 or self.stem % 2 == 0:
            raise InputError(
                f"resnet3d widths {self.widths} and depths {self.depths} must be positive, and stem {self.stem} odd"
            )
        if any(a > b for a, b in zip(self.widths, self.widths[1:], strict=False)):
            raise InputError(
                f"resnet3d widths {self.widths} fall; its shortcuts only add channels, so give growing ones"
            )


def shortcut(x: Tensor, width: int, stride: int, detached: bool = False) -> Tensor:
    """The shortcut of type A: every `stride`-th position of (B, C, d, h, w), and zeros as further
    channels up to `width`.

    >>> import torch
    >>> shortcut(torch.ones(1, 2, 4, 4, 3), 5, 2).sum((0, 2, 3, 4)).tolist()
    [8.0, 8.0, 0.0, 0.0, 0.0]
    """
    if stride == 1 and x.shape[1] == width:
        return x
    x = x[:, :, ::stride, ::stride, ::stride]
    x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, width - x.shape[1]))
    return x.detach() if detached else x


class Block(nn.Module):
    """relu(norm(conv(relu(norm(conv x)))) + shortcut x), with 3 x 3 x 3 kernels."""

    def __init__(self, before: int, width: int, stride: int, detached: bool):
        super().__init__()
        self.width = width
        self.stride = stride
        self.detached = detached
        self.conv1 = nn.Conv3d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + shortcut(x, self.width, self.stride, self.detached))


@image("resnet3d")
class ResNet3D(ImageTower):
    """A 3D ResNet on volumes (B, 1, D, H, W) in 0 … 1. Its tokens are the positions of the last
    map, `pooled` is their mean.

    >>> import torch
    >>> tower = ResNet3D(ResNet3DConfig(image_size=32, slices=16, widths=(8, 16), depths=(1, 1)))
    >>> encoded = tower(torch.zeros(2, 1, 16, 32, 32))
    >>> encoded.pooled.shape, encoded.tokens.shape
    (torch.Size([2, 16]), torch.Size([2, 32, 16]))
    """

    Config = ResNet3DConfig

    def __init__(self, config: ResNet3DConfig):
        scaled = (
            config.scaled_slices or config.slices,
            config.scaled_size or config.image_size,
        )
        default = {
            "size": config.image_size,
            "slices": config.slices,
            "scaled": scaled,
            "window": config.window,
        }
        super().__init__(
            config, VolumePreprocess.from_dict({**default, **(config.preprocess or {})})
        )
        widths = config.widths
        self.width = widths[-1]
        self.stem = nn.Conv3d(1, widths[0], config.stem, 2, padding=config.stem // 2, bias=False)
        self.norm = nn.BatchNorm3d(widths[0])
        self.stages = nn.ModuleList(_stage(config, number) for number in range(len(widths)))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> the first map, pooled by 3 x 3 x 3 over a border of zeros."""
        x = F.relu(self.norm(self.stem(self.pixels(x))))
        # no number is below 0, so the pool's own border does; on a CPU it is faster channels last
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return F.max_pool3d(x, 3, 2, padding=1).contiguous()

    def blocks(self, x: Tensor) -> list[Tensor]:
        """The first map -> the map after each stage."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def finish(self, maps: Sequence[Tensor]) -> Encoded:
        """The positions of the last map, and their mean."""
        tokens = maps[-1].flatten(2).transpose(1, 2)
        return Encoded(tokens, tokens.mean(1))

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for an `edit` or `hidden` patches,
        which a convolutional tower does not have."""
        if edit is not None or hidden is not None:
            raise InputError(
                "resnet3d has no tokens to edit or hide; choose a tower of images, vit"
            )
        if x.ndim != 5:
            raise InputError(
                f"resnet3d reads volumes (N, 1, slices, rows, columns), not {tuple(x.shape)}"
            )
        return self.finish(self.blocks(self.embed(x)))


def _stage(config: ResNet3DConfig, number: int) -> nn.Sequential:
    """A stage: its first block takes the channels of the one before, and all but the first stage
    halve the map."""
    width = config.widths[number]
    before = config.widths[max(number - 1, 0)]
    first = Block(before, width, 1 if number == 0 else 2, config.detached_shortcut)
    rest = [
        Block(width, width, 1, config.detached_shortcut) for _ in range(config.depths[number] - 1)
    ]
    return nn.Sequential(first, *rest)
