"""Adam (Kingma and Ba, ICLR 2015), torch's: weight decay is an L2 term of the gradient, which
passes through the moments; AdamW's does not."""

from typing import Any

import torch

from diptych.training.optim import in_one_pass


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return Adam with the recipe's betas and eps; the groups contain rates and decay."""
    return torch.optim.Adam(
        groups, betas=tuple(recipe.betas), eps=recipe.eps, fused=in_one_pass(groups)
    )
