"""Bytes of video files (MP4, MOV, WebM, Matroska, AVI) to frames, by PyAV (extra `video`)."""

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from PIL import Image

from diptych.data.decode import MAX_PIXELS, Choose, damage_of, is_complete, refuse_moving
from diptych.data.sample import BadSample
from diptych.errors import InputError

MOST_SECONDS = 600
"""The longest video, in seconds, that is read: every frame up to the last one used is decoded."""

_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # types of the first box
_STILL = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # images in the same kind of boxes
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
    if data[4:8] in _QUICKTIME and data[8:12] not in _STILL:
        return "mp4"
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    return "avi" if data.startswith(b"RIFF") and data[8:12] == b"AVI " else None


def require_video(what: str) -> None:
    """Raise InputError if PyAV is missing, which `what` needs."""
    if find_spec("av") is None:
        raise InputError(f"{what} needs PyAV; install it with pip install 'diptych[video]'")


def video_size(data: bytes) -> tuple[int, int, int]:
    """The frames of a video, and their width and height, without decoding one. Raises as
    `video_frames`."""
    _, _, size = _listed(data, MAX_PIXELS)
    return size


def video_frames(data: bytes, choose: Choose, *, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """Decode the frames of a video that `choose` names, upright and RGB.

    The times at which frames begin are those stored for each frame, so that the frame rate may
    vary. Raises BadSample: truncated, unreadable, no-frames, bomb (as `decode_frames`), too-long;
    InputError if PyAV is missing.
    """
    starts, end, _ = _listed(data, max_pixels)
    form = video_form(data)
    assert form is not None
    try:
        chosen = choose(starts, end)
        wanted = set(chosen)
        found = {}
        for at, frame in enumerate(_decoded(data, form)):
            if at in wanted:
                found[at] = _upright(frame)
            if len(found) == len(wanted):
                break
    except Exception as error:
        raise damage_of(data, error) from error
    if len(found) < len(wanted):
        raise BadSample("unreadable", f"{len(starts)} frames are listed, and fewer can be decoded")
    return [found[at] for at in chosen]


def _listed(data: bytes, max_pixels: int) -> tuple[list[int], int, tuple[int, int, int]]:
    """What `_times` returns; raises BadSample for what FFmpeg cannot open."""
    require_video("reading a video")
    form = video_form(data)
    assert form is not None, "the caller looks at the first bytes"
    if not is_complete(data):
        raise BadSample("truncated", "the video ends early")
    try:
        return _times(data, form, max_pixels)
    except BadSample:
        raise
    except Exception as error:  # FFmpeg and PyAV raise many kinds
        raise damage_of(data, error) from error


def _opened(data: bytes, form: str) -> Any:
    import av

    return av.open(io.BytesIO(data), format=form)  # named, as other formats may open further files


def _times(data: bytes, form: str, max_pixels: int) -> tuple[list[int], int, tuple[int, int, int]]:
    """When each frame begins, in the order of showing, and when the last one ends, in units of the
    stream; and the number of frames, their width and height. No frame is decoded."""
    with _opened(data, form) as container:
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
            packet for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]
        seconds = float(stream.time_base or 0)
    if not packets:
        raise BadSample("no-frames", "a video without frames")
    size = (len(packets), width, height)
    refuse_moving(*size)
    if any(packet.pts is None for packet in packets):  # as in AVI files
        return list(range(len(packets))), len(packets), size
    starts = sorted(packet.pts for packet in packets)
    end = max(packet.pts + (packet.duration or 0) for packet in packets)
    if (end - starts[0]) * seconds > MOST_SECONDS:
        raise BadSample(
            "too-long",
            f"{(end - starts[0]) * seconds:,.0f} seconds; the limit is {MOST_SECONDS}, so cut it into clips",
        )
    return starts, end, size


def _decoded(data: bytes, form: str) -> Iterator[Any]:
    with _opened(data, form) as container:
        yield from container.decode(container.streams.video[0])


def _upright(frame: Any) -> Image.Image:
    image = frame.to_image()
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)
