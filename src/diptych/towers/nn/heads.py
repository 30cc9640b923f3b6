"""Heads, which map a tower's width to the embedding space.

    linear    W x, no bias (CLIP)              none    identity; the widths must be equal
    affine    W x + b (SigLIP's text)          fit     none if the widths are equal, else linear
    mlp       layers of W, norm and activation, the last without: `mlp:hidden=4096:norm=layer:activation=gelu`
    two       a linear head and an mlp, concatenated, E/2 each (CLIP-rocket)

Dimensions: D tower width, E width of the space.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import InputError, unknown
from diptych.spec import Count, Positive, configure, parse

KINDS = ("linear", "affine", "none", "fit", "mlp", "two")


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Options of an MLP head.

    `hidden` is the width between the layers (None: the tower's; mean: half of the tower's and the
    space's together). `bias` and `last_bias` set whether the linear layers, and the last of them,
    have a bias. `norm`, whose epsilon is `eps`, and `activation` follow each layer but the last;
    with `activation_first` in the other order. `last_norm` is the norm after the last layer: none,
    a batch norm that is plain (nothing learned), scaled (a learned factor, no shift) or affine
    (both), or a layer norm.
    """

    hidden: Count | Literal["mean"] | None = None
    layers: Count = 2
    bias: bool = False
    last_bias: bool = False
    norm: Literal["batch", "layer", "none"] = "batch"
    activation: Literal["relu", "gelu"] = "relu"
    activation_first: bool = False
    eps: Positive = 1e-5
    last_norm: Literal["none", "plain", "scaled", "affine", "layer"] = "none"

    @property
    def mixes_samples(self) -> bool:
        """Whether a batch norm makes a sample's result depend on the others of its batch."""
        last = self.last_norm not in ("none", "layer")
        return (self.norm == "batch" and self.layers > 1) or last


def fitted(spec: str, width: int, embed_dim: int) -> str:
    """The spec, with `fit` resolved to "none" or "linear".

    >>> fitted("fit", 8, 8), fitted("fit", 8, 4), fitted("affine", 8, 8)
    ('none', 'linear', 'affine')
    """
    return spec if spec != "fit" else "none" if width == embed_dim else "linear"


def head(spec: str, width: int, embed_dim: int, where: str) -> nn.Module:
    """Build the head of a spec, which maps (…, D) to (…, E); `where` names the tower in errors.

    >>> [type(layer).__name__ for layer in head("mlp:last_norm=plain", 8, 4, "image")]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear', 'BatchNorm1d']
    >>> head("mlp:hidden=mean:norm=none:activation=gelu", 8, 4, "text")
    MLP(
      (0): Linear(in_features=8, out_features=6, bias=False)
      (1): GELU(approximate='none')
      (2): Linear(in_features=6, out_features=4, bias=False)
    )
    """
    parsed = parse(fitted(spec, width, embed_dim))
    if parsed.name not in KINDS:
        raise unknown(f"{where} projection", parsed.name, KINDS)
    if parsed.name == "mlp":
        return _mlp(configure(MLPConfig, parsed.options, f"{where} projection"), width, embed_dim)
    if parsed.name == "two":
        return TwoHeads(
            configure(TwoConfig, parsed.options, f"{where} projection"), width, embed_dim
        )
    if parsed.options:
        raise InputError(f"{where} projection {spec!r}: {parsed.name} takes no options")
    if parsed.name == "none" and width != embed_dim:
        raise InputError(
            f"the {where} tower is {width} wide and has no projection to {embed_dim}; choose a linear one"
        )
    if parsed.name == "none":
        return nn.Identity()
    layer = nn.Linear(width, embed_dim, bias=parsed.name == "affine")
    nn.init.normal_(layer.weight, std=width**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Sequential):
    """An MLP on vectors (…, D). Its batch norms treat all but the last dimension as samples."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # of Sequential, whose input is called input
        found = super().forward(x.flatten(0, -2))
        return found.reshape(*x.shape[:-1], found.shape[-1])  # also of no vectors at all


@dataclass(frozen=True, kw_only=True)
class TwoConfig:
    """Options of two heads.

    `share` is the weight of the linear head's cosine in the combined cosine; `hidden` and `layers`
    are the MLP's.
    """

    share: float = 0.5
    hidden: Count | None = None
    layers: Count = 3

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(
                f"the share of the first of two heads is {self.share}; it lies between 0 and 1"
            )


class TwoHeads(nn.Module):
    """Two heads concatenated into one vector, whose cosine is share · cos(first) + (1 - share) ·
    cos(second).

        y = ( √share · unit(W x), √(1 - share) · unit(MLP x) )

    The linear layers of the MLP have biases. `share` may be changed after training to reweigh the
    two.
    """

    def __init__(self, config: TwoConfig, width: int, embed_dim: int):
        super().__init__()
        if embed_dim % 2:
            raise InputError(
                f"two heads cannot share {embed_dim} numbers evenly; give an even --embed-dim"
            )
        self.share = config.share
        self.first = head("linear", width, embed_dim // 2, "")
        mlp = MLPConfig(hidden=config.hidden, layers=config.layers, bias=True, last_bias=True)
        self.second = _mlp(mlp, width, embed_dim // 2)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The unit vectors of the two heads, (…, E/2) each."""
        return F.normalize(self.first(x), dim=-1), F.normalize(self.second(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(x)
        return torch.cat([math.sqrt(self.share) * first, math.sqrt(1 - self.share) * second], -1)


_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def _mlp(config: MLPConfig, width: int, embed_dim: int) -> MLP:
    hidden = (width + embed_dim) // 2 if config.hidden == "mean" else config.hidden or width
    layers: list[nn.Module] = []
    for into in (width, *[hidden] * (config.layers - 2))[: config.layers - 1]:
        norm = [] if config.norm == "none" else [_NORMS[config.norm](hidden, eps=config.eps)]
        activation = _ACTIVATIONS[config.activation]()
        layers.append(nn.Linear(into, hidden, bias=config.bias))
        layers += [activation, *norm] if config.activation_first else [*norm, activation]
    layers.append(
        nn.Linear(hidden if config.layers > 1 else width, embed_dim, bias=config.last_bias)
    )
    if config.last_norm == "layer":
        layers.append(nn.LayerNorm(embed_dim))
    elif config.last_norm != "none":
        norm = nn.BatchNorm1d(embed_dim, affine=config.last_norm != "plain")
        if config.last_norm == "scaled":
            norm.bias.requires_grad_(False).frozen = True  # type: ignore[attr-defined]  # which the engine keeps so
        layers.append(norm)
    return MLP(*layers)
