"""A small denoiser of pictures that looks at the rows of a text, and the painter of concepts around it.

    x_t = √a_t x_0 + √(1 - a_t) e,    eps(x_t, t, E) ≈ e,    guided: eps_∅ + g (eps_E - eps_∅)

a_t falls by the squared cosine (Nichol and Dhariwal 2021). Pixels are cut into patches; a transformer with
cross-attention to the rows E predicts the noise; eps_∅ looks at the rows of the empty prompt, which stay as they are
(Ho and Salimans 2022). Drawing follows the deterministic steps of DDIM (Song et al. 2021).

Dimensions: B pictures, S x S pixels, W width, L rows of a text, E embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diptych.data.pictures import HALF, Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.models.delivered import Validation
from diptych.models.model import Told, evaluating
from diptych.spec import configure
from diptych.towers.concepts import ConceptBank, Searched
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Pictures of `size` pixels in patches of `patch`, `depth` blocks of `width`; `steps` of noise."""

    size: int = 32
    patch: int = 4
    width: int = 128
    depth: int = 4
    heads: int | None = None  # width / 64
    steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("size", "patch", "width", "depth", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of the denoiser is {getattr(self, name)}; it must be at least 1")
        if self.size % self.patch:
            raise InputError(f"pictures of {self.size} pixels cannot be cut into patches of {self.patch}")
        if self.width % 2:
            raise InputError(f"width of the denoiser is {self.width}; it must be even")


class Denoiser(nn.Module):
    """Noisy pictures (B, 3, S, S) in [-1, 1] at times (B,) -> their noise.

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
        W, side = config.width, config.size // config.patch
        self.patches = nn.Conv2d(3, W, config.patch, config.patch)
        self.positions = nn.Parameter(torch.randn(side * side, W) * 0.02)
        self.time = nn.Sequential(nn.Linear(W, W), nn.SiLU(), nn.Linear(W, W))
        self.transformer = Transformer(W, config.depth, config.heads, cross=0, memory_width=memory_width)
        self.norm = nn.LayerNorm(W)
        self.out = nn.Linear(W, 3 * config.patch**2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("kept", kept_at(config.steps), persistent=False)

    def forward(self, x: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """`rows` (B, L, E) are what is looked at, `mask` (B, L) which of them are there."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens + self.time(waves(time, self.config.width))[:, None]
        tokens = self.norm(self.transformer(tokens, memory=rows, memory_mask=mask))
        side = self.config.size // self.config.patch
        return F.pixel_shuffle(self.out(tokens).transpose(1, 2).unflatten(2, (side, side)), self.config.patch)

    def pixels(self, x: Tensor) -> Tensor:
        """uint8 pictures (B, 3, S, S) in [-1, 1]."""
        return x.to(self.kept.dtype) / 127.5 - 1

    def noised(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t of pictures (B, 3, S, S) in [-1, 1]."""
        kept = self.kept[time].view(-1, 1, 1, 1)
        return kept.sqrt() * x + (1 - kept).sqrt() * noise

    @torch.no_grad()
    def draw(
        self, rows: Tensor, mask: Tensor, empty: Tensor, *, guidance: float, steps: int, generator: torch.Generator
    ) -> Tensor:
        """Pictures (B, 3, S, S) in [-1, 1] of rows (B, L, E) with mask (B, L), away from the rows (L', E) of the empty
        prompt as far as `guidance` g says (1: not at all), in `steps` steps from noise of the generator (a CPU's)."""
        B, size = len(rows), self.config.size
        x = torch.randn(B, 3, size, size, generator=generator).to(rows)
        nothing = empty.expand(B, -1, -1)
        unmasked = torch.ones(nothing.shape[:2], dtype=torch.bool, device=rows.device)
        times = torch.linspace(self.config.steps - 1, 0, steps).round().long().tolist()
        for at, time in enumerate(times):
            now = torch.full((B,), time, device=rows.device)
            noise = self(x, now, rows, mask)
            if guidance != 1:
                away = self(x, now, nothing, unmasked)
                noise = away + guidance * (noise - away)
            kept = self.kept[time]
            clean = ((x - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-1, 1)
            noise = (x - kept.sqrt() * clean) / (1 - kept).sqrt()  # of the picture as it was bounded
            then = self.kept[times[at + 1]] if at + 1 < len(times) else torch.ones_like(kept)
            x = then.sqrt() * clean + (1 - then).sqrt() * noise
        return x


def kept_at(steps: int) -> Tensor:
    """a_t, the share of a picture's variance that is left at times 0 … steps - 1.

    >>> kept = kept_at(1000)
    >>> round(float(kept[0]), 4), round(float(kept[-1]), 5)
    (1.0, 0.0001)
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    cosine = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    return cosine.clamp(1e-4, 0.99999).float()


def waves(time: Tensor, width: int) -> Tensor:
    """Times (B,) as sines and cosines (B, width) of falling frequencies."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=time.device) / half)
    angles = time[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Drawing(Searched):
    """An encoder, a denoiser that looks at its texts' rows, and a bank of concepts: whole prompts, of which the rows of
    the name are learnt. `empty` (L', E) are the rows of the empty prompt."""

    form = "prompt"
    empty: Tensor

    def __init__(
        self, encoder: DualEncoder, tokenizer: Tokenizer | None, template: str,
        denoiser: DenoiserConfig = DenoiserConfig(),
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.tokenizer, self.template = encoder, tokenizer, template
        self.bank = ConceptBank(encoder.embed_dim)
        self.denoiser = Denoiser(encoder.embed_dim, denoiser)
        self.classes, self.label = (), ""
        self.register_buffer("empty", torch.zeros(1, encoder.embed_dim))

    @property
    def image(self) -> Any:
        """The image tower, which knows the preprocessing."""
        return self.encoder.image

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the label is known once it is made
        """Fields of a source that it is validated on."""
        return "images.main", f"labels.{self.label}"

    def forward(self, x: Tensor, noise: Tensor, time: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
        """How far off the predicted noise is, the mean square (B,), of uint8 pictures (B, 3, S, S), noise like them,
        times (B,) and rows (B, L, E) with their mask."""
        noisy = self.denoiser.noised(self.denoiser.pixels(x), noise, time)
        return (self.denoiser(noisy, time, rows, mask) - noise).square().flatten(1).mean(1)

    def remember(self) -> dict[str, Any]:
        return {**super().remember(), "denoiser": asdict(self.denoiser.config), "empty": len(self.empty)}

    def recall(self, values: Mapping[str, Any]) -> None:
        config = configure(DenoiserConfig, values["denoiser"], "denoiser")
        self.denoiser = Denoiser(self.encoder.embed_dim, config)
        self.empty = torch.zeros(values["empty"], self.encoder.embed_dim)
        super().recall(values)

    def usable(self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return Painter(self, preprocess, name=name)


class Painter(Told):
    """A model that draws concepts; embeddings are its encoder's."""

    delivered: Drawing

    def __init__(self, delivered: Drawing, preprocess: Preprocess, *, name: str):
        super().__init__(delivered, preprocess, name=name)
        self.validation = Validation("likeness", ("likeness", "top1"), {"label": self.label})

    def class_logits(self, images: Any, **how: Any) -> Tensor:
        raise InputError(f"{self.name} draws and names no pictures; name a classifier")

    def draw(
        self, name: str, count: int = 1, *, words: str = "", guidance: float = 3.0, steps: int = 50, seed: int = 0
    ) -> list[Image.Image]:
        """Pictures of a concept. `words` are ordinary ones, whose rows stand behind the concept's.

        Raises InputError for a name that was not learnt and for words where there is no text tower, and for numbers
        that make no picture.
        """
        if count < 1 or steps < 1 or guidance < 0:
            raise InputError(f"{count} pictures in {steps} steps with guidance {guidance:g} are none; give 1 or more "
                             "pictures and steps, and a guidance of 0 or more")  # fmt: skip
        before = self.delivered.classes
        self.delivered.set_classes([name])
        try:
            with evaluating(self.delivered), torch.inference_mode():
                rows, mask = self.delivered.class_rows()
                if words:
                    rows, mask = self._with(rows, mask, words)
                pixels = self.delivered.denoiser.draw(
                    rows.expand(count, -1, -1), mask.expand(count, -1), self.delivered.empty, guidance=guidance,
                    steps=steps, generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
        finally:
            self.delivered.classes = before
        values = ((pixels.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in values]

    def _with(self, rows: Tensor, mask: Tensor, words: str) -> tuple[Tensor, Tensor]:
        side = self.delivered.side()
        if side is None:
            raise InputError(f"{self.name} has no text tower to tell the words {words!r}; leave them out, or train "
                             "with --method.keep_text true")  # fmt: skip
        further, there = side.tokens(side.tokenizer.encode([words]))
        return torch.cat([rows, further], 1), torch.cat([mask, there], 1)
