"""SGD with momentum, torch's: the momentum is the first of the recipe's betas, the second and eps
are not used."""

from typing import Any

import torch


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return SGD with plain momentum, without dampening or Nesterov."""
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.betas[0])
