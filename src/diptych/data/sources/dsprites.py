"""dSprites (`dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`): white shapes with known factors.

    imgs             (N, 64, 64) uint8, 0 or 1
    latents_values   (N, 6) float64    colour, shape, scale, orientation (radians), x and y (0 to 1)
    latents_classes  (N, 6) int64      the same as numbers from 0 on

Labels are `shape`, with its name, and `scale`, `orientation`, `x` and `y` as floats. The file's metadata, a
pickled object, is not read. Images are unpacked a part at a time, and kept as bits: 377 MB in a process
that reads images.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from diptych.data.compact import is_folder
from diptych.data.png import png_of
from diptych.data.sample import BadSample, Field, Sample, Schema
from diptych.data.sources._files import array_header
from diptych.errors import InputError, brief
from diptych.spec import Spec, configure

FORMAT = "dsprites"
SHAPES = ("square", "ellipse", "heart")
_FACTORS = ("colour", "shape", "scale", "orientation", "x", "y")
_NUMBERS = ("scale", "orientation", "x", "y")
_IMAGES = "imgs.npy"
_MEMBERS = {_IMAGES, "latents_values.npy", "latents_classes.npy"}
_AT_ONCE = 1 << 24  # bytes that are unpacked at once


@dataclass(frozen=True, kw_only=True)
class DSpritesOptions:
    """There are none."""


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: an .npz file with the arrays of dSprites."""
    if not spec.name.lower().endswith(".npz") or is_folder(spec):
        return False
    try:
        with zipfile.ZipFile(spec.name) as archive:
            return set(archive.namelist()) >= _MEMBERS
    except (OSError, zipfile.BadZipFile):
        return False


def open(spec: Spec) -> "DSprites":
    """Open `dsprites….npz`. Raises InputError for other contents."""
    configure(DSpritesOptions, spec.options, f"source {spec.name!r}")
    return DSprites(spec.name)


class DSprites:
    """The images in order, with their factors; a number is the key."""

    def __init__(self, path: str):
        self.path = path
        self.name = path
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = arrays["latents_values"]
                classes = arrays["latents_classes"]
            shape, kind = array_header(path, _IMAGES)
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: cannot be read ({brief(error)}); fetch it again") from error
        if len(shape) != 3 or kind != np.uint8 or shape[2] % 8:
            raise InputError(
                f"{path}: imgs are {kind} of shape {shape}, not bytes (N, 64, 64); fetch it again"
            )
        wanted = (shape[0], len(_FACTORS))
        if values.shape != wanted or classes.shape != wanted:
            raise InputError(
                f"{path}: latents of shape {values.shape} and {classes.shape}, not {wanted}; fetch it again"
            )
        shapes = classes[:, _FACTORS.index("shape")].astype(np.int64)
        if len(shapes) and not 0 <= shapes.min() <= shapes.max() < len(SHAPES):
            raise InputError(f"{path}: shapes are numbered other than 0 to 2; fetch it again")
        self._labels = {"shape": shapes}
        self._labels |= {name: values[:, _FACTORS.index(name)] for name in _NUMBERS}

    def __len__(self) -> int:
        return len(self._labels["shape"])

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        return Sample(
            key=str(index),
            source=self.name,
            images={"main": Sprite(self.path, index)},
            labels={name: values[index].item() for name, values in self._labels.items()},
        )

    def keys(self) -> Sequence[str]:
        """The numbers of the images."""
        return [str(index) for index in range(len(self))]

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,)."""
        return self._labels[name]

    def schema(self) -> Schema:
        """Images and factors."""
        return {
            "images.main": Field(kind="image"),
            "labels.shape": Field(kind="int", classes=SHAPES),
            **{f"labels.{name}": Field(kind="float") for name in _NUMBERS},
        }


@lru_cache(maxsize=1)
def _bits(path: str) -> np.ndarray:
    """The images as bits (N, H, W / 8), unpacked in parts."""
    try:
        (count, height, width), _ = array_header(path, _IMAGES)
        found = np.empty((count, height, width // 8), np.uint8)
        rows = max(1, _AT_ONCE // (height * width))
        with zipfile.ZipFile(path) as archive, archive.open(_IMAGES) as file:
            array_header(path, _IMAGES, file)
            for start in range(0, count, rows):
                part = found[start : start + rows]
                data = file.read(len(part) * height * width)
                part[:] = np.packbits(
                    np.frombuffer(data, np.uint8).reshape(-1, height, width), axis=2
                )
    except FileNotFoundError:
        raise BadSample("missing", path) from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BadSample("unreadable", f"{path}: {brief(error)}") from error
    return found


@dataclass(frozen=True, slots=True)
class Sprite:
    """The image `index` of the file."""

    path: str
    index: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image as RGB; raises BadSample if the file cannot be read."""
        return Image.fromarray(np.unpackbits(_bits(self.path)[self.index], axis=1) * 255).convert(
            "RGB"
        )

    def read(self) -> bytes:
        """The image as a PNG file."""
        return png_of(self.decode())
