"""Video files: the right frames at the right times, upright, and damage by its reason."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.helpers import greys, video

from diptych.data import video as module
from diptych.data.sample import BadSample
from diptych.data.video import video_frames, video_pixels
from diptych.errors import InputError

LEVELS = tuple(range(20, 240, 20))


def levels(data, *which):
    return [
        round(np.asarray(frame).mean() / 20) * 20
        for frame in video_frames(data, lambda starts, end: which)
    ]


def reason(data):
    with pytest.raises(BadSample) as caught:
        video_frames(data, lambda starts, end: range(len(starts)))
    return caught.value.reason


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx"), ("matroska", "libx264"), ("avi", "mpeg4")],
)  # fmt: skip
def test_any_frame_of_a_video_is_the_one_that_was_written(form, codec):
    data = video(greys(*LEVELS), form, codec)
    assert levels(data, 0, 4, 4, 10) == [20, 100, 100, 220]


def test_the_times_of_frames_are_those_that_the_file_stores():
    seen = {}

    def choose(starts, end):
        seen["gaps"] = np.diff([*starts, end]) / (starts[1] - starts[0])
        return [0]

    video_frames(video(greys(20, 40, 60), times=[0, 1, 9]), choose)
    assert seen["gaps"].tolist()[:2] == [1, 8]


def test_a_video_that_was_turned_by_its_metadata_is_read_upright():
    shown = Image.new("RGB", (32, 64))
    shown.paste((255, 0, 0), (0, 0, 32, 32))
    stored = shown.transpose(Image.Transpose.ROTATE_90)  # a telephone held upright films so
    data = video([stored] * 2)
    at = data.index(b"tkhd") + 44  # the matrix of the track
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    [frame] = video_frames(data[:at] + turned + data[at + 36 :], lambda starts, end: [0])
    assert frame.size == (32, 64)
    pixels = np.asarray(frame).astype(int)
    assert pixels[8, 16, 0] > 200 > 60 > pixels[56, 16, 0]


def test_damaged_videos_are_counted_by_their_reason(monkeypatch):
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(12)]
    data = video(noise)
    assert reason(data[: len(data) // 2]) == reason(data[:-20]) == "truncated"
    middle = len(data) // 3
    # over several frames: of damage inside of one a decoder with threads may conceal the error
    assert reason(data[:middle] + bytes(1600) + data[middle + 1600 :]) == "unreadable"
    assert reason(data[:4] + b"ftyp" + bytes(200)) in ("truncated", "unreadable")
    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    assert reason(data) == "too-long"
    monkeypatch.setattr("diptych.data.decode.MAX_CLIP_PIXELS", 11 * 24 * 32)
    assert reason(data) == "bomb"


def test_a_file_of_sound_alone_has_no_frames():
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert reason(buffer.getvalue()) == "no-frames"


@settings(max_examples=20, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"\0\0\0\x10ftypisom\0\0\0\0", b"\x1a\x45\xdf\xa3"])
)
def test_any_bytes_that_begin_as_a_video_are_bad(rest, start):
    assert reason(start + rest) in ("truncated", "unreadable", "no-frames")


def test_without_pyav_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"diptych\[video\]"):
        video_frames(video(greys(20, 40)), lambda starts, end: [0])


@pytest.mark.parametrize(
    ("form", "codec"), [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")]
)
def test_a_part_of_a_video_has_the_frames_that_are_on_show_in_it(form, codec, monkeypatch):
    monkeypatch.setattr(module, "MOST_SECONDS", 0.5)  # of the part, not of the film
    data = video(greys(*LEVELS), form, codec)

    def part(span):
        frames = video_frames(data, lambda starts, end: range(len(starts)), span=span)
        return [round(np.asarray(frame).mean() / 20) * 20 for frame in frames]

    assert part((0.3, 0.6)) == [80, 100, 120]
    assert part((0.35, 0.55)) == [80, 100, 120]
    assert part((1.0, 9.0)) == [220]
    assert module.video_size(data, (0.3, 0.6)) == (3, 32, 24)
    for span in ((1.2, 1.4), (0.4, 0.4), (-0.1, 0.2)):
        with pytest.raises(BadSample, match="outside"):
            part(span)


def test_each_frame_of_a_film_is_looked_at_with_its_time(monkeypatch):
    data = video(greys(20, 200, 60), times=[0, 1, 9])
    seen = [
        (round(time, 2), round(pixels.mean() / 20) * 20) for time, pixels in video_pixels(data, 4)
    ]
    assert seen[:3] == [(0, 20), (0.1, 200), (0.9, 60)]
    assert seen[3][0] > 0.9  # the end
    assert next(video_pixels(data, 4))[1].shape == (4, 4, 3)
    with pytest.raises(BadSample, match="truncated"):
        next(video_pixels(data[:-20], 4))
    monkeypatch.setattr(module, "MOST_FILM_SECONDS", 0.5)
    with pytest.raises(BadSample, match="too-long"):
        next(video_pixels(data, 4))
