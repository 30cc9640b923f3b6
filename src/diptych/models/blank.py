"""What an image tower returns for a blank image: the sizes of its maps, and which parameters they
depend on."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diptych.models.mode import evaluating
from diptych.towers.encoded import Encoded
from diptych.towers.tower import ImageTower


def encoded_blank(tower: ImageTower) -> Encoded:
    """What a tower returns for one black image, which tells the sizes of its maps."""
    with evaluating(tower):
        return tower(torch.zeros(1, *tower.preprocess.shape))


def unread(tower: nn.Module, outputs: Iterable[Tensor]) -> list[nn.Parameter]:
    """The trainable parameters of a tower that none of its outputs depends on, such as a norm behind
    its pooling where the outputs are maps.

    >>> layers = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
    >>> unread(layers, [layers[0](torch.ones(1, 1))])[0] is layers[1].weight
    True
    """
    trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad([x.sum() for x in outputs], trained, allow_unused=True)
    return [
        parameter
        for parameter, gradient in zip(trained, gradients, strict=True)
        if gradient is None
    ]
