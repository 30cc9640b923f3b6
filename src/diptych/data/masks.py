"""Masks that are stored as images, whose pixels are numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.data.decode import decode_mask
from diptych.data.png import png_of
from diptych.data.sample import EncodedImage

VOID = 255
"""The number in a class mask that means no class."""


class MadeMask(ABC):
    """A mask that is made when it is read."""

    __slots__ = ()

    def read(self) -> bytes:
        """The mask as a PNG file."""
        return png_of(self.decode())

    @abstractmethod
    def decode(self, at_least: int | None = None) -> Image.Image:
        """The numbers of all pixels, always at full size."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask stored as an image, which decodes to its numbers."""

    image: EncodedImage

    def read(self) -> bytes:
        """The encoded bytes."""
        return self.image.read()

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `decode_mask`, always at full size, since averaging two numbers would give a third
        one."""
        return decode_mask(self.read())


@dataclass(frozen=True, slots=True)
class ClassMask(MadeMask):
    """A class mask, made from a mask of the image's segments.

    `numbers` maps each segment to its class; other pixels are `VOID`.
    """

    mask: EncodedImage
    numbers: Mapping[int, int]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The classes of all pixels, at full size as in `Mask`."""
        plane = np.asarray(self.mask.decode())
        classes = np.full(plane.shape, VOID, np.uint8)
        for segment, number in self.numbers.items():
            classes[plane == segment] = number
        return Image.fromarray(classes)
