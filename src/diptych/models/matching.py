"""What models share that tell whether a text is of an image.

Dimensions: N pairs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diptych.models.model import ImagesLike


class Matches:
    """The score of pairs, of a model with `match_logits`."""

    match_logits: Callable[..., Tensor]

    def match(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        probability: bool = False,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The score (N,) of text i with image i, float32, on the CPU: the log-odds of a match, by which
        candidates are ordered, or with `probability` their sigmoid. Errors are those of
        `match_logits`."""
        logits = self.match_logits(images, texts, batch_size=batch_size, exact=exact)
        odds = logits[:, 1] - logits[:, 0]
        return odds.sigmoid() if probability else odds


def runs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Which images (N, …) differ from the one before, (N,) bool, and the number (N,) of the run of equal
    images that each is in: a run need be encoded once.

    >>> [found.tolist() for found in runs(torch.tensor([[4], [4], [7]]))]
    [[True, False, True], [0, 0, 1]]
    """
    new = (images[1:] != images[:-1]).flatten(1).any(1)
    first = torch.cat([new.new_ones(min(1, len(images))), new])
    return first, first.long().cumsum(0) - 1
