"""Bytes to pictures to tensors: one safe decoder, four places a picture can lie, and the one preprocessing.

`decode` looks at the first bytes, opens the header with the one plugin that fits, refuses what is too large, and only
then touches pixels. Nothing here changes Pillow's global settings, so it is safe in threads and in other people's code.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from torch import Tensor

from diptych.data.sample import BadSample, Picture
from diptych.errors import InputError, unknown
from diptych.spec import configure

MAX_PIXELS = 89_478_485  # a quarter GiB of RGB, which is also Pillow's own limit; the largest cameras make 60 million

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""The endings of files that are taken for pictures."""

# The formats a training set holds. Pillow's other plugins (PostScript, FITS, …) are attack surface and stay closed.
_PLUGINS = (
    (b"\xff\xd8", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
)
_FOREIGN = (
    b"\0\0\1\0",
    b"8BPS",
    b"%PDF",
    b"%!PS",
    b"\xff\x0a",
    b"II+\0",
    b"MM\0+",
)  # real pictures that we do not read

_UPRIGHT = {  # EXIF orientation -> the turn that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data` (JPEG, PNG, WebP, GIF, BMP, TIFF), upright, as RGB, or RGBA where it has transparency.

    Of an animation the first frame, 16 bits scaled to 8, CMYK and palettes converted. With `at_least` a JPEG is decoded
    at the smallest of 1/1, 1/2, 1/4 and 1/8 whose short side keeps so many pixels; other formats cannot and ignore it.
    Raises BadSample: zero-byte, html, unsupported, bomb (more than `max_pixels`, told from the header), truncated,
    unreadable.

    >>> decode(b"<html>404</html>")
    Traceback (most recent call last):
    diptych.data.sample.BadSample: html: a web page, not a picture
    """
    plugin = _plugin(data)
    try:
        # Plugins raise whatever comes to hand on damaged bytes (SyntaxError, struct.error, IndexError, …).
        image = plugin(io.BytesIO(data))
        _refuse_bomb(image, max_pixels)
        if at_least is not None:
            image.draft(None, (at_least, at_least))  # libjpeg leaves out the higher DCT coefficients
        image.load()
        return opened(image)
    except BadSample:
        raise
    except Exception as error:
        raise _bad(data, error) from error


def is_picture(path: str | Path) -> bool:
    """Whether a path is that of a file that ends as a picture's."""
    return Path(path).suffix.lower()[1:] in PICTURES and Path(path).is_file()


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height of the picture in `data` as it is stored, from its header alone. Raises BadSample as `decode`.

    >>> dimensions(b"")
    Traceback (most recent call last):
    diptych.data.sample.BadSample: zero-byte
    """
    plugin = _plugin(data)
    try:
        image = plugin(io.BytesIO(data))
    except Exception as error:
        raise _bad(data, error) from error
    return image.width, image.height


def opened(image: Image.Image) -> Image.Image:
    """A picture that someone else opened, as `decode` gives it: upright, RGB or RGBA. Raises BadSample: unsupported.

    >>> opened(Image.new("CMYK", (2, 1))).mode
    'RGB'
    """
    return _upright(_eight_bit_rgb(image))


def _bad(data: bytes, error: Exception) -> BadSample:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadSample("bomb", str(error))
    cut = "truncated" in str(error) or not _complete(data)
    return BadSample("truncated" if cut else "unreadable", str(error))


def _plugin(data: bytes) -> type:
    if not data:
        raise BadSample("zero-byte")
    for magic, plugin in _PLUGINS:
        if data.startswith(magic):
            return plugin
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<"):
        if b"<svg" in start:
            raise BadSample("unsupported", "SVG is not a raster picture")
        raise BadSample("html", "a web page, not a picture")
    if data.startswith(_FOREIGN) or data[4:8] == b"ftyp":
        raise BadSample("unsupported", "not JPEG, PNG, WebP, GIF, BMP or TIFF")
    raise BadSample("unreadable", "not a picture")


def _refuse_bomb(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # A small picture may be cut from one enormous tile, which libtiff would allocate.
        tags = image.tag_v2
        pixels = max(pixels, int(tags.get(322, 0)) * int(tags.get(323, 0)))
    if pixels > max_pixels:
        raise BadSample("bomb", f"{image.width} x {image.height} pixels; the limit is {max_pixels:,} pixels")


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadSample("unsupported", "32-bit integers have no agreed white")
        image = _keep_exif(Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)), image)
    elif image.mode == "F":
        raise BadSample("unsupported", "floating-point pixels have no agreed white")
    clear = "transparency" in image.info or image.mode in {"RGBA", "RGBa", "LA", "La", "PA"}
    mode = "RGBA" if clear else "RGB"
    return image if image.mode == mode else _keep_exif(image.convert(mode), image)


def _keep_exif(new: Image.Image, old: Image.Image) -> Image.Image:
    """`convert` and `fromarray` do not all carry the EXIF block; the turn is read from it afterwards."""
    if "exif" in old.info:
        new.info["exif"] = old.info["exif"]
    return new


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels: take them as they are
        turn = None
    return image if turn is None else image.transpose(turn)


def _complete(data: bytes) -> bool:
    """Whether the file ends as its format ends, so that a failure is damage and not a lost tail."""
    tail = data[-64:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"GIF8"):
        return b";" in tail
    if data.startswith(b"BM"):
        return len(data) >= int.from_bytes(data[2:6], "little")
    return True


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The mask in `data` as "L": the stored numbers (grey values, or indices into a palette), not colours.

    Raises BadSample as `decode`, and unsupported where a pixel is not one number of at most 8 bits.
    """
    plugin = _plugin(data)
    try:
        image = plugin(io.BytesIO(data))
        _refuse_bomb(image, max_pixels)
        if image.mode not in {"1", "L", "P"}:
            raise BadSample("unsupported", f"a mask of mode {image.mode}; a mask has one 8-bit number a pixel")
        return Image.fromarray(np.asarray(image).astype(np.uint8))
    except BadSample:
        raise
    except Exception as error:
        raise _bad(data, error) from error


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a file of its own."""

    path: str

    def read(self) -> bytes:
        """The file's bytes. Raises BadSample: missing, or unreadable."""
        try:
            return Path(self.path).read_bytes()
        except FileNotFoundError as error:
            raise BadSample("missing", self.path) from error
        except OSError as error:
            raise BadSample("unreadable", f"{self.path}: {error.strerror}") from error

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.pictures.decode`."""
        return decode(self.read(), at_least=at_least)


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """A picture already in memory, still encoded."""

    data: bytes

    def read(self) -> bytes:
        """The bytes as given."""
        return self.data

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.pictures.decode`."""
        return decode(self.data, at_least=at_least)


@dataclass(frozen=True, slots=True)
class MemberPicture:
    """A picture inside a tar: `size` bytes at `offset` of the file `path`."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The member's bytes. Raises BadSample: missing (the tar is gone), truncated, or unreadable."""
        try:
            # Opened anew each time: no descriptor is shared by forked workers, none is left open.
            with Path(self.path).open("rb", buffering=0) as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except FileNotFoundError as error:
            raise BadSample("missing", self.path) from error
        except OSError as error:
            raise BadSample("unreadable", f"{self.path}: {error.strerror}") from error
        if data is None or len(data) < self.size:
            raise BadSample("truncated", f"{self.path} ends before byte {self.offset + self.size}")
        return data

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.pictures.decode`."""
        return decode(self.read(), at_least=at_least)


@dataclass(frozen=True, slots=True)
class ZipPicture:
    """A picture inside a zip archive; the archive is opened anew for each, and nothing of it is extracted."""

    path: str
    member: str

    def read(self) -> bytes:
        """The member's bytes. Raises BadSample: missing (it or the archive), bomb, or unreadable."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(self.member).file_size
                if size > 8 * MAX_PIXELS:  # no picture that `decode` takes is larger; zip can pack zeros 1000 times
                    raise BadSample("bomb", f"{self.member} of {self.path} unpacks to {size:,} bytes")
                return archive.read(self.member)
        except BadSample:
            raise
        except (FileNotFoundError, KeyError) as error:
            raise BadSample("missing", f"{self.path}/{self.member}") from error
        except IsADirectoryError:
            return FilePicture(f"{self.path}/{self.member}").read()  # a folder may be called *.zip
        except Exception as error:  # as many kinds as archives can be broken in
            raise BadSample("unreadable", f"{self.path}/{self.member}: {error}") from error

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `diptych.data.pictures.decode`."""
        return decode(self.read(), at_least=at_least)


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask stored as a picture: decodes to its numbers."""

    picture: Picture

    def read(self) -> bytes:
        """The encoded bytes."""
        return self.picture.read()

    def decode(self, at_least: int | None = None) -> Image.Image:
        """As `decode_mask`, always in full: the mean of two numbers is a third one."""
        return decode_mask(self.read())


_RESIZES = ("shortest", "squash", "longest")
_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes `size` x `size` pixels; `mean` and `std` are applied later, by the tower, on its device.

    `resize`: "shortest" scales the short side to `size` and crops the centre, "squash" ignores the proportions,
    "longest" scales the long side and pads with `fill`. `crop` says where the centre falls when the margin is odd:
    "round" is torchvision's and open_clip's way, "floor" that of transformers. Transparent pictures are laid on `fill`.
    The pixels are bit-equal to those of open_clip's and (slow) transformers' pipelines, which also use Pillow; files
    that are read without `exact` differ a little, see `read`. A picture whose long side is more than `ratio` times the
    short one gets black bars beside it first, as far as these bring it there (Baldrati et al. 2022, TargetPad).

    >>> Preprocess(size=32)(Image.new("RGB", (60, 40))).shape
    torch.Size([3, 32, 32])
    """

    size: int
    resize: str = "shortest"
    interpolation: str = "bicubic"
    crop: str = "round"
    fill: tuple[int, int, int] = (255, 255, 255)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    ratio: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and self.size > 0):
            raise InputError(f"preprocess size {self.size!r} is not a number of pixels; give a positive integer")
        for kind, value, choices in (
            ("resize", self.resize, _RESIZES),
            ("interpolation", self.interpolation, _INTERPOLATIONS),
            ("crop", self.crop, ("round", "floor")),
        ):
            if value not in choices:
                raise unknown(kind, value, choices)
        for name in ("fill", "mean", "std"):  # lists come from JSON
            value = tuple(getattr(self, name))
            if len(value) != 3:
                raise InputError(f"preprocess {name} {value} needs three numbers, one for each of red, green, blue")
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise InputError(f"preprocess std {self.std} must be positive; it divides the pixels")
        if self.ratio is not None and self.ratio < 1:
            raise InputError(f"preprocess ratio {self.ratio} is the long side over the short one; give 1 or more")

    def read(self, picture: Picture, *, exact: bool = False) -> Tensor:
        """Decode `picture` and preprocess it; unless `exact`, a JPEG at a scale that leaves twice the size or more.

        Twice, because bicubic shrinking by less than 2 no longer hides that pixels were left out: embeddings of
        photographs then fall to a cosine of .99 to the full decode, and with twice the size they stay at .999.
        Raises BadSample as the picture does.
        """
        return self(picture.decode(self.least(exact)), exact=exact)

    def least(self, exact: bool = False) -> int | None:
        """The pixels that the short side of a picture must keep; None where all are wanted."""
        return None if exact else 2 * self.size

    def __call__(self, image: Image.Image, *, exact: bool = True) -> Tensor:
        """The picture as uint8 (3, size, size).

        Unless `exact`, torch's vectorised kernel scales in Pillow's place: the same filter in 16-bit weights, four
        times as fast; photographs differ in fewer than 2 % of the numbers, and there by one or, rarely, two of 255.
        """
        image = on_ground(image, self.fill)
        if self.ratio is not None:
            image = barred(image, self.ratio)
        width, height = self.scaled(*image.size)
        if exact:
            image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if not exact:
            pixels = F.interpolate(pixels[None], (height, width), mode=self.interpolation, antialias=True)[0]
        return self._fitted(pixels).contiguous()

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture after scaling."""
        if self.resize == "squash":
            return self.size, self.size
        if self.resize == "shortest":
            short = min(width, height)
            return int(self.size * width / short), int(self.size * height / short)
        ratio = max(width, height) / self.size
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _fitted(self, pixels: Tensor) -> Tensor:
        """The centre of what is larger than `size` x `size`, `fill` around what is smaller."""
        height, width = pixels.shape[1:]
        if self.resize != "longest":
            left, top = self.margin(width), self.margin(height)
            return pixels[:, top : top + self.size, left : left + self.size]
        ground = torch.tensor(self.fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, self.size, self.size)
        left, top = (self.size - width) // 2, (self.size - height) // 2
        ground[:, top : top + height, left : left + width] = pixels
        return ground

    def margin(self, length: int) -> int:
        """Where the crop begins on a side of so many pixels."""
        margin = length - self.size
        return round(margin / 2) if self.crop == "round" else margin // 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them; without a ratio where there is none, as before there was one."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return values if self.ratio is not None else {key: value for key, value in values.items() if key != "ratio"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """The inverse of `to_dict`; an unknown key is an InputError that names the nearest."""
        return configure(cls, dict(values), "preprocess")


def on_ground(image: Image.Image, fill: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The picture as RGB, transparent parts showing the colour `fill`.

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
    """The picture (RGB) with as wide black bars beside it as its long side is at most `ratio` times the short one.

    >>> barred(Image.new("RGB", (20, 100)), 1.25).size, barred(Image.new("RGB", (90, 100)), 1.25).size
    ((80, 100), (90, 100))
    """
    width, height = image.size
    if max(width, height) < ratio * min(width, height):
        return image
    least = max(width, height) / ratio
    across, along = max(int((least - width) / 2), 0), max(int((least - height) / 2), 0)
    ground = Image.new("RGB", (width + 2 * across, height + 2 * along))
    ground.paste(image, (across, along))
    return ground
