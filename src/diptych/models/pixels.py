"""Images in any form (paths, PIL images, tensors) as batches of pixels for a model.

Dimensions: N images, H x W pixels.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diptych.data.decode import opened
from diptych.data.images import FileImage, Preprocess
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, EncodedImage
from diptych.errors import InputError

ImagesLike = (
    str
    | Path
    | Image.Image
    | EncodedImage
    | Tensor
    | Sequence[str | Path | Image.Image | EncodedImage]
)


def pixel_batches(
    images: ImagesLike, preprocess: Preprocess, batch_size: int, exact: bool
) -> tuple[Iterator[tuple[Tensor]], int]:
    """Batches of pixels (N, 3, size, size), and the number of images; as in `Model.embed_images`."""
    if isinstance(images, Tensor):
        return _tensor_batches(images, preprocess, batch_size)
    items = (
        [images]
        if isinstance(images, str | Path | Image.Image) or hasattr(images, "decode")
        else images
    )
    return _decoded(list(items), preprocess, batch_size, exact), len(items)  # type: ignore[arg-type]


def _tensor_batches(
    images: Tensor, preprocess: Preprocess, batch_size: int
) -> tuple[Iterator[tuple[Tensor]], int]:
    images = images[None] if images.ndim == 3 else images
    size = preprocess.size
    if (
        images.ndim != 4
        or images.shape[1] != 3
        or not (images.dtype == torch.uint8 or images.is_floating_point())
    ):
        raise InputError(
            f"image tensors are uint8 or float (N, 3, H, W), got {images.dtype} "
            f"{tuple(images.shape)}; permute or convert them"
        )
    if images.shape[2:] == (
        size,
        size,
    ):  # preprocessed; uint8 of this size needs no resizing
        return ((chunk,) for chunk in images.split(batch_size)), len(images)
    if images.is_floating_point():
        raise InputError(
            f"float images are taken as preprocessed to {size} x {size}, got {images.shape[2]} x "
            f"{images.shape[3]}; give uint8 pixels or PIL images"
        )
    items = [Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()) for pixels in images]
    return _decoded(items, preprocess, batch_size), len(items)


def _decoded(
    items: Sequence[str | Path | Image.Image | EncodedImage],
    preprocess: Preprocess,
    batch_size: int,
    exact: bool = False,
) -> Iterator[tuple[Tensor]]:
    """Batches of pixels (N, 3, H, W); threads decode the next one while the caller computes."""
    for pixels in ahead(
        partial(_pixels, preprocess=preprocess, exact=exact), list(enumerate(items)), batch_size
    ):
        yield (torch.stack(pixels),)  # type: ignore[arg-type]  # _pixels turns BadSample into InputError


def _pixels(
    numbered: tuple[int, str | Path | Image.Image | EncodedImage],
    *,
    preprocess: Preprocess,
    exact: bool,
) -> Tensor:
    place, item = numbered
    try:
        if isinstance(item, Image.Image):
            return preprocess(opened(item))
        if isinstance(item, str | Path):
            return preprocess.read(FileImage(str(item)), exact=exact)
        if hasattr(item, "decode"):
            return preprocess.read(item, exact=exact)
    except (
        BadSample,
        OSError,
    ) as error:  # PIL reads lazily: a truncated file given as an image fails here
        where = str(item) if isinstance(item, str | Path) else f"image {place}"
        raise InputError(
            f"{where} cannot be embedded ({error}); give a JPEG, PNG, WebP, GIF, TIFF, AVIF or HEIC"
        ) from error
    raise InputError(
        f"image {place} is a {type(item).__name__}; give a path, a PIL image, or one tensor of all"
    )
