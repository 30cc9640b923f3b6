"""Adafactor (Shazeer and Stern, ICML 2018), torch's: a matrix keeps the second moments of its rows
and columns in place of those of its entries, and there is no first moment.

Steps are relative to the size of a parameter: the recipe's rate times max(0.001, RMS(w)), which
suits rates about ten times those of AdamW. The recipe's betas and eps are AdamW's and are not used.
"""

from typing import Any

import torch

from diptych.collectives import is_sharded
from diptych.errors import InputError


def build(groups: list[dict[str, Any]], recipe: Any) -> torch.optim.Optimizer:
    """Return torch's Adafactor; the groups contain rates and decay. Raises InputError for shares of
    parameters, which have no whole rows and columns."""
    if any(is_sharded(parameter) for group in groups for parameter in group["params"]):
        raise InputError(
            "optimizer adafactor needs whole matrices, which --shard splits; leave --shard out, or "
            "choose another optimizer, such as lion"
        )
    return torch.optim.Adafactor(groups, lr=recipe.lr)
