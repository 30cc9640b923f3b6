"""Images to tensors: images in files, memory, tars and zip archives, and the preprocessing.
`data.decode` decodes the bytes."""

import errno
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.data import remote
from diptych.data.clips import Clip, MiddleFrame, is_clip
from diptych.data.decode import MAX_PIXELS, decode, dimensions, refuse_scaled_bomb
from diptych.data.endings import FOREIGN, IMAGES, ending
from diptych.data.sample import BadSample, EncodedImage
from diptych.data.volume_files import VOLUMES
from diptych.errors import InputError, unknown
from diptych.rng import generator
from diptych.spec import configure

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

MOST_BYTES = 8 * MAX_PIXELS
"""The largest image file, in bytes, that is read."""


def is_image(path: str | Path) -> bool:
    """Whether a path is an existing file with the extension of an image or a volume, supported or
    not."""
    return ending(str(path)) in (*IMAGES, *VOLUMES, *FOREIGN) and Path(path).is_file()


def luma(pixels: np.ndarray) -> np.ndarray:
    """The luma of each pixel by the weights of ITU-R 601, (..., 3) -> (...), float32.

    The order of the sum is fixed: the rounding of a matrix product depends on the processor, and so
    would pixels.

    >>> luma(np.array([[0, 0, 250], [10, 10, 10]], np.uint8)).tolist()
    [28.5, 10.0]
    """
    red, green, blue = np.moveaxis(np.asarray(pixels, np.float32), -1, 0)
    return red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image in its own file."""

    path: str

    def read(self) -> bytes:
        """The file's bytes. Raises BadSample: missing, bomb (too large a file), or unreadable."""
        try:
            _refuse_irregular(self.path)
            return Path(self.path).read_bytes()
        except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL in the name
            raise BadSample("missing", self.path) from error
        except OSError as error:
            raise BadSample("unreadable", f"{self.path}: {error.strerror}") from error

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.decode.decode`."""
        return decode(self.read(), at_least=at_least)


def _refuse_irregular(path: str, most: int | None = MOST_BYTES) -> None:
    """Raise BadSample for unbounded input: a pipe, a device, a socket, or a file of more than
    `most` bytes."""
    status = os.stat(path)  # noqa: PTH116
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise BadSample("unreadable", f"{path} is a pipe, a device or a socket, not a file")
    if most is not None and status.st_size > most:
        raise BadSample("bomb", f"{path} has {status.st_size:,} bytes; the limit is {most:,}")


def file_of(image: EncodedImage) -> str:
    """The path of an image, or of the clip that it is a frame of, in a file of its own; else "".

    >>> file_of(MiddleFrame(Clip(FileImage("dance.mp4"))))
    'dance.mp4'
    """
    if isinstance(image, MiddleFrame):
        image = image.clip
    if isinstance(image, Clip):
        if image.span is not None:  # others would show the whole film
            return ""
        image = image.image
    return image.path if isinstance(image, FileImage) else ""


@dataclass(frozen=True, slots=True)
class BytesImage:
    """An image already in memory, still encoded."""

    data: bytes

    def read(self) -> bytes:
        """The bytes as given."""
        return self.data

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.decode.decode`."""
        return decode(self.data, at_least=at_least)


@dataclass(frozen=True, slots=True)
class MemberImage:
    """An image inside a tar: `size` bytes at `offset` of the file `path`, which may be a URL."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The member's bytes. Raises BadSample: missing (the tar is gone), truncated, or
        unreadable; and InputError for a server that does not answer."""
        try:
            if remote.is_url(self.path):
                return self._whole(remote.read(self.path, self.offset, self.size))
            # Opened for each read, so that forked workers share no descriptor and none is left
            # open.
            with Path(self.path).open("rb", buffering=0) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except FileNotFoundError as error:
            raise BadSample("missing", self.path) from error
        except OSError as error:
            raise BadSample("unreadable", f"{self.path}: {error.strerror}") from error
        return self._whole(data)

    def _whole(self, data: bytes | None) -> bytes:
        if data is None or len(data) < self.size:
            raise BadSample("truncated", f"{self.path} ends before byte {self.offset + self.size}")
        return data

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.decode.decode`."""
        return decode(self.read(), at_least=at_least)


