"""Images for the tests of the decoder and of the preprocessing, and memory for those of the
loader."""

import ctypes
import gc
import io
import struct
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import psutil
from PIL import Image

from diptych.testing import Toy


def photo(width=40, height=30, seed=0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def video(
    frames: Sequence[Image.Image],
    form: str = "mp4",
    codec: str = "libx264",
    times: Sequence[int] | None = None,
) -> bytes:
    """A video file of frames that are shown from `times`, in tenths of a second."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for time, image in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_image(image)
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def greys(*levels: int, size=(32, 24)) -> list[Image.Image]:
    """Frames of one grey each."""
    return [Image.new("RGB", size, (level, level, level)) for level in levels]


def animation(frames: Sequence[Image.Image], format: str = "GIF", **options) -> bytes:
    """An animated image file of frames."""
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A little-endian TIFF header whose tags are all LONG."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1), *more]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", 0)
        + bytes(64)
    )


class Ready:
    """A small image that is decoded already."""

    image = photo(8, 8)

    def decode(self, at_least=None):
        return self.image


class Still(Toy):
    """The toy with such images: many samples in a short time."""

    def __getitem__(self, index):
        return replace(super().__getitem__(index), images={"main": Ready()})


def held(processes=None) -> int:
    """Bytes that processes hold alone, by default this one; what it has freed goes back to the
    system first, or leaks would fill it unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return sum(each.memory_full_info().uss for each in processes or [psutil.Process()])
