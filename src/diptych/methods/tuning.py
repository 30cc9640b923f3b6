"""Tools for fine-tuning a trained tower with little forgetting.

Layer decay: lower learning rates for lower blocks.

    rate of block l of K: rate · decay^(K - l)

Patch embeddings, token tables and positions have the rate of a block before the first; everything
behind the blocks has the full rate.

Norms alone: only the scales and shifts of norms are trained, all other weights are frozen.

Kept statistics: batch norms keep the means and variances that they were loaded with. The statistics
of a small batch differ, and the layers behind were trained for the old ones.
"""

import re
from typing import Annotated, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from diptych.errors import InputError
from diptych.spec import Above, AtMost

Decay = Annotated[float, Above(0), AtMost(1)]
"""The factor by which the rate falls from each block to the one below; 1 keeps one rate
everywhere."""


def has_blocks(tower: Any) -> bool:
    """Whether a tower has diptych's transformer blocks, across which rates can decay."""
    return hasattr(getattr(tower, "transformer", None), "layers")


def layer_rates(prefix: str, tower: Any, decay: float) -> dict[str, float]:
    """Return learning-rate multipliers by parameter prefix of a tower (`Stage.lr_scale`); none for
    a decay of 1.

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
    return rates | {f"{prefix}.{name}": 1.0 for name in behind_blocks(tower)}


def block_names(tower: nn.Module) -> list[str]:
    """The names of a tower's blocks in order: the layers of a transformer, or the blocks of a ResNet.
    A stage that begins otherwise is one block with all of its parts.

    Raises InputError for a tower whose blocks are not known.

    >>> from diptych.towers.build import image_tower
    >>> block_names(image_tower("vit:image_size=32:patch=16:width=64:depth=2"))
    ['transformer.layers.0', 'transformer.layers.1']
    """
    if has_blocks(tower):
        return [f"transformer.layers.{at}" for at in range(len(tower.transformer.layers))]  # type: ignore[union-attr, arg-type]
    inner = getattr(tower, "model", tower)  # a model of another library
    start = "" if inner is tower else "model."
    for name in ("blocks", "stages"):
        if isinstance(parts := getattr(inner, name, None), nn.Sequential | nn.ModuleList):
            return [f"{start}{each}" for each in _parts(name, parts)]
    stages = [name for name, _ in inner.named_children() if re.fullmatch(r"layer\d", name)]
    if not stages:
        raise InputError(
            f"the blocks of an image tower of {type(inner).__name__} are not known; choose vit, conv or a timm model"
        )
    return [f"{start}{each}" for stage in stages for each in _alike(stage, getattr(inner, stage))]


def _parts(name: str, parts: nn.Module) -> list[str]:
    return [each for at, part in parts.named_children() for each in _alike(f"{name}.{at}", part)]


def _alike(name: str, stage: nn.Module) -> list[str]:
    """The parts of a sequence of modules of one class, else the module itself."""
    kinds = {type(part) for part in stage.children()}
    if not isinstance(stage, nn.Sequential) or len(kinds) != 1:
        return [name]
    return [f"{name}.{at}" for at in range(len(stage))]


def behind_blocks(tower: Any) -> list[str]:
    """The names of a tower's parts with parameters that lie behind its transformer blocks."""
    named = {
        name for name, module in tower.named_children() if any(True for _ in module.parameters())
    }
    return [name for name in ("norm", "pool") if name in named]


def norm_rates(prefix: str, module: nn.Module) -> dict[str, float]:
    """Return learning-rate multipliers by parameter prefix that train the norms of a module alone.

    Raises InputError for a module without norms that have weights.

    >>> from collections import OrderedDict
    >>> layers = OrderedDict(first=nn.Linear(2, 2), norm=nn.LayerNorm(2), last=nn.Linear(2, 2))
    >>> norm_rates("model", nn.Sequential(layers))
    {'model': 0.0, 'model.norm': 1.0}
    """
    found = {
        f"{prefix}.{name}": 1.0
        for name, part in module.named_modules()
        if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | _BatchNorm)
        and any(True for _ in part.parameters())
    }
    if not found:
        raise InputError("the model has no norms with weights to train; start from another one")
    return {prefix: 0.0} | found


def keep_statistics(*towers: Any) -> None:
    """Put the batch norms of towers into evaluation mode; their weights are still trained. A tower
    may be None.

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
