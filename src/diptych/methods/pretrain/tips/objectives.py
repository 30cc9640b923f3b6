"""Heads with prototypes, and the loss of a student's logits against a teacher's.

Dimensions: D width, K prototypes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.dtypes import at_least_float32
from diptych.towers.nn.heads import head


class PrototypeHead(nn.Module):
    """Cosines with K learned prototypes w_k: logits_k = <unit(mlp(x)), unit(w_k)>, in float32.

    `spec` is that of the MLP, `width` that of its output.
    """

    def __init__(self, spec: str, into: int, width: int, prototypes: int):
        super().__init__()
        self.mlp = head(spec, into, width, "prototype")
        self.prototypes = nn.Linear(width, prototypes, bias=False)
        nn.init.normal_(self.prototypes.weight)  # of uniform directions

    def vectors(self, x: Tensor) -> Tensor:
        """Features (…, D) -> unit vectors (…, width)."""
        return normalize(at_least_float32(self.mlp(x)), dim=-1)

    def cosines(self, vectors: Tensor) -> Tensor:
        """Vectors (…, width) -> logits (…, K). It is linear: means of vectors give means of logits."""
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors @ normalize(self.prototypes.weight, dim=1).T

    def forward(self, x: Tensor) -> Tensor:
        return self.cosines(self.vectors(x))


def centred(teacher: Tensor, centre: Tensor, tau: float) -> Tensor:
    """The teacher's probabilities softmax((t - c) / tau) of logits (…, K) with the centre (K,); no
    gradient passes.

    >>> centred(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]), 1.0)
    tensor([0.5000, 0.5000])
    """
    with torch.autocast(teacher.device.type, enabled=False):
        return ((at_least_float32(teacher) - centre).detach() / tau).softmax(-1)


def cross_entropy(targets: Tensor, student: Tensor, tau: float) -> Tensor:
    """-Σ_k p_k log softmax(s / tau)_k (…) of targets and logits (…, K), which are broadcast.

    >>> cross_entropy(torch.tensor([0.5, 0.5]), torch.zeros(3, 2), 0.1)
    tensor([0.6931, 0.6931, 0.6931])
    """
    with torch.autocast(student.device.type, enabled=False):
        return -(targets * (at_least_float32(student) / tau).log_softmax(-1)).sum(-1)


def entropy(targets: Tensor) -> Tensor:
    """-Σ_k p_k log p_k (…) of probabilities (…, K), in nats: 0 for one certain prototype."""
    return torch.special.entr(targets).sum(-1)
