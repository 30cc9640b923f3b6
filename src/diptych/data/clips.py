"""Clips: several frames in place of one image, from videos, animations and folders of images.

A clip is an image of a sample, of role `frames`. Its `frames()` are V images of one size, spread
evenly over its time. Readers of images alone see the sample's image `main`, which is the middle
frame unless the source has another.

Dimensions: V frames, N clips, H x W pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.decode import UNTIMED, Choose, Span, decode_frames
from diptych.data.endings import ANIMATED, VIDEOS, ending
from diptych.data.png import png_of
from diptych.data.sample import BadSample, EncodedImage
from diptych.data.video import video_form, video_frames
from diptych.errors import InputError

FRAMES = 8
"""How many frames of a clip are read by default."""

MOST_FRAMES = 256


@runtime_checkable
class AnyClip(Protocol):
    """A clip, as an image of a sample."""

    def frames(self, at_least: int | None = None) -> list[Image.Image]:
        """The V frames, RGB, or all RGBA, of one size; raises BadSample. `at_least` is that of
        `EncodedImage.decode`."""
        ...

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle frame."""
        ...

    def read(self) -> bytes:
        """The clip as a file."""
        ...


def evenly(starts: Sequence[float], end: float, count: int) -> list[int]:
    """The frames that are on show in the middle of each of `count` equal parts of a clip's time.

        t_v = s_0 + (2 v + 1) (end - s_0) / (2 count),    v = 0 … count - 1

    Frame i is on show from `starts[i]` to the start of the next one, the last one to `end`.

    >>> evenly([0, 1, 2, 3, 4, 5], 6, 3), evenly([0, 1, 9], 10, 5)
    ([1, 3, 5], [1, 1, 1, 1, 2])
    """
    first = starts[0]
    if end <= starts[-1]:  # of frames without durations
        starts = range(len(starts))
        first = 0
        end = len(starts)
    times = [first + (2 * at + 1) * (end - first) / (2 * count) for at in range(count)]
    return (np.searchsorted(np.asarray(starts), times, side="right") - 1).tolist()


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip in one file: a video, or an animation such as a GIF, or with `span` a part of a film. An
    image of one frame is a clip in which nothing moves."""

    image: EncodedImage
    count: int = FRAMES
    span: Span | None = None

    def frames(self, at_least: int | None = None) -> list[Image.Image]:
        """The frames, decoded from the file."""
        return _alike(self._decoded(partial(evenly, count=self.count)))

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle frame; those behind it are not decoded."""
        [frame] = self._decoded(
            lambda starts, end: evenly(starts, end, self.count)[self.count // 2 :][:1]
        )
        return frame

    def _decoded(self, choose: Choose) -> list[Image.Image]:
        data = self.image.read()
        read = decode_frames if video_form(data) is None else video_frames
        return read(data, choose, span=self.span)

    def read(self) -> bytes:
        """The file's bytes; of a part of a film an animated PNG file of its frames."""
        return self.image.read() if self.span is None else animated(self.frames())


@dataclass(frozen=True, slots=True)
class FrameStack:
    """A clip whose frames are images of their own, at equal distances in time."""

    images: tuple[EncodedImage, ...]
    count: int = FRAMES

    def frames(self, at_least: int | None = None) -> list[Image.Image]:
        """The frames; no other image is decoded."""
        chosen = self._chosen()
        found = {at: self.images[at].decode(at_least) for at in dict.fromkeys(chosen)}
        return _alike([found[at] for at in chosen])

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The middle frame."""
        return self.images[self._chosen()[self.count // 2]].decode(at_least)

    def read(self) -> bytes:
        """The frames as an animated PNG file."""
        return animated(self.frames())

    def _chosen(self) -> list[int]:
        if not self.images:
            raise BadSample("no-frames", "a clip without an image")
        return evenly(range(len(self.images)), len(self.images), self.count)


@dataclass(frozen=True, slots=True)
class Pages:
    """Several images of a sample that are read together, as the frames of a clip are; each has a size of
    its own, and readers of images alone see the first."""

    images: tuple[EncodedImage, ...]

    def frames(self, at_least: int | None = None) -> list[Image.Image]:
        """The images, in order."""
        return [image.decode(at_least) for image in self.images]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The first image."""
        return self.images[0].decode(at_least)

    def read(self) -> bytes:
        """The first image as a file."""
        return self.images[0].read()


@dataclass(frozen=True, slots=True)
class MiddleFrame:
    """The middle frame of a clip, as an image."""

    clip: AnyClip

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The frame."""
        return self.clip.decode(at_least)

    def read(self) -> bytes:
        """The frame as a PNG file."""
        return png_of(self.decode())


def animated(frames: Sequence[Image.Image]) -> bytes:
    """An animated PNG file of frames, each of `UNTIMED` milliseconds.

    >>> from diptych.data.images import BytesImage
    >>> frames = [Image.new("L", (4, 4), shade) for shade in range(6)]
    >>> clip = Clip(BytesImage(animated(frames)), 2, span=(0.1, 0.5))
    >>> len(clip.frames())
    2
    """
    buffer = io.BytesIO()
    first, *others = frames
    first.save(buffer, "PNG", save_all=True, append_images=others, duration=UNTIMED)
    return buffer.getvalue()


def is_clip(image: object) -> TypeGuard[AnyClip]:
    """Whether an image of a sample is a clip.

    >>> is_clip(FrameStack(())), is_clip(MiddleFrame(FrameStack(())))
    (True, False)
    """
    return isinstance(image, AnyClip)


def images_of(clip: AnyClip) -> dict[str, EncodedImage]:
    """The images of a sample that is a clip: `main`, its middle frame, and `frames`."""
    return {"main": MiddleFrame(clip), "frames": clip}


def images_of_any(image: EncodedImage) -> dict[str, EncodedImage]:
    """The images of a sample with one image, which may be a clip."""
    return images_of(image) if is_clip(image) else {"main": image}


def images_of_file(
    name: str, image: EncodedImage, frames: int | None = None
) -> dict[str, EncodedImage]:
    """The images of a sample with one file: `main`, and `frames` if it is a clip by its name.

    GIF and WebP files are clips only where `frames` says how many frames to read of one.

    >>> from diptych.data.images import FileImage
    >>> sorted(images_of_file("a.mp4", FileImage("a.mp4"))), sorted(images_of_file("a.gif", FileImage("a.gif")))
    (['frames', 'main'], ['main'])
    """
    kind = ending(name)
    if kind in VIDEOS or (frames is not None and kind in ANIMATED):
        return images_of(Clip(image, FRAMES if frames is None else frames))
    return {"main": image}


def clip_ending(data: bytes) -> str:
    """The extension of a clip's file, by its first bytes."""
    form = video_form(data)
    if form is not None:
        return {"matroska": "mkv"}.get(form, form)
    return "gif" if data.startswith(b"GIF8") else "webp" if data.startswith(b"RIFF") else "png"


def check_frames(frames: int | None, what: str) -> None:
    """Raise InputError for a number of frames that cannot be read of a clip."""
    if frames is not None and not 1 <= frames <= MOST_FRAMES:
        raise InputError(
            f"{what}: frames={frames} is how many frames are read of a clip; give 1 to {MOST_FRAMES}"
        )


def stacked(pixels: Sequence[Tensor]) -> Tensor:
    """Stack images (3, H, W) and clips (V, 3, H, W); beside clips, an image is a clip in which
    nothing moves.

    Raises InputError for clips of different numbers of frames.

    >>> stacked([torch.zeros(3, 4, 4), torch.zeros(8, 3, 4, 4)]).shape
    torch.Size([2, 8, 3, 4, 4])
    """
    most = max(each.ndim for each in pixels)
    counts = sorted({len(each) for each in pixels if each.ndim == most})
    if len({each.ndim for each in pixels}) > 1:
        pixels = [
            each if each.ndim == most else each.expand(counts[-1], *each.shape) for each in pixels
        ]
    if most == 4 and len(counts) > 1:
        raise InputError(
            f"clips of {counts[0]} and of {counts[-1]} frames cannot be compared; read both with the same frames=N"
        )
    return torch.stack(list(pixels))


def _alike(frames: list[Image.Image]) -> list[Image.Image]:
    """The frames, all RGBA if one is; raises BadSample if their sizes differ."""
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        shown = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
        raise BadSample("frame-sizes", f"frames of {shown} pixels in one clip")
    if len({frame.mode for frame in frames}) > 1:
        return [frame.convert("RGBA") for frame in frames]
    return frames
