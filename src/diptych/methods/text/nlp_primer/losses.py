"""The losses of the catalogue that no other method has, as pure functions of scores or embeddings.

Those that other methods have are taken from them: `objectives.nt_xent` (NT-Xent),
`objectives.supervised` (SupCon), `families.sentences.anchored` (SimCSE) and
`text.simcse.triples` (SimCSE with labels).

Dimensions: B anchors, K negatives of an anchor, Q keys of a queue, E embedding; N texts of L tokens, M
tokens that are predicted among W words.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
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


def token_losses(logits: Tensor, targets: Tensor, real: Tensor) -> Tensor:
    """The sum over each text's real tokens of the binary cross-entropies of a question.

    logits, targets (0 or 1) and `real` are (N, L); the result is (N,).

    >>> real = torch.tensor([[True, True, False]])
    >>> round(token_losses(torch.zeros(1, 3), torch.ones(1, 3), real).item(), 6)  # 2 ln 2
    1.386294
    """
    logits = at_least_float32(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return losses.masked_fill(~real, 0).sum(1)


def replaced_tokens(
    word_losses: Tensor, words: Tensor, losses: Tensor, tokens: Tensor, weight: float = 50.0
) -> Tensor:
    """ELECTRA's loss: the mean over the masked words of a generator's log-losses, and the mean over
    all tokens of the discriminator's.

        L = Σ word_losses / Σ words + weight · Σ losses / Σ tokens

    All are sums and counts of texts (N,). Source: Clark et al. 2020.

    >>> words, tokens = torch.tensor([2.0, 1]), torch.tensor([9.0, 5])
    >>> even = math.log(30522) * words, words, math.log(2) * tokens, tokens
    >>> round(replaced_tokens(*even).item(), 4)
    44.9836
    """
    return word_losses.sum() / words.sum().clamp(min=1) + weight * losses.sum() / tokens.sum()


def corrected_words(logits: Tensor, copies: Tensor, words: Tensor, kept: Tensor) -> Tensor:
    """The log-losses (M,) of a corrective language model, which copies a token or says another one.

        p(w) = σ(c) [w is the token shown] + σ(-c) softmax(logits)_w,        loss = -log p(word)

    logits (M, W), words (M,), `kept` (M,) whether the word is the token shown. No gradient reaches
    the logits `copies` c (M,) of copying, which have a loss of their own. Source: Meng et al. 2021.

    >>> found = corrected_words(torch.zeros(2, 4), torch.zeros(2), torch.tensor([0, 3]), torch.tensor([True, False]))
    >>> found.exp()  # 1 / (1/2 + 1/8), 1 / (1/8)
    tensor([1.6000, 8.0000])
    """
    copies = at_least_float32(copies.detach())
    said = F.logsigmoid(-copies) - F.cross_entropy(
        at_least_float32(logits), words, reduction="none"
    )
    return -torch.where(kept, torch.logaddexp(F.logsigmoid(copies), said), said)


def layer_contrast(
    student: Tensor, teacher: Tensor, tau: float, form: Literal["nce", "info"] = "nce"
) -> Tensor:
    """Contrast of a student's vectors with a teacher's of the same inputs, those of the B - 1 other
    inputs being noise.

        nce     L = mean_i [ -log σ(D_ii) - Σ_{j≠i} log σ(-D_ij) ],   D = cos / tau - log((B - 1) q),  q = 1/B
        info    L = mean_i CE( cos_i / tau, i )

    student and teacher (B, E) are unit vectors. "nce" is `binary_nce` with uniform noise. Sources:
    Tian et al. 2020 (CRD), Sun et al. 2020 (CoDIR).

    >>> x = torch.eye(2)
    >>> round(layer_contrast(x, x, 1.0).item(), 6), round(layer_contrast(x, x, 1.0, "info").item(), 6)
    (1.26746, 0.313262)
    """
    if form == "info":
        return pair_losses(student, teacher, 1 / tau).mean()
    count = len(student)
    bias = -math.log((count - 1) / count)
    return pair_losses(student, teacher, 1 / tau, bias, softmax=False).mean()
