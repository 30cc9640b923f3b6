"""The log-probability of tokens, of which a language model's losses are made, and means of tokens.

Dimensions: N tokens, V vocabulary, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from diptych.dtypes import at_least_float32


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


def unit_mean(tokens: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean of the unit vectors of tokens (…, N, D), (…, D), in float32 at least; with `counted`
    (…, N) only of the tokens where it is True, and zeros where it nowhere is.

    It is not normalised again: <unit_mean(x), unit_mean(y)> is the mean of the cosines of all tokens
    of x with all of y.

    >>> unit_mean(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    tensor([0.5000, 0.5000])
    """
    units = normalize(at_least_float32(tokens), dim=-1)
    if counted is None:
        return units.mean(-2)
    share = counted.to(units.dtype)
    return (units * share[..., None]).sum(-2) / share.sum(-1, keepdim=True).clamp(min=1)
