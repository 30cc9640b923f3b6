"""Base classes of all towers: a typed config, the spec that rebuilds the tower, pixel normalisation
on device.

Dimensions: B samples, H x W pixels.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from diptych.data.images import Preprocess
from diptych.data.volumes import AnyPreprocess


class Tower(nn.Module):
    """Base of all towers: `kind` is the registered name, `Config` the frozen dataclass of its
    options."""

    kind: ClassVar[str] = ""
    Config: ClassVar[type]
    argument: ClassVar[str | None] = None
    """The option that `KIND:VALUE` sets, as in `timm:resnet18`; None if the kind accepts no
    value."""
    added: ClassVar[tuple[str, ...]] = ()
    """Options that are newer than saved models. A spec omits them where they are None, so that the
    checksums of older models stay."""
    width: int

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @property
    def spec(self) -> dict[str, Any]:
        """Plain values from which `build.image_tower` or `build.text_tower` builds the same
        module."""
        options = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self.config).items()
            if value is not None or key not in self.added
        }
        return {"name": self.kind, **options}

    @property
    def mixes_samples(self) -> bool:
        """Whether a sample's features depend on other samples: the tower has batch norm in training
        mode."""
        return any(isinstance(module, _BatchNorm) and module.training for module in self.modules())


class ImageTower(Tower):
    """Base of image towers, which accept uint8 images, or floats that are already preprocessed, as
    volumes always are."""

    mean: Tensor
    std: Tensor
    routes: ClassVar[tuple[str, ...]] = ("tokens",)
    """How the features of positions can be computed, by the name that `forward(route=)` takes."""
    splits: ClassVar[bool] = False
    """Whether the last stage and the pool can be run by themselves, on what is cut from a map."""

    def __init__(self, config: Any, preprocess: AnyPreprocess):
        super().__init__(config)
        self.preprocess: Any = preprocess
        # not persistent: the config holds them, and a state dict must not silently override it
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)

    @property
    def vectors(self) -> int:
        """The number of vectors pooled per image."""
        return 1

    @property
    def image_size(self) -> int:
        """The side in pixels of the square images that the tower is made for."""
        return self.preprocess.side

    @property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"preprocess": self.preprocess.to_dict()}

    def pixels(self, x: Tensor) -> Tensor:
        """Normalise pixels (B, 3, H, W): uint8 becomes (x / 255 - mean) / std; floats count as
        preprocessed."""
        if x.is_floating_point():
            return x.to(self.mean.dtype)
        # one pass over the pixels: x / (255 std) - mean / std
        return torch.addcmul(-self.mean / self.std, x.to(self.mean.dtype), 1 / (255 * self.std))


def preprocess_of(options: Mapping[str, Any] | None, **default: Any) -> Preprocess:
    """The preprocessing of a config, with the tower's defaults for missing options."""
    return Preprocess.from_dict({**default, **(options or {})})
