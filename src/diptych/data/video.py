"""Bytes of video files (MP4, MOV, WebM, Matroska, AVI) to frames, by PyAV (extra `video`)."""

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.decode import (
    MAX_PIXELS,
    STILLS,
    Choose,
    Span,
    damage_of,
    is_complete,
    refuse_large_clip,
    refuse_outside,
)
from diptych.data.sample import BadSample
from diptych.errors import InputError

MOST_SECONDS = 600
"""The longest video, or part of one, in seconds, that is read as a clip: every frame up to the last one
used is decoded."""

MOST_FILM_SECONDS = 4 * 3600
"""The longest video whose frames are all looked at, one after the other."""

_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # types of the first box
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def video_form(data: bytes) -> str | None:
    """The container of a video by its first bytes, as FFmpeg calls it; None if it is none.

    >>> video_form(b"\\0\\0\\0\\x18ftypisom"), video_form(b"GIF89a")
    ('mp4', None)
    """
    if data[4:8] in _QUICKTIME and data[8:12] not in STILLS:
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if data.startswith(b"RIFF") and data[8:12] == b"AVI " else None


def require_video(what: str) -> None:
    """Raise InputError if PyAV is missing, which `what` needs."""
    if find_spec("av") is None:
        raise InputError(f"{what} needs PyAV; install it with pip install 'diptych[video]'")


@dataclass(frozen=True, slots=True)
class _Listed:
    """The frames that a file lists: when each begins, in the order of showing, when the last one ends,
    and their width and height. Times are in units of `seconds`; where the file stores none (`timed` is
    False) they are numbers of frames."""

    starts: list[int]
    end: int
    width: int
    height: int
    seconds: float
    timed: bool

    def within(self, span: Span) -> "_Listed":
        """The frames on show in a part of the video, whose times are in seconds from its first frame."""
        zero = self.starts[0]
        refuse_outside(span, (self.end - zero) * self.seconds)
        first, last = (zero + round(value / self.seconds) for value in span)
        begin = bisect_right(self.starts, first)  # behind the one on show when the part begins
        starts = [first, *self.starts[begin : bisect_left(self.starts, last)]]
        end = max(min(self.end, last), first + 1)
        return replace(self, starts=starts, end=end)


def video_size(data: bytes, span: Span | None = None) -> tuple[int, int, int]:
    """The frames of a video, or of a part of it, and their width and height, without decoding one.
    Raises as `video_frames`."""
    listed = _listed(data, MAX_PIXELS, span)
    return len(listed.starts), listed.width, listed.height


def video_frames(
    data: bytes, choose: Choose, *, span: Span | None = None, max_pixels: int = MAX_PIXELS
) -> list[Image.Image]:
    """Decode the frames of a video that `choose` names, upright and RGB.

    With `span` they are those of a part of it, in seconds from the first frame; decoding begins at the
    last key frame before. The times at which frames begin are those stored for each frame, so that the
    frame rate may vary. Raises BadSample: truncated, unreadable, no-frames, bomb (as `decode_frames`),
    too-long, outside (a part behind the end); InputError if PyAV is missing.
    """
    listed = _listed(data, max_pixels, span)
    chosen = [listed.starts[at] for at in choose(listed.starts, listed.end)]
    try:
        found = _on_show(data, sorted(set(chosen)), listed.timed, seek=span is not None)
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error
    return [found[time] for time in chosen]


