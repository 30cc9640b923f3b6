"""The propagation module, and a feature pyramid on an image tower.

Dimensions: B images, P positions of a map, D width, C channels, h x w positions, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.ops import FeaturePyramidNetwork

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.blank import encoded_blank
from diptych.spec import Count
from diptych.towers.build import image, image_tower
from diptych.towers.encoded import Edit, Encoded
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import freeze, thaw
from diptych.towers.tower import ImageTower, preprocess_of

_LEAST = 1e-6
"""Added to similarities where the power's slope at 0 is infinite, as published."""


class Propagation(nn.Module):
    """Replace each position by the sum of all, weighted by their similarity to it.

        y_p = Σ_q max(cos(z_p, z_q), 0)^gamma · unit(g(z_q))

    `layers` is the number of g's linear layers, with batch norm and ReLU between them; 0 is the
    identity. It maps (B, P, D) to (B, P, D), not normalised.

    >>> Propagation(2, layers=0)(torch.eye(2)[None])  # positions that have nothing in common
    tensor([[[1., 0.],
             [0., 1.]]])
    """

    def __init__(self, width: int, gamma: float = 2.0, layers: int = 1):
        super().__init__()
        self.gamma = gamma
        spec = f"mlp:layers={layers}:bias=true:last_bias=true" if layers else "none"
        self.transform = head(spec, width, width, "propagation")

    def forward(self, z: Tensor) -> Tensor:
        values = self.transform(z)
        with torch.autocast(z.device.type, enabled=False):
            unit = normalize(at_least_float32(z), dim=-1)
            similar = (unit @ unit.mT).clamp(min=0)
            if self.gamma < 1:
                similar = similar + _LEAST
            return similar**self.gamma @ normalize(at_least_float32(values), dim=-1)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Options of `pixpro.pyramid`: the `tower` in plain values, how many of its coarsest maps the
    pyramid has as `levels`, and their `channels`."""

    tower: Mapping[str, Any]
    levels: Count = 3
    channels: Count = 256
    preprocess: Mapping[str, Any] | None = None


@image("pixpro.pyramid")
class Pyramid(ImageTower):
    """An image tower with a feature pyramid (Lin et al., 2017, torchvision's) on its maps.

    Tokens and pooled vectors are the tower's; `levels` are those of the pyramid (B, C, h, w), fine
    to coarse. The pyramid is frozen where no method trains it. Raises InputError for a tower with fewer maps.

    >>> tower = {"name": "conv", "image_size": 32, "widths": (8, 16), "depths": (1, 1)}
    >>> encoded = Pyramid(PyramidConfig(tower=tower, levels=2, channels=4))(torch.zeros(1, 3, 32, 32))
    >>> encoded.grid, [tuple(level.shape) for level in encoded.levels]
    ((4, 4), [(1, 4, 8, 8), (1, 4, 4, 4)])
    """

    Config = PyramidConfig

    def __init__(self, config: PyramidConfig, tower: ImageTower | None = None):
        inner = tower or image_tower(config.tower)
        super().__init__(config, preprocess_of(config.preprocess, **inner.preprocess.to_dict()))
        self.inner = inner
        self.width = inner.width
        maps = encoded_blank(inner).levels
        if len(maps) < config.levels:
            raise InputError(
                f"image tower {inner.kind!r} gives {len(maps)} feature maps, and the pyramid has {config.levels} "
                "levels; choose conv or timm:NAME:levels=true, or fewer levels"
            )
        channels = [each.shape[1] for each in maps[-config.levels :]]
        self.pyramid = FeaturePyramidNetwork(channels, config.channels)
        freeze(self.pyramid)

    @classmethod
    def of(cls, tower: ImageTower, levels: int, channels: int) -> ImageTower:
        """The pyramid of a given tower, with its weights, or that which it is already, to be trained;
        without levels, the tower alone.

        Raises InputError for a pyramid of another size.
        """
        if not levels:
            return tower.inner if isinstance(tower, Pyramid) else tower
        if not isinstance(tower, Pyramid):
            config = PyramidConfig(tower=tower.spec, levels=levels, channels=channels)
            tower = cls(config, tower)
        thaw(tower.pyramid)
        have = (tower.config.levels, tower.config.channels)
        if have != (levels, channels):
            raise InputError(
                f"the run that training starts from has a pyramid of levels={have[0]} and channels={have[1]}, and "
                f"levels={levels} and channels={channels} are asked for; give the same"
            )
        return tower

    def forward(
        self, x: Tensor, *, edit: Edit | None = None, hidden: Tensor | None = None
    ) -> Encoded:
        """Encode images (B, 3, H, W); `edit` and `hidden` are those of the tower."""
        encoded = self.inner(x, edit=edit, hidden=hidden)
        maps = encoded.levels[-self.config.levels :]
        found = self.pyramid({str(number): each for number, each in enumerate(maps)})
        return replace(encoded, levels=tuple(found.values()))
