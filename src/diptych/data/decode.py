"""Bytes to images: one safe decoder.

`decode` selects one Pillow plugin by the first bytes, reads the header, rejects images that are too
large, and only then decodes pixels. Nothing here changes Pillow's global settings, so it is safe in
threads and inside other applications.
"""

import io
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from diptych.data.sample import BadSample
from diptych.data.volume_files import is_volume, middle_slice, read_volume

# a quarter GiB of RGB, which is also Pillow's own limit; the largest cameras take 60 million pixels
MAX_PIXELS = 89_478_485

UNTIMED = 100
"""Milliseconds of a frame where a film stores no times: an animation without durations, a folder of
frames."""

MAX_CLIP_PIXELS = 2**35
"""The most pixels of all frames of a clip: eleven minutes of 1920 x 1080 at 25 frames a second."""

Choose = Callable[[Sequence[float], float], Sequence[int]]
"""`choose(starts, end)`: the frames to decode, in order, of those that begin at `starts`."""

Span = tuple[float, float]
"""A part of a film: where it begins and where it ends, in seconds from the first frame."""

# The formats of training sets. Pillow's other plugins (PostScript, FITS, …) are attack surface and
# are not used.
_PLUGINS = (
    (b"\xff\xd8", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
)
_FOREIGN = (  # image formats that are not supported
    b"\0\0\1\0",
    b"8BPS",
    b"%PDF",
    b"%!PS",
    b"\xff\x0a",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cJXL ",
)
_AVIF = {b"avif", b"avis"}  # brands, listed in the first box of the file
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
STILLS = _AVIF | _HEIC | {b"mif1", b"msf1"}
"""The brands of images in the boxes that videos also have."""

_UPRIGHT = {  # EXIF orientation -> the transpose that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG that is not upright contains."""
_SIDEWAYS = {_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8]}


def decode(
    data: bytes, *, at_least: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC) as upright RGB, or RGBA if it
    has transparency.

    Of an animation the first frame is used; 16 bits are scaled to 8, CMYK and palettes are
    converted. With `at_least`, a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its
    size whose short side has at least this many pixels; other formats ignore it. Raises BadSample:
    zero-byte, html, unsupported, bomb (more than `max_pixels`, by the header), truncated,
    unreadable. Of a volume (`data.volume_files`) it is the middle slice.

    >>> decode(b"<html>404</html>")
    Traceback (most recent call last):
    diptych.data.sample.BadSample: html: a web page, not an image
    """
    if is_volume(data):
        return middle_slice(read_volume(data))
    plugin = plugin_of(data)
    try:
        # Plugins raise many kinds of exceptions on damaged bytes (SyntaxError, struct.error,
        # IndexError, …).
        image = plugin(io.BytesIO(data))
        _refuse_bomb(image, max_pixels)
        if at_least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft(None, (at_least, at_least))  # libjpeg skips the higher DCT coefficients
        image.load()
        return opened(image)
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error


def decode_frames(
    data: bytes, choose: Choose, *, span: Span | None = None, max_pixels: int = MAX_PIXELS
) -> list[Image.Image]:
    """Decode the frames of an animation (GIF, WebP, PNG, AVIF) that `choose` names, each as
    `decode` does. Any other image has one frame.

    With `span` they are those of a part of it. The times at which frames begin are in milliseconds; an
    animation without times has `UNTIMED` of them for each frame. Raises BadSample as `decode`; bomb
    also for more than `MAX_CLIP_PIXELS` pixels of all frames together, outside for a part behind the
    end.
    """
    try:
        image, ends = _animation(data, max_pixels)
        starts = [0, *ends[:-1]]
        end = ends[-1]
        first = 0
        if span is not None:
            refuse_outside(span, end / 1000)
            begin, last = (round(value * 1000) for value in span)
            first = bisect_right(starts, begin) - 1  # it is on show when the part begins
            end = max(min(end, last), begin + 1)
            starts = [begin, *starts[first + 1 : bisect_left(starts, end)]]
        chosen = [first + at for at in choose(starts, end)]
        found = {}
        for at in sorted(set(chosen)):
            image.seek(at)
            found[at] = opened(image.copy())
        return [found[at] for at in chosen]
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error


def animation_pixels(data: bytes, side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Each frame of an animation in order, scaled to `side` x `side`, (side, side, 3) uint8, with the
    second at which it begins; then the second at which the last one ends, with that frame once more.

    Raises BadSample as `decode_frames`.
    """
    try:
        image, ends = _animation(data, MAX_PIXELS)
        pixels = np.zeros(0, np.uint8)
        for at, start in enumerate([0, *ends[:-1]]):
            image.seek(at)
            small = opened(image.copy()).convert("RGB").resize((side, side), Image.Resampling.BOX)
            pixels = np.asarray(small)
            yield start / 1000, pixels
        yield ends[-1] / 1000, pixels
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error


def _animation(data: bytes, max_pixels: int) -> tuple[Image.Image, list[float]]:
    """An animation, and the times in milliseconds at which its frames end."""
    plugin = plugin_of(data)
    if not is_complete(data):  # of a GIF, Pillow would give the frames before the cut
        raise BadSample("truncated", "the animation ends early")
    image = plugin(io.BytesIO(data))
    _refuse_bomb(image, max_pixels)
    count = getattr(image, "n_frames", 1)
    refuse_large_clip(count, image.width, image.height)
    lengths = []
    for at in range(count):  # some plugins read a frame's duration as they decode it
        image.seek(at)
        image.load()
        lengths.append(image.info.get("duration", 0))
    return image, np.cumsum(lengths if any(lengths) else [UNTIMED] * count).tolist()


def refuse_outside(span: Span, seconds: float) -> None:
    """Raise BadSample("outside") for a part of a film of so many seconds that begins behind its end."""
    if not 0 <= span[0] < min(span[1], seconds):
        raise BadSample("outside", f"{span[0]:g} to {span[1]:g} s of a film of {seconds:g} s")


def refuse_large_clip(frames: int, width: int, height: int) -> None:
    """Raise BadSample("bomb") for a clip whose frames together have more than `MAX_CLIP_PIXELS`
    pixels."""
    if frames * width * height > MAX_CLIP_PIXELS:
        raise BadSample(
            "bomb",
            f"{frames:,} frames of {width} x {height} pixels; the limit is {MAX_CLIP_PIXELS:,} pixels of all frames",
        )


def dimensions(data: bytes) -> tuple[int, int]:
    """The width and height of an image as `decode` returns it, read from its header alone; of a
    volume, which is unpacked, those of a slice.

    Raises BadSample as `decode`, but not for pixels that are damaged or missing.

    >>> dimensions(b"")
    Traceback (most recent call last):
    diptych.data.sample.BadSample: zero-byte
    """
    if is_volume(data):
        return middle_slice(read_volume(data)).size
    plugin = plugin_of(data)
    try:
        image = plugin(io.BytesIO(data))
    except Exception as error:
        raise damage_of(data, error) from error
    # Pillow gives the size of a TIFF upright. Of a PNG it decodes the pixels before it gives the EXIF
    # block, which may follow them.
    upright = isinstance(image, TiffImagePlugin.TiffImageFile) or (
        isinstance(image, PngImagePlugin.PngImageFile)
        and not any(chunk in data for chunk in _PNG_EXIF)
    )
    turned = not upright and _turn(image) in _SIDEWAYS
    return (image.height, image.width) if turned else (image.width, image.height)


def opened(image: Image.Image) -> Image.Image:
    """Convert an image that was opened elsewhere to upright RGB or RGBA, as `decode` does.

    Raises BadSample: unsupported.

    >>> opened(Image.new("CMYK", (2, 1))).mode
    'RGB'
    """
    return _upright(_eight_bit_rgb(image))


def damage_of(data: bytes, error: Exception) -> BadSample:
    """What an error of another library means for the file that it read."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadSample("bomb", str(error))
    cut = "truncated" in str(error) or not is_complete(data)
    return BadSample("truncated" if cut else "unreadable", str(error))


def plugin_of(data: bytes) -> type:
    """The Pillow plugin that decodes bytes. Raises BadSample: zero-byte, html, unsupported,
    unreadable."""
    if not data:
        raise BadSample("zero-byte")
    for magic, plugin in _PLUGINS:
        if data.startswith(magic):
            return plugin
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"<"):
        if b"<svg" in start:
            raise BadSample("unsupported", "SVG is not a raster image")
        raise BadSample("html", "a web page, not an image")
    if data[4:8] == b"ftyp":
        return _boxed_plugin(data)
    if data.startswith(_FOREIGN):
        raise BadSample("unsupported", "not JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC")
    raise BadSample("unreadable", "not an image")


def _boxed_plugin(data: bytes) -> type:
    """The plugin of a file made of boxes (AVIF, HEIC, MP4); its first box lists its brands."""
    first = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = {first[at : at + 4] for at in range(0, len(first), 4)}
    if brands & _AVIF:
        try:
            from PIL.AvifImagePlugin import SUPPORTED, AvifImageFile
        except ImportError:
            SUPPORTED = False
            AvifImageFile = None
        if not SUPPORTED or AvifImageFile is None:
            raise BadSample(
                "unsupported",
                "AVIF needs Pillow 11.3 or later; install it with pip install -U pillow",
            )
        return AvifImageFile
    if brands & _HEIC:
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise BadSample(
                "unsupported", "HEIC needs pillow-heif; install it with pip install 'diptych[data]'"
            ) from None
        return HeifImageFile
    raise BadSample("unsupported", "not JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC")


def _refuse_bomb(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # A small image may be part of one enormous tile, which libtiff would allocate.
        tags = image.tag_v2
        pixels = max(pixels, int(tags.get(322, 0)) * int(tags.get(323, 0)))
    if pixels > max_pixels:
        raise BadSample(
            "bomb", f"{image.width} x {image.height} pixels; the limit is {max_pixels:,} pixels"
        )


def refuse_scaled_bomb(
    size: tuple[int, int], scaled: tuple[int, int], max_pixels: int = MAX_PIXELS
) -> None:
    """Raise BadSample("bomb") if scaling an image from `size` to `scaled` (width, height) exceeds
    the pixel limit.

    An image of 1 x 300,000 pixels is small, but scaled to a short side of 224 it has 15 billion.
    The two sides are scaled one after the other, so the intermediate image counts as well.

    >>> refuse_scaled_bomb((640, 480), (298, 224))
    >>> refuse_scaled_bomb((1, 300_000), (224, 67_200_000))
    Traceback (most recent call last):
    diptych.data.sample.BadSample: bomb: 1 x 300000 pixels, scaled to 224 x 67200000; the limit is 89,478,485 pixels
    """
    if max(size[0], scaled[0]) * max(size[1], scaled[1]) > max_pixels:
        raise BadSample(
            "bomb",
            f"{size[0]} x {size[1]} pixels, scaled to {scaled[0]} x {scaled[1]}; the limit is {max_pixels:,} pixels",
        )


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadSample("unsupported", "32-bit integers have no agreed white")
        image = _keep_exif(
            Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)), image
        )
    elif image.mode == "F":
        raise BadSample("unsupported", "floating-point pixels have no agreed white")
    clear = "transparency" in image.info or image.mode in {"RGBA", "RGBa", "LA", "La", "PA"}
    mode = "RGBA" if clear else "RGB"
    return image if image.mode == mode else _keep_exif(image.convert(mode), image)


def _keep_exif(new: Image.Image, old: Image.Image) -> Image.Image:
    """Copy the EXIF block, which `convert` and `fromarray` may drop and which holds the
    orientation."""
    if "exif" in old.info:
        new.info["exif"] = old.info["exif"]
    return new


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transpose that makes an image upright, by its EXIF block."""
    try:
        return _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block does not affect the pixels, so ignore it
        return None


def is_complete(data: bytes) -> bool:
    """Whether the file ends as its format requires, so that a failure is not due to truncation."""
    tail = data[-64:]
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" in tail
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"GIF8"):
        return data.rstrip(b"\0\r\n ").endswith(b";")
    if data.startswith(b"BM"):
        return len(data) >= int.from_bytes(data[2:6], "little")
    if data[4:8] == b"ftyp":
        return _boxes_end(data) <= len(data)
    return True


def _boxes_end(data: bytes) -> int:
    """The offset at which the boxes of a file end, by their sizes."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: to the end of the file
            return len(data)
        at += size
    return at


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a mask as "L": the stored numbers (grey values, or palette indices), not colours.

    Raises BadSample as `decode`, and unsupported if a pixel is not one number of at most 8 bits.
    """
    plugin = plugin_of(data)
    try:
        image = plugin(io.BytesIO(data))
        _refuse_bomb(image, max_pixels)
        if image.mode not in {"1", "L", "P"}:
            raise BadSample(
                "unsupported", f"a mask of mode {image.mode}; a mask has one 8-bit number a pixel"
            )
        return Image.fromarray(np.asarray(image).astype(np.uint8))
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error
