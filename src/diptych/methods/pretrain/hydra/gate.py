"""The gate of a pair of classes: how much each dimension counts where the two are compared.

Dimensions: B pairs, C classes, k gated dimensions.
"""

from typing import Literal

import torch
from torch import Tensor, nn

Form = Literal["soft", "gumbel", "hard"]


class PairGate(nn.Module):
    """Gates in (0, 1) of pairs of classes, which do not depend on the order of the two.

        e = (E[a] + E[b]) / 2,   G = sigmoid( W2 BN( relu( W1 BN( relu(e) ) ) ) )

    With `fuse=False`, G is the product of the gates of a and of b. E has `width` numbers a class,
    and the layer between has `hidden`. `form` says how gates are drawn in training:

    - "soft": not at all
    - "gumbel": relaxed Bernoulli variables, sigmoid(logits + logistic noise)
    - "hard": Bernoulli variables of 0 and 1, whose gradient is that of their probability; in
      evaluation mode, whether the probability is above one half

    >>> gate = PairGate(3, 4, width=8, hidden=8).eval()
    >>> a, b = torch.tensor([0, 1]), torch.tensor([2, 1])
    >>> gate(a, b).shape, torch.equal(gate(a, b), gate(b, a))
    (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        width: int = 512,
        hidden: int = 1024,
        fuse: bool = True,
        form: Form = "soft",
    ):
        super().__init__()
        self.fuse = fuse
        self.form: Form = form
        self.table = nn.Embedding(classes, width)
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.BatchNorm1d(hidden),
            nn.Linear(hidden, dim),
        )

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.table.num_embeddings

    @property
    def dim(self) -> int:
        """The number of dimensions that are gated."""
        last: nn.Linear = self.net[-1]  # type: ignore[assignment]
        return last.out_features

    def resized(self, classes: int, dim: int) -> "PairGate":
        """Return a new gate of the same kind for other numbers of classes and dimensions."""
        width = self.table.embedding_dim
        hidden = self.net[2].out_features
        return PairGate(classes, dim, width=width, hidden=hidden, fuse=self.fuse, form=self.form)  # type: ignore[arg-type]

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Classes (B,) and (B,) -> gates (B, k)."""
        first = self.table(a)
        second = self.table(b)
        if self.fuse:
            return self._drawn(self.net((first + second) / 2))
        both = self._drawn(self.net(torch.cat([first, second])))  # with the same batch statistics
        return both[: len(a)] * both[len(a) :]

    def _drawn(self, logits: Tensor) -> Tensor:
        open_ = logits.sigmoid()
        if self.form == "soft":
            return open_
        if not self.training:
            return open_ if self.form == "gumbel" else (open_ > 0.5).to(open_)
        uniform = torch.rand_like(logits)
        if self.form == "gumbel":
            return (logits + uniform.logit(eps=1e-6)).sigmoid()
        return (uniform < open_).to(open_) + (open_ - open_.detach())


def bernoulli_entropy(gate: Tensor) -> Tensor:
    """The entropy, in nats, of gates as probabilities, of the same shape; log 2 at one half."""
    p = gate.clamp(1e-6, 1 - 1e-6)  # bounds the gradient
    return torch.special.entr(p) + torch.special.entr(1 - p)