def video_pixels(data: bytes, side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Each frame of a video in order, scaled to `side` x `side`, (side, side, 3) uint8, with the second
    at which it begins; then the second at which the last one ends, with that frame once more.

    Frames are not turned upright. Raises BadSample as `video_frames`, too-long above four hours.
    """
    require_video("reading a video")
    if not is_complete(data):
        raise BadSample("truncated", "the video ends early")
    try:
        listed = _index(data, MAX_PIXELS)
        if (listed.end - listed.starts[0]) * listed.seconds > MOST_FILM_SECONDS:
            raise BadSample("too-long", f"more than {MOST_FILM_SECONDS // 3600} hours; cut it")
        zero = listed.starts[0] if listed.timed else 0
        pixels = None
        with _opened(data) as container:
            for number, frame in enumerate(container.decode(container.streams.video[0])):
                begins = frame.pts if listed.timed and frame.pts is not None else number
                pixels = frame.reformat(width=side, height=side, format="rgb24").to_ndarray()
                yield (begins - zero) * listed.seconds, pixels
        if pixels is None:
            raise BadSample("no-frames", "none of the frames that are listed can be decoded")
        yield (listed.end - listed.starts[0]) * listed.seconds, pixels
    except BadSample:
        raise
    except Exception as error:
        raise damage_of(data, error) from error


def _listed(data: bytes, max_pixels: int, span: Span | None = None) -> _Listed:
    """The frames of a clip, of which none is decoded."""
    require_video("reading a video")
    if not is_complete(data):
        raise BadSample("truncated", "the video ends early")
    try:
        listed = _index(data, max_pixels)
    except BadSample:
        raise
    except Exception as error:  # FFmpeg and PyAV raise many kinds
        raise damage_of(data, error) from error
    if span is not None:
        listed = listed.within(span)
    refuse_large_clip(len(listed.starts), listed.width, listed.height)
    long = (listed.end - listed.starts[0]) * listed.seconds
    if listed.timed and long > MOST_SECONDS:
        raise BadSample(
            "too-long",
            f"{long:,.0f} seconds; the limit is {MOST_SECONDS}, so cut it into clips",
        )
    return listed


def _opened(data: bytes) -> Any:
    import av

    form = video_form(data)
    assert form is not None, "the caller looks at the first bytes"
    return av.open(io.BytesIO(data), format=form)  # named, as other formats may open further files


def _index(data: bytes, max_pixels: int) -> _Listed:
    with _opened(data) as container:
        if not container.streams.video:
            raise BadSample("no-frames", "a file with sound alone")
        stream = container.streams.video[0]
        width = stream.codec_context.width
        height = stream.codec_context.height
        if width * height > max_pixels:
            raise BadSample(
                "bomb", f"{width} x {height} pixels; the limit is {max_pixels:,} pixels a frame"
            )
        packets = [
            (packet.pts, packet.duration or 0)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
        seconds = float(stream.time_base or 0)
        rate = float(stream.average_rate or 0)
    if not packets:
        raise BadSample("no-frames", "a video without frames")
    if any(start is None for start, _ in packets):  # as in AVI files
        each = 1 / rate if rate else 0.0
        return _Listed(list(range(len(packets))), len(packets), width, height, each, timed=False)
    starts = sorted(start for start, _ in packets)
    end = max(start + duration for start, duration in packets)
    return _Listed(starts, end, width, height, seconds, timed=True)


def _on_show(
    data: bytes, times: Sequence[int], timed: bool, seek: bool = False
) -> dict[int, Image.Image]:
    """The frames that are on show at some times, in ascending order.

    A frame that is listed need not be shown (VP8 has such), so the last one before a time counts. With
    `seek`, decoding begins at the key frame before the first time, where the file stores times.
    """
    found: dict[int, Image.Image] = {}
    left = list(times)
    last = None
    with _opened(data) as container:
        stream = container.streams.video[0]
        if seek and timed and left:
            container.seek(left[0], stream=stream)
        for number, frame in enumerate(container.decode(stream)):
            begins = frame.pts if timed and frame.pts is not None else number
            while left and last is not None and begins > left[0]:
                found[left.pop(0)] = _upright(last)
            if not left:
                break
            last = frame
    if last is None:
        raise BadSample("no-frames", "none of the frames that are listed can be decoded")
    return found | {time: _upright(last) for time in left}


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)
