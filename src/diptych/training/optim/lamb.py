"""LAMB (You et al., ICLR 2020): Adam's step, scaled for each parameter by |w| / |step|; for very
large batches.

It is timm's, so it needs the extra `vision`. Gradients are clipped by the recipe (`clip`), not by
LAMB.
"""

from typing import Any

import torch

from diptych.errors import InputError


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return timm's Lamb with the recipe's betas and eps. Raises InputError without timm."""
    try:
        from timm.optim.lamb import Lamb
    except ImportError as error:
        raise InputError(
            "optimizer lamb needs timm; install it with: pip install 'diptych[vision]'"
        ) from error
    return Lamb(groups, lr=recipe.lr, betas=tuple(recipe.betas), eps=recipe.eps, max_grad_norm=None)
