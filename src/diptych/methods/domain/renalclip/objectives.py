"""The losses of RenalCLIP: several classifications with missing labels, masked next tokens, and
Cox's partial likelihood.

Dimensions: B samples, T tasks, C_t classes of task t, L text length, V vocabulary.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_tasks(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """The sum over tasks of the mean cross-entropy of the samples whose label is not -1; a task
    without any adds 0.

        L = sum_t  (1 / |{i: y_ti >= 0}|)  sum_{i: y_ti >= 0} CE(logits_ti, y_ti)

    logits (B, C_t) and labels (B,) by task.

    >>> logits = {"kind": torch.zeros(3, 2), "side": torch.zeros(3, 4)}
    >>> labels = {"kind": torch.tensor([0, -1, 1]), "side": torch.tensor([-1, -1, -1])}
    >>> masked_tasks(logits, labels)  # ln 2
    tensor(0.6931)
    """
    terms = []
    for name, of_task in logits.items():
        own = labels[name].long()
        known = (own >= 0).sum().clamp(min=1)
        terms.append(F.cross_entropy(of_task, own, ignore_index=-1, reduction="sum") / known)
    return torch.stack(terms).sum()


def next_token_loss(tokens: Tensor, table: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    """The sum (B,) of -log p of masked ids, and their number (B,).

    A masked id is predicted by the token before it, as a language model predicts the next one:

        -log softmax(table · h_{i-1})[x_i]

    tokens h (B, L, D), the word table (V, D), marks (B, L) with x_i at masked places and -1 at all
    others. The first place has no token before it and does not count.
    """
    targets = marks[:, 1:]
    chosen = targets >= 0
    logits = F.linear(tokens[:, :-1][chosen], table)
    found = F.cross_entropy(logits, targets[chosen], reduction="none")
    sums = torch.zeros(targets.shape, dtype=found.dtype, device=found.device)
    return sums.masked_scatter(chosen, found).sum(1), chosen.sum(1)


def cox(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """The negative log partial likelihood of Cox, a mean over events.

        L = - (1 / #events) sum_{i: event} [ r_i - log sum_{j: T_j >= T_i} exp r_j ]

    risk r, time T and event (N,), 1 where the event was observed. Samples of equal time are at risk
    together (Breslow). 0 without an event.

    >>> cox(torch.tensor([0.5, 0.2, -0.3]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1]))
    tensor(0.3920)
    """
    order = time.argsort(descending=True)
    sums = torch.logcumsumexp(risk[order], 0)
    times = time[order]
    # the last of those with an equal time has all of them in its sum
    last = torch.searchsorted(-times, -times, right=True) - 1
    seen = event[order].to(risk.dtype)
    return -((risk[order] - sums[last]) * seen).sum() / seen.sum().clamp(min=1)
