"""The log-probability of tokens, of which a language model's losses are made.

Dimensions: N tokens, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits)[ids], of logits (N, V) and ids (N,): (N,), as minus torch's cross entropy.

    In training it keeps the softmax, which is all that the gradient needs: torch keeps its logarithm,
    takes the exponential again, and fills a matrix (N, V) of zeros for the ids.

    >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    if torch.is_grad_enabled() and logits.requires_grad:
        found: Tensor = _TokenLogProbs.apply(logits, ids)  # type: ignore[assignment]
        return found
    return -F.cross_entropy(logits, ids, reduction="none")


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        share = logits.softmax(1)
        ctx.save_for_backward(share, ids)
        # the largest share is 1 / sum exp(logits - largest), and no smaller than 1 / V
        lse = logits.amax(1) - share.amax(1).log()
        return logits.gather(1, ids[:, None])[:, 0] - lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        share, ids = ctx.saved_tensors
        found = share * -dy[:, None]
        return found.scatter_add_(1, ids[:, None], dy[:, None]), None
