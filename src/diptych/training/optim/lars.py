"""LARS (You et al., 2017): SGD with momentum, whose gradients are scaled for each parameter by
0.001 |w| / (|g| + decay · |w| + eps); for very large batches.

Parameters without decay, those of one dimension or less, are not scaled. It is timm's, so it needs
the extra `vision`. The momentum is the first of the recipe's betas, the second is not used.
"""

from typing import Any

import torch

from diptych.errors import InputError


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return timm's Lars with the recipe's momentum and eps. Raises InputError without timm."""
    try:
        from timm.optim.lars import Lars
    except ImportError as error:
        raise InputError(
            "optimizer lars needs timm; install it with: pip install 'diptych[vision]'"
        ) from error
    return Lars(groups, lr=recipe.lr, momentum=recipe.betas[0], eps=recipe.eps)
