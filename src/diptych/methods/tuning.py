"""What lets a trained tower keep most of what it knows while it is tuned.

Layer decay: lower learning rates for lower blocks.

    rate of block l of K: rate · decay^(K - l)

Patches, token tables and positions have the rate of a block before the first, what stands behind
the blocks the whole one.

Kept statistics: batch norms that go on with the means and variances that they came with. Those of a
small batch are others, and what stands behind them was trained for the old ones.
"""

from typing import Annotated, Any

from torch.nn.modules.batchnorm import _BatchNorm

from diptych.errors import InputError
from diptych.spec import Above, AtMost

Decay = Annotated[float, Above(0), AtMost(1)]
"""How the rate falls from block to block, downwards; 1 for one rate everywhere."""


def has_blocks(tower: Any) -> bool:
    """Whether a tower has transformer blocks of ours, between which rates can fall."""
    return hasattr(getattr(tower, "transformer", None), "layers")


def layer_rates(prefix: str, tower: Any, decay: float) -> dict[str, float]:
    """Multipliers of the rate by prefix of a tower's parameters (`Stage.lr_scale`). A decay of 1
    needs none.

    Raises InputError for a tower without transformer blocks.

    >>> from diptych.towers.build import image_tower
    >>> rates = layer_rates("t", image_tower("vit:image_size=32:patch=16:width=64:depth=2"), 0.5)
    >>> rates["t"], rates["t.transformer.layers.0"], rates["t.transformer.layers.1"], rates["t.norm"]
    (0.25, 0.5, 1.0, 1.0)
    """
    if decay == 1:
        return {}
    if not has_blocks(tower):
        raise InputError("layer decay needs a tower of transformer blocks; set decay=1")
    count = len(tower.transformer.layers)
    rates = {prefix: decay**count}
    rates |= {f"{prefix}.transformer.layers.{at}": decay ** (count - 1 - at) for at in range(count)}
    named = {
        name for name, module in tower.named_children() if any(True for _ in module.parameters())
    }
    return rates | {f"{prefix}.{name}": 1.0 for name in ("norm", "pool") if name in named}


def keep_statistics(*towers: Any) -> None:
    """Put the batch norms of towers (None for one that is not there) into evaluation mode; their
    weights still learn.

    >>> from torch import nn
    >>> tower = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    >>> keep_statistics(tower, None)
    >>> [module.training for module in tower]
    [True, False]
    """
    for tower in towers:
        for module in tower.modules() if tower is not None else ():
            if isinstance(module, _BatchNorm):
                module.eval()
