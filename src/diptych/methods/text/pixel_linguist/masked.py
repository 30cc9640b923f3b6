"""Masked pixels (Rust et al. 2023, PIXEL; He et al. 2022): a decoder draws the hidden patches of a
strip from the states of the others.

Dimensions: B samples, P patches, H hidden ones, K others, N tokens, D width of the tower, W of the
decoder, p patch.
"""

import math

import torch
from torch import Tensor, nn

from diptych.towers.nn.transformer import Transformer


class Decoder(nn.Module):
    """A transformer over all places of a strip: the states of the patches that were seen, a learned
    token at the others, and fixed sinusoidal positions. It gives the pixels of each patch."""

    places: Tensor

    def __init__(
        self, width: int, decoder_width: int, depth: int, heads: int, patches: int, patch: int
    ):
        super().__init__()
        self.enter = nn.Linear(width, decoder_width)
        self.token = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.transformer = Transformer(decoder_width, depth, heads)
        self.norm = nn.LayerNorm(decoder_width)
        self.leave = nn.Linear(decoder_width, 3 * patch * patch)
        self.register_buffer("places", sinusoids(patches, decoder_width), persistent=False)
        for layer in (self.enter, self.leave):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor, hidden: Tensor, real: Tensor, prefix: int) -> Tensor:
        """Pixels (B, P, 3 p²) of all patches, from the states (B, prefix + n, D) of the first n that
        are not hidden; where `hidden` (B, P) there was none, and where not `real` (B, P) nothing is
        attended to."""
        entered = self.enter(states)
        first = entered[:, :prefix]
        seen = entered[:, prefix:]
        # place k of those that are not hidden; the tower leaves out the empty ones at the end
        order = ((~hidden).cumsum(1) - 1).clamp(min=0, max=seen.shape[1] - 1)
        spread = seen.gather(1, order[..., None].expand(-1, -1, seen.shape[2]))
        x = torch.where(hidden[..., None], self.token.to(spread.dtype), spread) + self.places
        mask = torch.cat([real.new_ones(len(real), prefix), real], dim=1)
        x = self.transformer(torch.cat([first, x], dim=1), mask=mask)
        return self.leave(self.norm(x[:, prefix:]))


def sinusoids(places: int, width: int) -> Tensor:
    """Positions (P, W): sines, then cosines, of P places at wavelengths up to 10,000 · 2π.

    >>> sinusoids(2, 4)
    tensor([[0.0000, 0.0000, 1.0000, 1.0000],
            [0.8415, 0.0100, 0.5403, 0.9999]])
    """
    rates = torch.exp(torch.arange(width // 2) * (-math.log(10_000) / (width // 2)))
    angles = torch.arange(places)[:, None] * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
