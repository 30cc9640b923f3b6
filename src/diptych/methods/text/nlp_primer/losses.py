"""The losses of the catalogue that no other method has, as pure functions of scores or embeddings.

Those that other methods have are taken from them: `objectives.nt_xent` (NT-Xent),
`objectives.supervised` (SupCon), `families.sentences.anchored` (SimCSE) and
`text.simcse.triples` (SimCSE with labels).

Dimensions: B anchors, K negatives of an anchor, Q keys of a queue, E embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.objectives.core import pair_losses


def ranking_nce(scores: Tensor) -> Tensor:
    """Ranking NCE: the positive is classified among K negatives of its own.

        L = mean_i -log [ exp(s_i0) / sum_{j=0..K} exp(s_ij) ]

    scores (B, 1 + K), the positive first. Sources: Jozefowicz et al. 2016, van den Oord et al. 2018.

    >>> round(ranking_nce(torch.tensor([[2.0, 1.0, 0.0]])).item(), 6)
    0.407606
    """
    return (scores.logsumexp(1) - scores[:, 0]).mean()


def information_bound(loss: float, negatives: int) -> float:
    """The lower bound log(K + 1) - L, in nats, of the mutual information of anchor and positive, from
    a ranking loss L with K negatives (van den Oord et al. 2018).

    >>> round(information_bound(0.407606, 2), 6)
    0.691006
    """
    return math.log(negatives + 1) - loss


def binary_nce(scores: Tensor, log_noise: Tensor | None = None) -> Tensor:
    """Binary NCE: the positive and each of K samples of a noise distribution q are classified as
    data or noise.

        D(x) = s(x) - log(K q(x)),     L = mean_i [ -log σ(D(x_i0)) - sum_{j=1..K} log σ(-D(x_ij)) ]

    scores (B, 1 + K), the positive first; log_noise (B, 1 + K) is log q of each. Without it nothing is
    subtracted, which is negative sampling. The scores are not normalised: their partition function is
    taken as 1. Sources: Gutmann and Hyvärinen 2010, Mnih and Teh 2012; Mikolov et al. 2013.

    >>> scores = torch.tensor([[2.0, 1.0, 0.0]])
    >>> round(binary_nce(scores, torch.tensor([[0.5, 0.25, 0.25]]).log()).item(), 6)
    3.087535
    >>> round(binary_nce(scores).item(), 6)
    2.133337
    """
    negatives = scores.shape[1] - 1
    if log_noise is not None:
        scores = scores - log_noise - math.log(negatives)
    signs = scores.new_ones(negatives + 1)
    signs[1:] = -1
    return -F.logsigmoid(scores * signs).sum(1).mean()


def residual_energy(data: Tensor, samples: Tensor) -> Tensor:
    """Binary NCE of a residual energy model p(x) ∝ p_LM(x) exp(-E(x)), whose noise are samples of the
    language model, so that p_LM cancels.

        L = mean_i [ -log σ(-E(data_i)) - log σ(E(sample_i)) ]

    data and samples (B,) are energies. Source: Deng et al. 2020.

    >>> round(residual_energy(torch.tensor([1.0]), torch.tensor([-1.0])).item(), 6)
    2.626523
    """
    return (F.softplus(data) + F.softplus(-samples)).mean()


def triplet(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float = 1.0) -> Tensor:
    """The triplet loss with a margin, of unit vectors (B, E).

        L = mean_i max(0, margin - <a_i, p_i> + <a_i, n_i>)

    Source: Schroff et al. 2015.

    >>> a, p, n = torch.tensor([[1.0, 0]]), torch.tensor([[0.9, 0.19**0.5]]), torch.tensor([[0.7, 0.51**0.5]])
    >>> round(triplet(a, p, n).item(), 6)
    0.8
    """
    return F.relu(margin - (anchors * positives).sum(1) + (anchors * negatives).sum(1)).mean()


def momentum_contrast(queries: Tensor, keys: Tensor, queue: Tensor, tau: float) -> Tensor:
    """MoCo's loss: each query is classified among its own key and those of a queue.

        L = mean_i CE( [<q_i, k_i>, <q_i, queue>] / tau, 0 )

    queries and keys (B, E), queue (Q, E), unit vectors; keys of other queries do not compete.
    Source: He et al. 2020.

    >>> queue = torch.nn.functional.normalize(torch.tensor([[1.0, 1], [-1, 0], [0, -1]]), dim=1)
    >>> a = torch.eye(2)
    >>> p = torch.nn.functional.normalize(torch.tensor([[1, 0.5], [0.2, 1]]), dim=1)
    >>> round(momentum_contrast(a, p, queue, 0.07).item(), 6)
    0.043241
    """
    count = len(queries)

    def own_or_queued(i: slice, j: slice) -> Tensor:
        rows = torch.arange(i.start, i.stop, device=queries.device)
        columns = torch.arange(j.start, j.stop, device=queries.device)
        return (rows[:, None] == columns) | (columns >= count)

    return pair_losses(queries, torch.cat([keys, queue]), 1 / tau, allowed=own_or_queued).mean()
