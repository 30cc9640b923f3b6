"""ALBEF's targets and losses of masked words.

Dimensions: B pairs, K keys (of the batch, then of a queue), M masked words, W words of the vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.towers.nn.words import word_losses


def distilled(logits: Tensor, positives: Tensor, alpha: float) -> Tensor:
    """Targets (B, K): alpha softmax(teacher's logits) + (1 - alpha) · uniform over the positives
    (B, K), bool.

    >>> distilled(torch.zeros(1, 2), torch.tensor([[True, False]]), 0.4)
    tensor([[0.8000, 0.2000]])
    """
    right = positives.to(logits.dtype)
    return alpha * logits.softmax(1) + (1 - alpha) * right / right.sum(1, keepdim=True)


def positives(own: Tensor, others: Tensor) -> Tensor:
    """Which of the keys are of the same image, (B, K): key i itself, and those with the id of row i in
    `own` (B,) and `others` (K - B,). An id below 0 is that of no other.

    >>> positives(torch.tensor([4, -1, 4]), torch.tensor([-1, 4])).int().tolist()
    [[1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [1, 0, 1, 0, 1]]
    """
    same = (own[:, None] == torch.cat([own, others])) & (own >= 0)[:, None]
    return same | torch.eye(*same.shape, dtype=torch.bool, device=own.device)


def distilled_word_losses(
    logits: Tensor, teacher: Tensor | None, marks: Tensor
) -> dict[str, Tensor]:
    """`word_losses` of logits (M, W), and for each sample the sum of the cross-entropies with the
    probabilities of the teacher's logits (M, W), `soft_loss` (B,)."""
    found = word_losses(logits, marks)
    if teacher is None:
        return found
    losses = -(teacher.softmax(-1) * F.log_softmax(logits, -1)).sum(-1)
    samples, captions, _ = marks.shape
    owner = (marks.flatten(0, 1) >= 0).nonzero()[:, 0] // captions
    return {**found, "soft_loss": losses.new_zeros(samples).index_add(0, owner, losses)}
