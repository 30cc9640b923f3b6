"""The loss of Hydra: contrast in a subspace that depends on the classes of anchor and partner.

Dimensions: B anchors, N keys, k dimensions, C classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Form = Literal["filtered", "fast", "raw"]
Pairs = Literal["arbitrary", "identical", "distinct"]

_EPS = 1e-12  # the least length


def similarities(
    anchors: Tensor, keys: Tensor, gate: Tensor, scale: Tensor | float, form: Form = "filtered"
) -> Tensor:
    """Similarities (B, N) of anchors z (B, k) and keys z' (N, k), both seen through the anchor's gate
    G (B, k).

        filtered   S_ij = scale cos( z_i * G_i, z'_j * G_i )
        fast       S_ij = scale <unit(z_i) * G_i, unit(z'_j) * G_i>,   lengths before the gate
        raw        S_ij = <z_i * G_i, z'_j * G_i>,                     neither lengths nor scale

    Nothing of size B x N x k is built, since <z_i * G_i, z'_j * G_i> = <z_i * G_i², z'_j> and
    |z'_j * G_i|² = <G_i², z'_j²>.

    >>> x = torch.tensor([[3.0, 4.0]])
    >>> round(similarities(x, x, torch.tensor([[0.2, 0.9]]), 10.0).item(), 4)
    10.0
    """
    power = gate.square()
    if form == "fast":
        anchors, keys = (_unit(x) for x in (anchors, keys))
    found = (anchors * power) @ keys.T
    if form == "raw":
        return found
    if form == "filtered":
        own = _length((anchors.square() * power).sum(1, keepdim=True))
        found = found / (own * _length(power @ keys.square().T))
    return scale * found


def gated_contrast(
    logits: Tensor, labels: Tensor, partners: Tensor, key_labels: Tensor | None = None
) -> Tensor:
    """InfoNCE in which an anchor's positives are all keys of its partner's class.

        L = ( Σ_ij pos_ij [ log( exp S_ij + n_i ) - S_ij ] ) / Σ_ij pos_ij,   n_i = Σ_{j negative} exp S_ij

    logits S (B, N); labels y and partners p (B,), the classes of an anchor and of its positives;
    key_labels (N,), by default the labels. pos_ij says that key j is of class p_i. Keys of class
    y_i are no negatives. The mean is one over all positives, and 0 if there are none; an anchor
    without a negative adds 0 to the sum.

    >>> y = torch.arange(4)
    >>> round(gated_contrast(torch.zeros(4, 4), y, y.view(2, 2).flip(1).flatten()).item(), 4)  # log 3
    1.0986
    """
    key_labels = labels if key_labels is None else key_labels
    positive = partners[:, None] == key_labels
    negative = ~positive & (labels[:, None] != key_labels)
    normaliser = logits.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    terms = -logsigmoid(logits - normaliser)
    return (terms * positive).sum() / positive.sum().clamp(min=1)


def draw_partners(labels: Tensor, pairs: Pairs, classes: int) -> Tensor:
    """Draw the partner's class of each of labels (B,) by torch's generator of the CPU.

    arbitrary   p = y[a random permutation of the batch], so that the batch has a key of class p_i
    identical   p = y
    distinct    p = (y + u) mod C,   u uniform in 1 … C - 1
    """
    if pairs == "identical":
        return labels
    if pairs == "arbitrary":
        return labels[torch.randperm(len(labels), device="cpu").to(labels.device)]
    steps = torch.randint(1, classes, labels.shape, device="cpu").to(labels.device)
    return (labels + steps) % classes


def _unit(x: Tensor) -> Tensor:
    return x / _length(x.square().sum(1, keepdim=True))


def _length(squared: Tensor) -> Tensor:
    return squared.clamp(min=_EPS**2).sqrt()
