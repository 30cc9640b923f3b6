"""A small denoiser of images that attends to the rows of a text.

    x_t = √a_t x_0 + √(1 - a_t) e,    eps(x_t, t, E) ≈ e,    guided: eps_∅ + g (eps_E - eps_∅)

a_t falls by the squared cosine (Nichol and Dhariwal 2021), or as in latent diffusion (Rombach et
al. 2022). Pixels are cut into patches; a transformer with cross-attention to the rows E predicts v
(Salimans and Ho 2022), of which the noise follows:

    v = √a_t e - √(1 - a_t) x_0,    eps = √(1 - a_t) x_t + √a_t v

So it need not learn to copy noise. [choice] eps_∅ attends to the rows of the empty prompt instead
(classifier-free guidance, Ho and Salimans 2022). Sampling follows the deterministic steps of DDIM
(Song et al. 2021).

Dimensions: B images, S x S pixels, W width, L rows of a text, E embedding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.images import HALF, Preprocess
from diptych.errors import InputError
from diptych.towers.nn.transformer import Transformer

Schedule = Literal["cosine", "scaled_linear"]


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Images of `size` pixels in patches of `patch`, `depth` blocks of `width`; `steps` of noise by
    a `schedule` (`kept_at`)."""

    size: int = 32
    patch: int = 4
    width: int = 128
    depth: int = 4
    heads: int | None = None  # width / 64
    steps: int = 1000
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        for name in ("size", "patch", "width", "depth", "steps"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name} of the denoiser is {getattr(self, name)}; it must be at least 1"
                )
        if self.size % self.patch:
            raise InputError(
                f"images of {self.size} pixels cannot be cut into patches of {self.patch}"
            )
        if self.width % 2:
            raise InputError(f"width of the denoiser is {self.width}; it must be even")


