"""The pictures of a sample: its images with boxes, its masks in colours, its depth, and the images of
its edits."""

import base64
import colorsys
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.data.clips import AnyClip, is_clip
from diptych.data.images import on_ground
from diptych.data.sample import BadSample, Box, EncodedImage, Sample, Schema

_TINY = 96  # images up to this side are enlarged, and kept without loss: they may be pixel art

_COVER = 0.65  # how much a mask's colour covers its image


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a sample. `draw(size)` returns it fitted into a square of `size` pixels, as a WebP
    file, and raises BadSample.

    `boxes` are drawn over it; `image` is the image that their pixels are of.
    """

    name: str
    draw: Callable[[int], bytes]
    boxes: Sequence[Box] = ()
    image: EncodedImage | None = None


def pictures(sample: Sample, schema: Schema) -> list[Picture]:
    """Return the pictures of a sample: images by role with their boxes, masks, depth, edits."""
    found = []
    for role, image in sample.images.items():
        boxes = [box for box in sample.boxes if box.image == role and _finite(box)]
        found.append(Picture(name=role, draw=_image(image), boxes=boxes, image=image))
    main = sample.images.get("main")
    for name, mask in sample.masks.items():
        found.append(Picture(name=f"mask: {name}", draw=_mask(mask, main)))
    if "depth" in sample.arrays:
        found.append(Picture(name="depth, near is light", draw=_depth(sample.arrays["depth"])))
    for edit in sample.edits:
        said = " ".join(edit.captions("instruction")) or " ".join(edit.captions())
        own = {role: image for role, image in edit.images.items() if role == "main"} or edit.images
        found += [
            Picture(name=f"{edit.kind}: {said}", draw=_image(image)) for image in own.values()
        ]
    return found


def data_url(file: bytes) -> str:
    """Return a WebP file as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(file).decode('ascii')}"


def colour(number: int) -> str:
    """Return the colour of a number of a mask; 0 is dark.

    >>> colour(0), colour(1)
    ('#1e2026', '#6df294')
    """
    return "#{:02x}{:02x}{:02x}".format(*_rgb(number))


def _rgb(number: int) -> tuple[int, int, int]:
    if number == 0:
        return (30, 32, 38)
    red, green, blue = colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.55, 0.95)
    return (round(255 * red), round(255 * green), round(255 * blue))


def _finite(box: Box) -> bool:
    return all(math.isfinite(value) for value in box.xyxy)


def _image(image: EncodedImage) -> Callable[[int], bytes]:
    def draw(size: int) -> bytes:
        if is_clip(image):
            return _strip(image, size)
        return _file(on_ground(image.decode(size)), size)

    return draw


def _strip(clip: AnyClip, size: int) -> bytes:
    """The frames of a clip beside each other, in rows that together are nearly square."""
    frames = [on_ground(frame) for frame in clip.frames(size)]
    columns = math.ceil(math.sqrt(len(frames)))
    width, height = frames[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(frames) // columns) * height), "white")
    for at, frame in enumerate(frames):
        sheet.paste(frame, (at % columns * width, at // columns * height))
    return _file(sheet, size)


def _mask(mask: EncodedImage, image: EncodedImage | None) -> Callable[[int], bytes]:
    """Draw a mask's numbers in distinct colours over the image in grey, if they are of one size."""

    def draw(size: int) -> bytes:
        numbers = mask.decode()
        if numbers.mode != "L":
            raise BadSample("unsupported", f"a mask of mode {numbers.mode}")
        coloured = numbers.copy()
        coloured.putpalette([value for number in range(256) for value in _rgb(number)])
        coloured = coloured.convert("RGB")
        ground = _grey(image)
        if ground is not None and ground.size == coloured.size:
            cover = numbers.point([0, *[round(255 * _COVER)] * 255])
            coloured = Image.composite(coloured, ground, cover)
        return _file(coloured, size)

    return draw


def _grey(image: EncodedImage | None) -> Image.Image | None:
    if image is None:
        return None
    try:
        return on_ground(image.decode()).convert("L").convert("RGB")
    except BadSample:
        return None


def _depth(depth: np.ndarray) -> Callable[[int], bytes]:
    def draw(size: int) -> bytes:
        if depth.ndim != 2 or not np.isfinite(depth).all():
            raise BadSample("unsupported", f"depth of shape {depth.shape}")
        near = np.rint(255 * (1 - depth.clip(0, 1))).astype(np.uint8)
        return _file(Image.fromarray(near).convert("RGB"), size)

    return draw


def _file(image: Image.Image, size: int) -> bytes:
    tiny = max(image.size) <= _TINY
    times = size // max(image.size)
    if tiny and times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:
        image.thumbnail((size, size))
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=tiny, quality=80, method=3)
    return data.getvalue()
