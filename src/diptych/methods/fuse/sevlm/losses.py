"""The losses of sevlm: affect of the next word, and consistency of image, emotion and explanation.

Dimensions: N rows, L tokens, B images with C texts each, D width of texts, Dv of images.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.towers.nn.heads import head

LAYERS = 5
"""Linear layers of the consistency head."""


def affect_errors(predicted: Tensor, target: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squared errors (N,) of predicted VAD (N, L, 3) where `counted` (N, L) and the target has
    a value that is not 0, and the number (N,) of these tokens.

    >>> predicted = torch.tensor([[[0.5, 0.5, 0.5], [0.2, 0.1, 0.0], [9.0, 9.0, 9.0]]])
    >>> target = torch.tensor([[[0.7, 0.4, 0.5], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    >>> errors, count = affect_errors(predicted, target, torch.ones(1, 3, dtype=torch.bool))
    >>> round(float(errors.sum() / (3 * count.sum())), 6)
    0.01
    """
    known = counted & target.ne(0).any(-1)
    errors = (predicted - target).square().sum(-1)
    return torch.where(known, errors, torch.zeros_like(errors)).sum(1), known.sum(1)


class ConsistencyHead(nn.Module):
    """The score s(v, m, x) = MLP([v; m; x]) of an image (…, Dv), an emotion (…, D) and an explanation
    (…, D): five linear layers of width D with ReLU between, neither normalised nor scaled."""

    def __init__(self, image: int, text: int):
        super().__init__()
        spec = (
            f"mlp:hidden={text}:layers={LAYERS}:norm=none:activation=relu:bias=true:last_bias=true"
        )
        self.mlp = head(spec, image + 2 * text, 1, "image")

    def forward(self, image: Tensor, emotion: Tensor, explanation: Tensor) -> Tensor:
        return self.mlp(torch.cat([image, emotion, explanation], -1))[..., 0]


def consistency_loss(right: Tensor, partner: Tensor, other: Tensor) -> Tensor:
    """-log( e^right / (e^right + e^partner + e^other) ), the mean over scores of one shape.

    >>> round(float(consistency_loss(*torch.tensor([[2.0], [1.0], [0.0]]))), 6)
    0.407606
    """
    scores = torch.stack([right, partner, other], -1).flatten(0, -2)
    return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))


def deranged(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation (count,) of one cycle, which leaves nothing where it is (`count` >= 2).

    >>> from diptych.rng import generator
    >>> sorted(deranged(4, generator(0)).tolist())
    [0, 1, 2, 3]
    """
    order = rng.permutation(count)
    found = np.empty(count, np.int64)
    found[order] = np.roll(order, -1)
    return found


def means(hidden: Tensor, chosen: Tensor) -> Tensor:
    """The mean (N, D) of the tokens (N, L, D) that are `chosen` (N, L); 0 of none."""
    weights = chosen.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
