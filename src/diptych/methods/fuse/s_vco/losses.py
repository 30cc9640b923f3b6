"""The losses of preference pairs: comparisons of log-ratios of a policy and a frozen reference.

    d(y, i) = log pi(y | i, q) - log ref(y | i, q)
    term = - log sigmoid(beta (d(better) - d(worse)))

A pair has an image i_w with its response y_w, and i_l with y_l. Of each response and what it is read
behind there is one log-probability, a sum over its tokens, in the order of `CONDITIONS`:

    ww  y_w behind i_w      lw  y_l behind i_w      w   y_w without an image
    wl  y_w behind i_l      ll  y_l behind i_l      l   y_l without an image

Dimensions: B pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from diptych.errors import InputError

Objective = Literal["svco", "vco", "dpo", "sft"]

CONDITIONS = ("ww", "wl", "lw", "ll", "w", "l")
"""What log-probabilities are of: the response, then the image, if there is one."""
BETA = 0.1
"""The beta with which a term that is switched off is reported."""

_COMPARED = {  # the better and the worse condition of each term
    "attend_w": ("ww", "w"),
    "reject_w": ("w", "wl"),
    "attend_l": ("ll", "l"),
    "reject_l": ("l", "lw"),
    "prefer": ("ww", "lw"),
}
_OF = {
    "svco": ("attend_w", "reject_w", "attend_l", "reject_l"),
    "vco": ("attend_w", "reject_w"),
    "dpo": ("prefer",),
    "sft": (),
}


@dataclass(frozen=True)
class Term:
    """A term of an objective: the numbers of the conditions that it compares, and its beta."""

    name: str
    better: int
    worse: int
    beta: float

    def margin(self, ratios: Tensor) -> Tensor:
        """d(better) - d(worse) of ratios (B, 6), (B,)."""
        return ratios[:, self.better] - ratios[:, self.worse]

    def loss(self, ratios: Tensor, beta: float | None = None) -> Tensor:
        """-log sigmoid(beta margin) of each pair, (B,).

        >>> import torch
        >>> attend, *_ = terms_of("svco", (0.1, 0.1, 0.1, 0.1))
        >>> attend.loss(torch.zeros(1, 6))
        tensor([0.6931])
        """
        return F.softplus(-(self.beta if beta is None else beta) * self.margin(ratios))


def terms_of(objective: Objective, betas: Sequence[float]) -> tuple[Term, ...]:
    """The terms of an objective, also those whose beta is 0; `sft` has none.

    `betas` are those of attend and reject of the sample, then of its edit; dpo reads the first. Raises
    InputError if all of them that the objective reads are 0.
    """
    found = []
    for name, beta in zip(_OF[objective], betas, strict=False):
        better, worse = (CONDITIONS.index(each) for each in _COMPARED[name])
        found.append(Term(name, better, worse, beta))
    if found and not any(term.beta for term in found):
        raise InputError(
            f"all betas that {objective} reads are 0, and nothing is compared; set one above it"
        )
    return tuple(found)
