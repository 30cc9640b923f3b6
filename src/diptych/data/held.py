"""Images that a Python program has in memory, or names by a path, as images of a sample.

Dimensions: H x W pixels.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.data.clips import Clip, FrameStack, is_clip
from diptych.data.decode import opened
from diptych.data.endings import VIDEOS, ending
from diptych.data.images import BytesImage, FileImage
from diptych.data.sample import EncodedImage
from diptych.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class HeldImage:
    """A decoded image."""

    image: Image.Image

    def read(self) -> bytes:
        """The image as a PNG file."""
        data = io.BytesIO()
        self.decode().save(data, "PNG")
        return data.getvalue()

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.decode.opened`."""
        return opened(self.image)


def held(image: EncodedImage) -> EncodedImage:
    """An image or a clip, decoded."""
    if not is_clip(image):
        return HeldImage(image.decode())
    frames = image.frames()
    return FrameStack(tuple(map(HeldImage, frames)), len(frames))


def held_bytes(image: EncodedImage) -> int:
    """The bytes of RGB pixels that an image or a clip of `held` takes."""
    frames = image.images if isinstance(image, FrameStack) else (image,)
    return sum(
        3 * frame.image.width * frame.image.height
        for frame in frames
        if isinstance(frame, HeldImage)
    )


def encoded(image: Any) -> EncodedImage:
    """An image of any form as one of a sample.

    The forms are: a path, the bytes of a file, a PIL image, a uint8 array (H, W), (H, W, 3) or
    (H, W, 4), a uint8 tensor (3, H, W), or what has `decode` already. The path of a video is a clip,
    and so is an array of two or more frames (V, H, W, 3). Raises InputError for anything else.

    >>> encoded(np.zeros((4, 6, 3), np.uint8)).decode().size
    (6, 4)
    """
    if isinstance(image, str | Path):
        file = FileImage(str(image))
        return Clip(file) if ending(file.path) in VIDEOS else file
    if isinstance(image, bytes):
        return BytesImage(image)
    if isinstance(image, Image.Image):
        return HeldImage(image)
    if isinstance(image, torch.Tensor):
        return HeldImage(Image.fromarray(_pixels(image)))
    if isinstance(image, np.ndarray) and image.ndim == 4 and len(image) > 1:
        return FrameStack(tuple(encoded(frame) for frame in image), len(image))
    if isinstance(image, np.ndarray):
        return HeldImage(Image.fromarray(_array(image)))
    if hasattr(image, "decode"):
        return image
    raise InputError(
        f"a {type(image).__name__} is no image; give a path, a PIL image, or uint8 pixels (H, W, 3)"
    )


def _pixels(image: torch.Tensor) -> np.ndarray:
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
        raise InputError(
            f"a tensor {tuple(image.shape)} of {image.dtype} is no image; give uint8 pixels (3, H, W) or a PIL image, "
            "without the transform to floats: models prepare their images"
        )
    return image.permute(1, 2, 0).cpu().numpy()


def _array(image: np.ndarray) -> np.ndarray:
    channels = image.shape[2:]
    if image.dtype != np.uint8 or channels not in ((), (3,), (4,)) or image.ndim < 2:
        raise InputError(
            f"an array {image.shape} of {image.dtype} is no image; give uint8 pixels (H, W), (H, W, 3) or (H, W, 4)"
        )
    return image
