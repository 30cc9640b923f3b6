"""A small convolutional image tower, fast on a CPU: dense 3x3 kernels, channels last, norms per
position.

Measured on two cores at 64 pixels: depthwise kernels (ConvNeXt) take 3 to 5 times as long at equal
widths, group norm a fifth more. For GPUs use `timm:convnext_atto` and the like.

Dimensions: B samples, C channels, h x w the positions of a map, H x W pixels, S stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError
from diptych.towers.build import image
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.tower import ImageTower, preprocess_of


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Options of `conv`: stage i has `depths[i]` blocks of `widths[i]` channels.

    All stages but the first halve the map.
    """

    image_size: int = 64
    widths: tuple[int, ...] = (48, 96, 192)
    depths: tuple[int, ...] = (1, 1, 1)
    stem: int = 4  # stride of the first convolution
    stem_kernel: int | None = None  # its size; None: the stride, so that patches do not overlap
    kernel: int = 3  # of the blocks
    pooling: Literal["mean", "max"] = "mean"
    preprocess: Mapping[str, Any] | None = None

    def __post_init__(self):
        for name in ("widths", "depths"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.widths) != len(self.depths):
            raise InputError(
                f"conv has {len(self.widths)} widths but {len(self.depths)} depths; give one of each a stage"
            )
        if min(*self.widths, self.stem) < 1 or min(self.depths) < 0:
            raise InputError(
                f"conv widths {self.widths}, depths {self.depths} or stem {self.stem} are too small"
            )
        if self.kernel % 2 == 0:
            raise InputError(
                f"conv kernel {self.kernel} is even; blocks need an odd one to keep the map's size"
            )
        if self.image_size < (stride := self.stem * 2 ** (len(self.widths) - 1)):
            raise InputError(
                f"conv image_size {self.image_size} is below its stride {stride}; take fewer stages"
            )


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, h, w), at each position separately."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm x))))) with square kernels (He et al., 2016,
    pre-activation)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.norm1 = ChannelNorm(width)
        self.norm2 = ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)
        self.conv2 = nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


@image("conv")
class ConvTower(ImageTower):
    """A pre-activation residual network. Its tokens are the positions of the last map; `levels` are
    the maps of all stages, fine to coarse.

    It accepts images (B, 3, H, W) of any size of at least its stride.

    >>> tower = ConvTower(ConvConfig(image_size=32, widths=(8, 16), depths=(1, 1)))
    >>> encoded = tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    >>> encoded.pooled.shape, encoded.grid, [tuple(level.shape) for level in encoded.levels]
    (torch.Size([2, 16]), (4, 4), [(2, 8, 8, 8), (2, 16, 4, 4)])
    """

    Config = ConvConfig

    def __init__(self, config: ConvConfig):
        super().__init__(config, preprocess_of(config.preprocess, size=config.image_size))
        if self.preprocess.size != config.image_size:
            raise InputError(
                f"conv has image_size {config.image_size}, its preprocess {self.preprocess.size}; make them equal"
            )
        self.width = config.widths[-1]
        size = config.stem_kernel or config.stem
        self.stem = nn.Conv2d(
            3, config.widths[0], size, config.stem, padding=(size - config.stem + 1) // 2
        )
        self.stages = nn.ModuleList(_stage(config, i) for i in range(len(config.widths)))
        self.norm = nn.LayerNorm(self.width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def embed(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the first map (B, C, h, w)."""
        return self.stem(self.pixels(x).contiguous(memory_format=torch.channels_last))

    def blocks(self, x: Tensor) -> list[Tensor]:
        """The first map -> the map after each of S stages."""
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def finish(self, levels: Sequence[Tensor]) -> Encoded:
        """Final norm and pooling: tokens are norm(map), pooled is norm(mean or max over
        positions)."""
        last = levels[-1]
        flat = last.flatten(2).transpose(1, 2)
        pooled = flat.mean(1) if self.config.pooling == "mean" else flat.amax(1)
        return Encoded(
            self.norm(flat),
            self.norm(pooled),
            grid=(last.shape[2], last.shape[3]),
            levels=tuple(levels),
        )

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Run `embed`, `blocks` and `finish`. Raises InputError for an `edit` or `hidden` patches,
        which need a token stream."""
        if edit is not None or hidden is not None:
            raise InputError(
                "a conv tower has no token stream for prompts or hidden patches; choose image tower vit"
            )
        return self.finish(self.blocks(self.embed(x)))


def _stage(config: ConvConfig, i: int) -> nn.Sequential:
    """Halve the map and widen it (not in the first stage), then the residual blocks."""
    width = config.widths[i]
    layers: list[nn.Module] = [
        ChannelNorm(config.widths[i - 1]),
        nn.Conv2d(config.widths[i - 1], width, 2, 2),
    ]
    return nn.Sequential(
        *(layers if i else []), *(Residual(width, config.kernel) for _ in range(config.depths[i]))
    )
