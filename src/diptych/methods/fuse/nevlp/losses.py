"""NEVLP's losses.

Dimensions: B pairs, L tokens, W words of the vocabulary, K words of a prefix, D width.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32

Mode = Literal["smooth", "weight"]


def noisy_nce(logits: Tensor, noise: Tensor, mode: Mode = "smooth") -> Tensor:
    """Cross-entropy of images among texts and texts among images, by how noisy each pair is.

        smooth    L_i = - (1 - w_i) log p_ii - w_i / (B - 1) Σ_{j≠i} log p_ij
        weight    L_i = - (1 - w_i) log p_ii,           L = ½ mean_i (L_i of rows + L_i of columns)

    logits (B, B), of image i with text j; noise w (B,). With w = 0 both are InfoNCE.

    >>> logits = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.1], [0.0, 0.3, 0.7]])
    >>> round(noisy_nce(logits, torch.tensor([0.0, 0.25, 0.5])).item(), 6)
    0.853714
    """
    rows = noisy_rows(logits, noise, mode)
    columns = noisy_rows(logits.T, noise, mode)
    return (rows + columns).mean() / 2


def noisy_rows(logits: Tensor, noise: Tensor, mode: Mode) -> Tensor:
    """The losses L_i (B,) of the rows of logits (B, B)."""
    noise = noise.to(logits)
    log_p = logits.log_softmax(1)
    own = log_p.diagonal()
    found = -(1 - noise) * own
    if mode == "weight":
        return found
    return found - noise * (log_p.sum(1) - own) / max(1, len(logits) - 1)


def pair_losses(logits: Tensor) -> Tensor:
    """½ (CE of image i among the texts + CE of text i among the images), (B,), of logits (B, B)."""
    rows, columns = (each.log_softmax(1).diagonal() for each in (logits, logits.T))
    return -(rows + columns) / 2


def caption_losses(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    ids: Tensor,
    lengths: Tensor,
    first: Tensor,
    smoothing: float,
) -> dict[str, Tensor]:
    """The sum (B,) of the log-losses of ids (B, L) from `first` (B,) to `lengths` (B,), each predicted
    by `head` from the token before it, of hidden (B, L, D); and how many there are.

    With smoothing s the target is 1 - s at the word and s spread over all words.
    """
    place = torch.arange(1, ids.shape[1], device=ids.device)
    counted = (place >= first[:, None]) & (place < lengths[:, None])
    logits = at_least_float32(head(hidden[:, :-1][counted]))
    losses = logits.new_zeros(counted.shape)
    losses[counted] = F.cross_entropy(
        logits, ids[:, 1:][counted], reduction="none", label_smoothing=smoothing
    )
    return {"caption_loss": losses.sum(1), "words": counted.sum(1).to(losses.dtype)}


def prefixed(
    ids: Tensor, lengths: Tensor, prefix: Tensor, prefix_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Texts (B, L) with a prefix (B, K) between their first token and the others, and their lengths.

    >>> ids, prefix = torch.tensor([[1, 5, 2], [1, 6, 2]]), torch.tensor([[7, 8], [9, 0]])
    >>> prefixed(ids, torch.tensor([3, 3]), prefix, torch.tensor([2, 1]))[0].tolist()
    [[1, 7, 8, 5, 2], [1, 9, 6, 2, 2]]
    """
    count = prefix_lengths[:, None]
    together = ids.shape[1] + prefix.shape[1]
    place = torch.arange(together, device=ids.device).expand(len(ids), -1)
    of_text = torch.where(place > count, place - count, place.clamp(max=0))
    own = ids.gather(1, of_text.clamp(max=ids.shape[1] - 1))
    before = prefix.gather(1, (place - 1).clamp(0, prefix.shape[1] - 1))
    return torch.where((place > 0) & (place <= count), before, own), lengths + prefix_lengths
