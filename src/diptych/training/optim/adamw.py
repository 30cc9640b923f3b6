"""AdamW (Loshchilov and Hutter, ICLR 2019), torch's."""

from typing import Any

import torch

from diptych.training.optim import in_one_pass


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return AdamW with the recipe's betas and eps; the groups contain rates and decay."""
    return torch.optim.AdamW(
        groups, betas=tuple(recipe.betas), eps=recipe.eps, fused=in_one_pass(groups)
    )