class Denoiser(nn.Module):
    """Predict the noise of noisy images (B, 3, S, S) in [-1, 1] at times (B,).

    >>> denoiser = Denoiser(16, DenoiserConfig(size=8, width=32, depth=1))
    >>> rows, mask = torch.zeros(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    >>> denoiser(torch.zeros(2, 3, 8, 8), torch.tensor([0, 999]), rows, mask).shape
    torch.Size([2, 3, 8, 8])
    """

    kept: Tensor

    def __init__(self, memory_width: int, config: DenoiserConfig):
        super().__init__()
        self.config = config
        self.preprocess = Preprocess(size=config.size, mean=HALF, std=HALF)
        W = config.width
        side = config.size // config.patch
        self.patches = nn.Conv2d(3, W, config.patch, config.patch)
        self.positions = nn.Parameter(torch.randn(side * side, W) * 0.02)
        self.time = nn.Sequential(nn.Linear(W, W), nn.SiLU(), nn.Linear(W, W))
        self.transformer = Transformer(
            W, config.depth, config.heads, cross=0, memory_width=memory_width
        )
        self.norm = nn.LayerNorm(W)
        self.out = nn.Linear(W, 3 * config.patch**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("kept", kept_at(config.steps, config.schedule), persistent=False)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """`rows` (B, L, E) are attended to where `mask` (B, L) is True."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + self.time(waves(time, self.config.width).to(x.dtype))[:, None]
        tokens = self.norm(self.transformer(tokens, memory=rows, memory_mask=mask))
        side = self.config.size // self.config.patch
        v = F.pixel_shuffle(
            self.out(tokens).transpose(1, 2).unflatten(2, (side, side)), self.config.patch
        )
        kept = self.kept[time].to(x.dtype)[:, None, None, None]
        return (1 - kept).sqrt() * x + kept.sqrt() * v

    def pixels(self, x: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) in [-1, 1]."""
        return x.to(self.positions.dtype) / 127.5 - 1

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t of images (B, 3, S, S) in [-1, 1]."""
        return noised(x, noise, self.kept[time])

    def draw(self, *rows: Tensor, **options: Any) -> Tensor:
        """Sample images (B, 3, S, S) in [-1, 1]; the arguments are those of `sampled`."""
        size = self.config.size
        return sampled(self, (3, size, size), self.kept, *rows, bound=1.0, **options)


Predictor = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Predicts the noise of (B, …) at times (B,), given rows (B, L, E) and their mask (B, L)."""


@torch.no_grad()
def sampled(
    predict: Predictor,
    shape: tuple[int, ...],
    kept: Tensor,
    rows: Tensor,
    mask: Tensor,
    empty: Tensor,
    *,
    guidance: float,
    steps: int,
    generator: torch.Generator,
    bound: float | None = None,
) -> Tensor:
    """Sample (B, *shape) for rows (B, L, E) with mask (B, L), by `predict` and its schedule `kept`.

    `empty` are the rows (L', E) of the empty prompt, from which `guidance` g leads away (1: not at
    all). Sampling starts from noise of `generator`, which is on the CPU, and takes `steps` steps.
    With a `bound`, each estimate of the clean result is clamped to ±bound.
    """
    B = len(rows)
    x = torch.randn(B, *shape, generator=generator).to(rows)
    nothing = empty.expand(B, -1, -1)
    unmasked = torch.ones(nothing.shape[:2], dtype=torch.bool, device=rows.device)
    times = torch.linspace(len(kept) - 1, 0, steps).round().long().tolist()
    for at, time in enumerate(times):
        now = torch.full((B,), time, device=rows.device)
        noise = predict(x, now, rows, mask)
        if guidance != 1:
            away = predict(x, now, nothing, unmasked)
            noise = away + guidance * (noise - away)
        own = kept[time]
        clean = (x - (1 - own).sqrt() * noise) / own.sqrt()
        if bound is not None:
            clean = clean.clamp(-bound, bound)
            noise = (x - own.sqrt() * clean) / (1 - own).sqrt()
        then = kept[times[at + 1]] if at + 1 < len(times) else torch.ones_like(own)
        x = then.sqrt() * clean + (1 - then).sqrt() * noise
    return x


def noise_errors(
    denoiser: Any, x: Tensor, noise: Tensor, time: Tensor, rows: Tensor, mask: Tensor
) -> Tensor:
    """Return the mean squared error (B,) of the noise that is predicted of x (B, …) at times (B,):

        x_t = √a_t x + √(1 - a_t) e,    || eps(x_t, t, E) - e ||²,   per number of x

    The gradient passes through the denoiser to x and to the rows.
    """
    predicted = denoiser(denoiser.noised(x, noise, time), time, rows, mask)
    return (predicted - noise).square().flatten(1).mean(1)


def noised(x: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """x_t of x (B, …), of whose variance the shares `kept` (B,) remain.

    >>> x, noise = torch.tensor([[1.0, -1, 2, 0]]), torch.tensor([[0.5, 0.5, -0.5, 1]])
    >>> noised(x, noise, torch.tensor([0.36]))
    tensor([[ 1.0000, -0.2000,  0.8000,  0.8000]])
    """
    kept = kept.view(-1, *[1] * (x.ndim - 1))
    return kept.sqrt() * x + (1 - kept).sqrt() * noise


def kept_at(steps: int, schedule: Schedule = "cosine") -> Tensor:
    """a_t, the share of an image's variance that remains at times 0 … steps - 1.

    "scaled_linear" has the variances of Stable Diffusion: √b_t runs evenly from √.00085 to √.012 in
    1000 steps; of fewer steps each has as much more.

    >>> kept = kept_at(1000)
    >>> round(float(kept[0]), 4), round(float(kept[-1]), 5)
    (1.0, 0.0001)
    >>> [round(float(kept), 5) for kept in kept_at(1000, "scaled_linear")[[0, 100, 500, 999]]]
    [0.99915, 0.89422, 0.27633, 0.00466]
    """
    if schedule == "scaled_linear":
        added = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64).square()
        return (1 - (added * 1000 / steps).clamp(max=0.999)).cumprod(0).float()
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    cosine = (
        torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    )
    return cosine.clamp(1e-4, 0.99999).float()


def waves(time: Tensor, width: int) -> Tensor:
    """Times (B,) as sines and cosines (B, width) of decreasing frequencies."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device) / half)
    angles = time[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
