"""Images and volumes in any form (paths, PIL images, arrays, tensors) as batches of pixels for a
model.

Dimensions: N images, D slices, H x W pixels.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.clips import stacked
from diptych.data.held import HeldImage, encoded
from diptych.data.images import FileImage
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, EncodedImage
from diptych.data.volumes import AnyPreprocess, ArrayVolume, VolumePreprocess
from diptych.errors import InputError

ImagesLike = (
    str
    | Path
    | Image.Image
    | EncodedImage
    | np.ndarray
    | Tensor
    | Sequence[str | Path | Image.Image | EncodedImage | np.ndarray]
)
"""Images, or for a model of volumes paths of volumes and arrays (D, H, W)."""


def pixel_batches(
    images: ImagesLike,
    preprocess: AnyPreprocess,
    batch_size: int,
    exact: bool,
    clips: bool = False,
) -> tuple[Iterator[tuple[Tensor]], int]:
    """Batches of pixels (N, *shape of the preprocessing), and the number of images; as in
    `Model.embed_images`. Clips are (N, V, *shape), and raise InputError unless `clips`."""
    batches, count = _any_batches(images, preprocess, batch_size, exact)
    return (batches if clips else _of_images(batches, preprocess)), count


def _of_images(
    batches: Iterator[tuple[Tensor]], preprocess: AnyPreprocess
) -> Iterator[tuple[Tensor]]:
    """The batches; raises InputError for clips."""
    for (pixels,) in batches:
        if pixels.ndim > 1 + len(preprocess.shape):
            raise InputError(
                "what is computed here is of images, and a clip has several; give the image main of a sample, "
                "which is its middle frame, or embed or classify the clip"
            )
        yield (pixels,)


def _any_batches(
    images: ImagesLike, preprocess: AnyPreprocess, batch_size: int, exact: bool
) -> tuple[Iterator[tuple[Tensor]], int]:
    if isinstance(images, Tensor):
        return _tensor_batches(images, preprocess, batch_size)
    one = isinstance(images, str | bytes | Path | Image.Image) or hasattr(images, "decode")
    if isinstance(images, np.ndarray):  # one, but for a batch of images (N, H, W, 3)
        one = images.ndim < 4
    items = [images] if one else images
    return _decoded(list(items), preprocess, batch_size, exact), len(items)  # type: ignore[arg-type]


def _tensor_batches(
    images: Tensor, preprocess: AnyPreprocess, batch_size: int
) -> tuple[Iterator[tuple[Tensor]], int]:
    if isinstance(preprocess, VolumePreprocess):
        if images.shape[1:] != preprocess.shape or not images.is_floating_point():
            raise InputError(
                f"tensors of volumes are taken as preprocessed, float (N, {', '.join(map(str, preprocess.shape))}), "
                f"got {images.dtype} {tuple(images.shape)}; give a list of arrays (slices, rows, columns)"
            )
        return ((chunk,) for chunk in images.split(batch_size)), len(images)
    if images.ndim == 5 and images.shape[2:] == preprocess.shape:
        clips = max(1, batch_size // images.shape[1])  # as many images at once as of stills
        return ((chunk,) for chunk in images.split(clips)), len(images)
    images = images[None] if images.ndim == 3 else images
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or not (images.dtype == torch.uint8 or images.is_floating_point())
    ):
        raise InputError(
            f"image tensors are uint8 or float (N, 3, H, W), got {images.dtype} "
            f"{tuple(images.shape)}; permute or convert them"
        )
    if images.shape[1:] == preprocess.shape:  # preprocessed; uint8 of this size needs no resizing
        return ((chunk,) for chunk in images.split(batch_size)), len(images)
    if images.is_floating_point():
        raise InputError(
            f"float images are taken as preprocessed to {preprocess.height} x {preprocess.width}, got "
            f"{images.shape[2]} x {images.shape[3]}; give uint8 pixels or PIL images"
        )
    items = [Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()) for pixels in images]
    return _decoded(items, preprocess, batch_size), len(items)


def _decoded(
    items: Sequence[str | Path | Image.Image | EncodedImage | np.ndarray],
    preprocess: AnyPreprocess,
    batch_size: int,
    exact: bool = False,
) -> Iterator[tuple[Tensor]]:
    """Batches of pixels; threads decode the next one while the caller computes."""
    for pixels in ahead(
        partial(_pixels, preprocess=preprocess, exact=exact), list(enumerate(items)), batch_size
    ):
        whole = stacked(pixels)  # type: ignore[arg-type]  # _pixels turns BadSample into InputError
        yield from _tensor_batches(whole, preprocess, batch_size)[0]


def _pixels(
    numbered: tuple[int, str | Path | Image.Image | EncodedImage | np.ndarray],
    *,
    preprocess: AnyPreprocess,
    exact: bool,
) -> Tensor:
    place, item = numbered
    volumes = isinstance(preprocess, VolumePreprocess)
    kinds = (
        ".npy, .nii or .nii.gz"
        if volumes
        else "a JPEG, PNG, WebP, GIF, TIFF, AVIF or HEIC, or a video"
    )
    try:
        if not volumes:
            image = encoded(item)
            if isinstance(image, HeldImage):
                return preprocess(image.decode())
            return preprocess.read(image, exact=exact)
        if isinstance(item, np.ndarray):
            return preprocess.read(ArrayVolume(item))
        if isinstance(item, str | Path):
            return preprocess.read(FileImage(str(item)), exact=exact)
        if hasattr(item, "decode"):
            return preprocess.read(item, exact=exact)  # type: ignore[arg-type]  # it decodes
    except InputError as error:
        raise InputError(f"image {place}: {error}") from None
    except (
        BadSample,
        OSError,
    ) as error:  # PIL reads lazily: a truncated file given as an image fails here
        where = str(item) if isinstance(item, str | Path) else f"image {place}"
        raise InputError(f"{where} cannot be embedded ({error}); give {kinds}") from error
    raise InputError(
        f"image {place} is a {type(item).__name__}; give a path, an array (slices, rows, columns), or one tensor of all"
    )
