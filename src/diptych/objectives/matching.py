"""Image-text matching: negatives drawn by similarity, and the loss of telling pairs from them.

Source: Li et al. 2021 (ALBEF).

Dimensions: B pairs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError

_FLOOR = 1e-4
"""Added to the weights of negatives, so that none underflows."""


def draw_negatives(logits: Tensor, excluded: Tensor, generator: torch.Generator) -> Tensor:
    """For each row of logits (B, B) the number of a column, drawn by the softmax of the row without
    the `excluded` pairs (B, B), bool.

    Raises InputError for a batch of one pair, which has none. In each row one pair at least is not
    excluded.

    >>> negatives = draw_negatives(torch.zeros(2, 2), torch.eye(2).bool(), torch.Generator().manual_seed(0))
    >>> negatives.tolist()
    [1, 0]
    """
    if len(logits) < 2:
        raise InputError(
            "a batch of one pair has no other image or text to be its negative; give a batch size of 2 or more"
        )
    weights = (logits.softmax(1) + _FLOOR).masked_fill(excluded, 0)
    return weights.multinomial(1, generator=generator)[:, 0]


def match_loss(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of logits (B, 3, 2) of a match and two that are none, and the share that is right.

    >>> prior = torch.tensor([[2 / 3, 1 / 3]]).log().expand(1, 3, 2)
    >>> round(match_loss(prior)[0].item(), 6)  # the least of logits that do not depend on the pair
    0.636514
    """
    labels = torch.tensor([1, 0, 0], device=logits.device).expand(len(logits), 3)
    right = (logits.argmax(-1) == labels).to(logits.dtype).mean()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), right.detach()