@dataclass(frozen=True, slots=True)
class ZipImage:
    """An image inside a zip archive, which is opened for each read; nothing is extracted."""

    path: str
    member: str

    def read(self) -> bytes:
        """The member's bytes. Raises BadSample: missing (it or the archive), bomb, or
        unreadable."""
        try:
            _refuse_irregular(self.path, most=None)
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(self.member).file_size
                if size > MOST_BYTES:  # zip can compress zeros 1000-fold
                    raise BadSample(
                        "bomb", f"{self.member} of {self.path} unpacks to {size:,} bytes"
                    )
                return archive.read(self.member)
        except BadSample:
            raise
        except (FileNotFoundError, KeyError) as error:
            raise BadSample("missing", f"{self.path}/{self.member}") from error
        except IsADirectoryError:
            return FileImage(f"{self.path}/{self.member}").read()  # a folder named *.zip
        except Exception as error:  # damaged archives raise many kinds of exceptions
            raise BadSample("unreadable", f"{self.path}/{self.member}: {error}") from error

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.decode.decode`."""
        return decode(self.read(), at_least=at_least)


_STORED = (FileImage, BytesImage, MemberImage, ZipImage)


def size_of(image: EncodedImage) -> tuple[int, int]:
    """The width and height of an image as it is decoded; of one that is stored, from its header
    alone. Raises BadSample as `diptych.data.decode.dimensions`."""
    return dimensions(image.read()) if isinstance(image, _STORED) else image.decode().size


def sides(size: Any, what: str) -> int | tuple[int, int]:
    """A size in pixels: a number, or (height, width), which is a number where both are equal.

    Raises InputError, which calls it `what`, for anything else.

    >>> sides(32, "size"), sides([16, 64], "size"), sides((8, 8), "size")
    (32, (16, 64), 8)
    """
    given = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(given) != 2 or not all(type(each) is int and each > 0 for each in given):
        raise InputError(
            f"{what} {size!r} is not a number of pixels; give a positive integer, or (height, width)"
        )
    return given[0] if given[0] == given[1] else (given[0], given[1])


_RESIZES = ("shortest", "squash", "longest")
_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Preprocessing of an image to `size` pixels: of each side, or (height, width).

    `mean` and `std` are applied later, by the tower on its device.

    `resize`: "shortest" scales the image until it covers the size and crops the centre, "squash"
    ignores the proportions, "longest" scales it until it fits into the size and pads with `fill`: a
    colour, or "border", the median colour of the outermost pixels. `crop` sets the rounding of an
    odd margin: "round" as in torchvision and open_clip, "floor" as in transformers. Transparent
    images are pasted on a background of colour `fill`, white for "border". The pixels are bit-equal to those of
    open_clip's and (slow) transformers' pipelines, which also use Pillow; files read without
    `exact` differ a little, see `read`. An image whose long side is more than `ratio` times the
    short one is first padded with black bars to that ratio (Baldrati et al. 2022, TargetPad). With
    a `margin` of 1 or more, the image is scaled to that many times `size` and the centre is
    cropped.

    >>> Preprocess(size=32)(Image.new("RGB", (60, 40))).shape
    torch.Size([3, 32, 32])
    >>> Preprocess(size=(16, 64))(Image.new("RGB", (60, 40))).shape
    torch.Size([3, 16, 64])
    """

    size: int | tuple[int, int]
    resize: str = "shortest"
    interpolation: str = "bicubic"
    crop: str = "round"
    fill: tuple[int, int, int] | Literal["border"] = (255, 255, 255)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    ratio: float | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sides(self.size, "preprocess size"))
        for kind, value, choices in (
            ("resize", self.resize, _RESIZES),
            ("interpolation", self.interpolation, _INTERPOLATIONS),
            ("crop", self.crop, ("round", "floor")),
        ):
            if value not in choices:
                raise unknown(kind, value, choices)
        for name in ("fill", "mean", "std"):  # lists come from JSON
            value = getattr(self, name)
            if name == "fill" and value == "border":
                continue
            value = tuple(value)
            if len(value) != 3:
                raise InputError(
                    f"preprocess {name} {value} needs three numbers, one for each of red, green, blue"
                )
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise InputError(f"preprocess std {self.std} must be positive; it divides the pixels")
        if self.ratio is not None and self.ratio < 1:
            raise InputError(
                f"preprocess ratio {self.ratio} is the long side over the short one; give 1 or more"
            )
        if self.margin is not None and (
            not 1 <= self.margin < math.inf or self.resize == "longest"
        ):
            raise InputError(
                f"preprocess margin {self.margin} is the scaled side over the cropped one; give 1 or "
                "more, and resize=shortest or squash"
            )

    @property
    def height(self) -> int:
        """The height of a preprocessed image."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """The width of a preprocessed image."""
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def side(self) -> int:
        """The side of a square image. Raises InputError where images are not square."""
        if self.height != self.width:
            raise InputError(
                f"this needs a model of square images, and this one's are {self.height} x {self.width} pixels; name "
                "another model"
            )
        return self.height

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a preprocessed image."""
        return (3, self.height, self.width)

    def read(self, image: EncodedImage, *, exact: bool = False) -> Tensor:
        """Decode and preprocess `image`; unless `exact`, a JPEG is decoded at a reduced scale of at
        least twice the size.

        Twice, because bicubic scaling by less than 2 no longer hides the missing pixels: embeddings
        of photographs then have a cosine of only .99 to those of the full decode, compared with
        .999 at twice the size. A clip gives its frames (V, 3, height, width). Raises BadSample as the
        image does.
        """
        if is_clip(image):
            frames = image.frames(self.least(exact))
            return torch.stack([self(frame, exact=exact) for frame in frames])
        return self(image.decode(self.least(exact)), exact=exact)

    def least(self, exact: bool = False) -> int | None:
        """The fewest pixels of an image's short side that suffice; None if all are needed."""
        return None if exact else 2 * max(self.edges)

    @property
    def edges(self) -> tuple[int, int]:
        """Height and width to which an image is scaled before the centre is cropped."""
        margin = self.margin or 1
        return round(self.height * margin), round(self.width * margin)

    @property
    def edge(self) -> int:
        """The side of a square to which an image is scaled before the centre is cropped. Raises
        InputError where images are not square."""
        return round(self.side * (self.margin or 1))

    @property
    def ground(self) -> tuple[int, int, int]:
        """The colour on which transparent images are pasted."""
        return (255, 255, 255) if isinstance(self.fill, str) else self.fill

    def __call__(self, image: Image.Image, *, exact: bool = True) -> Tensor:
        """The preprocessed image, uint8 (3, height, width).

        Unless `exact`, torch's vectorised kernel scales instead of Pillow: the same filter with
        16-bit weights, four times as fast. Photographs differ in fewer than 2 % of the values, by
        one or, rarely, two of 255. Raises BadSample("bomb") for an image so thin that the scaled
        one exceeds the pixel limit.
        """
        image = on_ground(image, self.ground)
        if self.ratio is not None:
            image = barred(image, self.ratio)
        width, height = self.scaled(*image.size)
        refuse_scaled_bomb(image.size, (width, height))
        if exact:
            image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if not exact and pixels.shape[1:] != (height, width):
            pixels = F.interpolate(
                pixels[None], (height, width), mode=self.interpolation, antialias=True
            )[0]
        return self._fitted(pixels).contiguous()

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the image after scaling."""
        high, wide = self.edges
        if self.resize == "squash":
            return wide, high
        if self.resize == "shortest":
            if wide * height >= high * width:  # the width decides
                return wide, int(wide * height / width)
            return int(high * width / height), high
        ratio = max(width / self.width, height / self.height)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _fitted(self, pixels: Tensor) -> Tensor:
        """Crop the centre to the size, or for "longest" pad with `fill`."""
        height, width = pixels.shape[1:]
        if self.resize != "longest":
            left = self.start(width, self.width)
            top = self.start(height, self.height)
            return pixels[:, top : top + self.height, left : left + self.width]
        colour = (
            border_colour(pixels)
            if isinstance(self.fill, str)
            else torch.tensor(self.fill, dtype=torch.uint8)
        )
        ground = colour.view(3, 1, 1).repeat(1, self.height, self.width)
        left = (self.width - width) // 2
        top = (self.height - height) // 2
        ground[:, top : top + height, left : left + width] = pixels
        return ground

    def start(self, length: int, size: int) -> int:
        """The start of the crop to `size` on a side of `length` pixels."""
        rest = length - size
        return round(rest / 2) if self.crop == "round" else rest // 2

    def first(self, scaled: int, size: int) -> int:
        """The first pixel that is shown of a side scaled to `scaled` pixels, of `size` that are shown;
        negative where the side is padded."""
        if self.resize == "longest":
            return -((size - scaled) // 2)
        return self.start(scaled, size)

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box x0, y0, x1, y1, in pixels of an image, that the preprocessed image shows; beyond
        the image where it is padded.

        >>> Preprocess(size=32).seen(60, 40)
        (10.0, 0.0, 50.0, 40.0)
        """
        if self.ratio is not None:
            raise InputError("an image with bars has no box; give a preprocess without ratio")
        across, along = self.scaled(width, height)
        left = self.first(across, self.width)
        top = self.first(along, self.height)
        x = width / across
        y = height / along
        return left * x, top * y, (left + self.width) * x, (top + self.height) * y

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON. `ratio` and `margin` are omitted if None, as in files from before
        they existed."""
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`. Raises InputError for an unknown key, with the nearest one."""
        return configure(cls, dict(values), "preprocess")


def border_colour(pixels: Tensor) -> Tensor:
    """The median (3,) of the outermost pixels of an image (3, H, W), for each channel; of two middle
    values, the lower.

    >>> border_colour(torch.tensor([[9, 9, 9], [9, 0, 9], [9, 9, 5]], dtype=torch.uint8).expand(3, 3, 3))
    tensor([9, 9, 9], dtype=torch.uint8)
    """
    edges = [pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]]
    return torch.cat(edges, 1).median(1).values


def on_ground(image: Image.Image, fill: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The image as RGB, pasted on a background of colour `fill` if it has transparency.

    >>> on_ground(Image.new("RGBA", (1, 1), (9, 9, 9, 0)), (1, 2, 3)).getpixel((0, 0))
    (1, 2, 3)
    """
    if image.mode == "RGB":
        return image
    if image.mode != "RGBA" and not ("transparency" in image.info or image.mode in {"LA", "PA"}):
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, fill)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def barred(image: Image.Image, ratio: float) -> Image.Image:
    """Pad an RGB image with black bars until its long side is at most `ratio` times the short one.

    Raises BadSample("bomb") if it then exceeds the pixel limit.

    >>> barred(Image.new("RGB", (20, 100)), 1.25).size, barred(Image.new("RGB", (90, 100)), 1.25).size
    ((80, 100), (90, 100))
    """
    width, height = image.size
    if max(width, height) < ratio * min(width, height):
        return image
    least = max(width, height) / ratio
    across = max(int((least - width) / 2), 0)
    along = max(int((least - height) / 2), 0)
    size = (width + 2 * across, height + 2 * along)
    refuse_scaled_bomb(image.size, size)
    ground = Image.new("RGB", size)
    ground.paste(image, (across, along))
    return ground


def noise_image(preprocess: Preprocess, seed: int = 0) -> Tensor:
    """A preprocessed image of independent pixels, uniform in 0 … 255: uint8 (3, H, W).

    >>> noise_image(Preprocess(size=32)).shape
    torch.Size([3, 32, 32])
    """
    size = (preprocess.height, preprocess.width, 3)
    pixels = generator(seed, "null").integers(0, 256, size, dtype=np.uint8)
    return preprocess(Image.fromarray(pixels))
