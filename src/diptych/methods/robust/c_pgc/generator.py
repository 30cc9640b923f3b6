"""Generators of one perturbation from conditions of many samples, and the free perturbation of
PGD.

    x_0 = z (R, 100, 3, 3),    x_{l+1} = relu(batch_norm(conv_transpose(x_l))),    size 3, 6, 12, …
    G   = merge(tanh(conv_transpose(x_L)))

After the second and the fourth layer a transformer attends to the condition of each row; the last
layer takes the R rows for channels and merges them into one perturbation.

Dimensions: R rows, C channels, E condition, O output channels, h x w positions, S pixels a side, D
width of a word embedding.
"""

from math import gcd
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.towers.nn.transformer import Attention

NOISE_OF_IMAGES = 100
NOISE_OF_TEXTS = 32
"""Channels of the fixed noise z."""
TEXT_LAYERS = 4
LEAST_CHANNELS = 4
SPREAD = 0.02
"""Standard deviation of the initial weights of convolutions."""


class SpatialTransformer(nn.Module):
    """Self-attention over positions (R, C, h, w), cross-attention to one condition (R, E), and a
    gated feed-forward layer, each with a residual.

    The last convolution starts at zero, so at first the condition has no effect.

    >>> block = SpatialTransformer(64, 8)
    >>> x = torch.randn(2, 64, 3, 3)
    >>> torch.equal(block(x, torch.randn(2, 8)), x)
    True
    """

    def __init__(self, channels: int, cond_dim: int):
        super().__init__()
        C = channels
        self.norm = nn.GroupNorm(gcd(32, C), C, eps=1e-6)
        self.into = nn.Conv2d(C, C, 1)
        self.norm_own = nn.LayerNorm(C)
        self.own = Attention(C, 1, bias=False)
        self.norm_cross = nn.LayerNorm(C)
        self.cross = Attention(C, 1, memory_width=cond_dim, bias=False)
        self.norm_mlp = nn.LayerNorm(C)
        self.fc1 = nn.Linear(C, 8 * C)
        self.fc2 = nn.Linear(4 * C, C)
        self.out = nn.Conv2d(C, C, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        tokens = self.into(self.norm(x)).flatten(2).mT
        tokens = tokens + self.own(self.norm_own(tokens))
        tokens = tokens + self.cross(self.norm_cross(tokens), condition[:, None])
        value, gate = self.fc1(self.norm_mlp(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.fc2(value * F.gelu(gate))
        return x + self.out(tokens.mT.unflatten(2, x.shape[2:]))


class PerturbationGenerator(nn.Module):
    """Conditions (n, E) -> one perturbation (O, H, W), not yet bounded.

    Condition r mod n goes to row r, so any number of conditions fits. Batch norm has no running
    statistics: it is that of the rows in training and afterwards.

    - `image` makes (3, S, S), S = 3 · 2^(layers + 1)
    - `text` makes (1, 16, W), with at least `width` numbers

    >>> PerturbationGenerator.image(8, layers=3, channels=32, rows=4)(torch.randn(2, 8)).shape
    torch.Size([3, 48, 48])
    >>> PerturbationGenerator.text(8, 768, channels=32, rows=4)(torch.randn(2, 8)).shape
    torch.Size([1, 16, 48])
    """

    noise: Tensor

    def __init__(
        self, cond_dim: int, channels: list[int], out: int, noise: tuple[int, ...], first: int
    ):
        """`channels` are those of the layers, `noise` the shape of z, `first` the kernel of the
        first layer: 4, which doubles a side of 3, or 1, which keeps it."""
        super().__init__()
        self.register_buffer("noise", torch.randn(noise))
        before = [noise[1], *channels[:-1]]
        self.layers = nn.ModuleList()
        self.attention = nn.ModuleDict()
        for number, (width, wider) in enumerate(zip(before, channels, strict=True)):
            shape = (4, 2, 1) if number else (first, 1, 0)
            # without the bias, which batch norm takes away
            kernel = nn.ConvTranspose2d(width, wider, *shape, bias=False)
            batch_norm = nn.BatchNorm2d(wider, track_running_stats=False)
            self.layers.append(nn.Sequential(kernel, batch_norm, nn.ReLU()))
        for number in (1, 3):
            if number < len(channels):
                self.attention[str(number)] = SpatialTransformer(channels[number], cond_dim)
        self.out = nn.ConvTranspose2d(channels[-1], out, 4, 2, 1)
        self.merge = nn.Conv2d(noise[0], 1, 3, padding=1)
        self._init()

    @classmethod
    def image(cls, cond_dim: int, *, layers: int, channels: int, rows: int) -> Self:
        """The generator of images, whose first layer has `channels`, the next half of them, …"""
        noise = (rows, NOISE_OF_IMAGES, 3, 3)
        return cls(cond_dim, _halved(channels, layers), 3, noise, first=4)

    @classmethod
    def text(cls, cond_dim: int, width: int, *, channels: int, rows: int) -> Self:
        """The generator of word embeddings of `width` numbers."""
        columns = -(-width // 4**TEXT_LAYERS)
        noise = (rows, NOISE_OF_TEXTS, 1, columns)
        return cls(cond_dim, _halved(channels, TEXT_LAYERS), 1, noise, first=1)

    def forward(self, conditions: Tensor) -> Tensor:
        rows = torch.arange(len(self.noise), device=conditions.device) % len(conditions)
        condition = conditions[rows]
        x = self.noise
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if str(number) in self.attention:
                x = self.attention[str(number)](x, condition)
        return self.merge(self.out(x).tanh().transpose(0, 1))[:, 0]

    def _init(self) -> None:
        outs = {id(block.out) for block in self.attention.values()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and id(module) not in outs:
                nn.init.normal_(module.weight, std=SPREAD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class FreePerturbation(nn.Module):
    """A perturbation that is a parameter, `scale` times `values`, in place of a generator's.

    Its gradient is the sign of the gradient, so that SGD takes the steps of PGD.

    >>> free = FreePerturbation(torch.zeros(3), scale=0.5)
    >>> (free(torch.ones(1, 8)) * torch.tensor([4.0, 0.0, -0.1])).sum().backward()
    >>> free.values.grad.tolist()
    [1.0, 0.0, -1.0]
    """

    def __init__(self, values: Tensor, scale: float):
        super().__init__()
        self.values = nn.Parameter(values)
        self.values.register_hook(torch.sign)
        self.scale = scale

    def forward(self, conditions: Tensor) -> Tensor:
        return self.scale * self.values


def _halved(channels: int, layers: int) -> list[int]:
    return [max(channels // 2**layer, LEAST_CHANNELS) for layer in range(layers)]
