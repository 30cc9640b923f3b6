"""The uniform soup: the mean of the weights of branches that start from the same ones."""

import copy

import torch
from torch import Tensor, nn


class Soup(nn.Module):
    """Collects branches of a module's training, and gives it the mean of their parameters:

        w = 1/K sum_k w_k

    The start and the sum of the branches so far are part of the state dict, and so of checkpoints.
    Source: Wortsman et al. 2022.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> soup = Soup(layer)
    >>> for weight in (2.0, 5.0):
    ...     soup.begin()
    ...     _ = layer.weight.data.fill_(weight)
    ...     soup.add()
    >>> soup.serve()
    >>> layer.weight.item()
    3.5
    """

    count: Tensor

    def __init__(self, module: nn.Module):
        super().__init__()
        self.start = _copied(module)
        self.total = _copied(module)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self._module = (module,)  # a tuple, so that it is not registered twice

    @torch.no_grad()
    def begin(self) -> None:
        """Begin a branch: the first from the weights as they are, the others from those of the
        first's begin."""
        if self.count == 0:
            _copy(self._module[0], self.start)
            for total in self.total.parameters():
                total.zero_()
        else:
            _copy(self.start, self._module[0])

    @torch.no_grad()
    def add(self) -> None:
        """End a branch: add its weights to the sum."""
        for total, own in zip(self.total.parameters(), self._module[0].parameters(), strict=True):
            total.add_(own)
        self.count.add_(1)

    @torch.no_grad()
    def serve(self) -> None:
        """Give the module the mean of the branches, and begin anew."""
        for total, own in zip(self.total.parameters(), self._module[0].parameters(), strict=True):
            own.copy_(total / self.count)
        self.count.zero_()


def _copied(module: nn.Module) -> nn.Module:
    """A copy that no optimiser trains."""
    found = copy.deepcopy(module).requires_grad_(False)
    for parameter in found.parameters():
        parameter.frozen = True  # type: ignore[attr-defined]  # also where a stage's patterns match its name
    return found


def _copy(source: nn.Module, target: nn.Module) -> None:
    for to, value in zip(target.parameters(), source.parameters(), strict=True):
        to.copy_(value)
