"""Volumes, such as CT scans, in place of images: how they are read, and prepared for a tower.

A volume takes the place of an image of a sample. Its `decode` gives the middle slice, for pages and
for models of images; models of volumes read the whole of it.

Dimensions: D slices, H rows, W columns.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import EncodedImage
from diptych.data.volume_files import checked, middle_slice, npy_bytes, read_volume
from diptych.errors import InputError
from diptych.spec import configure


@dataclass(frozen=True, slots=True, eq=False)
class ArrayVolume:
    """A volume (D, H, W) in memory."""

    array: np.ndarray

    def volume(self) -> np.ndarray:
        """The array; raises BadSample unless it has three axes of finite numbers."""
        return checked(self.array)

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle slice."""
        return middle_slice(self.volume())

    def read(self) -> bytes:
        """The volume as a .npy file."""
        return npy_bytes(self.array)


def volume_of(image: EncodedImage) -> np.ndarray:
    """The volume (D, H, W) of an image that holds one. Raises BadSample as `read_volume` does, for
    an image too.

    >>> volume_of(ArrayVolume(np.zeros((4, 6, 8)))).shape
    (4, 6, 8)
    """
    own = getattr(image, "volume", None)
    return read_volume(image.read()) if own is None else own()


@dataclass(frozen=True, kw_only=True)
class VolumePreprocess:
    """Preprocessing of a volume to `slices` x `size` x `size` numbers in 0 … 1.

    The volume is scaled to `scaled` = (slices, size), by default those it is cropped to, with
    linear interpolation; its centre is cropped. The `window` maps numbers to shares:

        x = clip((v - low) / (high - low), 0, 1)

    >>> prepare = VolumePreprocess(size=2, slices=1, window=(-200, 300))
    >>> prepare(np.array([[[-500.0, -200.0], [50.0, 300.0]]])).flatten().tolist()
    [0.0, 0.0, 0.5, 1.0]
    """

    size: int
    slices: int
    scaled: tuple[int, int] | None = None
    window: tuple[float, float] = (-200.0, 300.0)
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    std: ClassVar[tuple[float, ...]] = (1.0,)

    def __post_init__(self) -> None:
        for name in ("scaled", "window"):  # lists come from JSON
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.size, self.slices) < 1:
            raise InputError(
                f"volumes of {self.slices} slices and {self.size} rows are empty; give positive integers"
            )
        if self.full[0] < self.slices or self.full[1] < self.size:
            raise InputError(
                f"volumes scaled to {self.full} (slices, size) cannot be cropped to ({self.slices}, {self.size}); "
                "scale them to as many at least"
            )
        if not self.window[0] < self.window[1]:
            raise InputError(f"window {self.window} of volumes is empty; give (low, high)")

    @property
    def full(self) -> tuple[int, int]:
        """Slices and size before the crop."""
        return self.scaled or (self.slices, self.size)

    @property
    def side(self) -> int:
        """The rows and the columns of a prepared volume."""
        return self.size

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a prepared volume."""
        return (1, self.slices, self.size, self.size)

    def read(self, image: EncodedImage, *, exact: bool = False) -> Tensor:
        """The prepared volume of an image that holds one. Raises BadSample as `volume_of` does."""
        return self(volume_of(image))

    def __call__(self, volume: np.ndarray) -> Tensor:
        """The prepared volume (1, slices, size, size), float32, of one (D, H, W)."""
        whole = self.whole(volume)
        starts = [(have - want) // 2 for have, want in zip(self.full, self.shape[1:3], strict=True)]
        return self.cropped(whole, starts[0], starts[1], starts[1])

    def whole(self, volume: np.ndarray) -> Tensor:
        """The scaled volume (1, D, H, W) in the window, before the crop."""
        slices, size = self.full
        x = torch.from_numpy(np.ascontiguousarray(volume, np.float32))[None]
        if x.shape[1:] != (slices, size, size):
            x = F.interpolate(x[None], (slices, size, size), mode="trilinear")[0]
        low, high = self.window
        return ((x - low) / (high - low)).clamp(0, 1)

    def cropped(self, whole: Tensor, top: int, row: int, column: int) -> Tensor:
        """The crop of a scaled volume that starts at a slice, a row and a column."""
        depth = slice(top, top + self.slices)
        return whole[:, depth, row : row + self.size, column : column + self.size].contiguous()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VolumePreprocess":
        """The inverse of `to_dict`. Raises InputError for an unknown key, with the nearest one."""
        return configure(cls, dict(values), "preprocess")


AnyPreprocess = Preprocess | VolumePreprocess
"""The preprocessing of images or of volumes; both have `size`, `side`, `shape`, `read`, `to_dict`."""


def preprocess_from(values: Mapping[str, Any]) -> AnyPreprocess:
    """The preprocessing of images, or that of volumes, which has slices; raises InputError as
    `from_dict` does."""
    return (VolumePreprocess if "slices" in values else Preprocess).from_dict(values)
