"""Clips: which frames are read, from files and from images, in the readers' contract."""

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.helpers import animation, greys, video
from tests.data.helpers import encoded as encode

from diptych.data.clips import (
    Clip,
    FrameStack,
    MiddleFrame,
    clip_ending,
    evenly,
    images_of,
    stacked,
)
from diptych.data.decode import animation_pixels
from diptych.data.held import HeldImage, encoded
from diptych.data.images import BytesImage, Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.data.views import Augment, ImageView
from diptych.errors import InputError


def levels(clip):
    return [round(np.asarray(frame).mean()) for frame in clip.frames()]


def stack(*values, count=None):
    images = tuple(HeldImage(image) for image in greys(*values))
    return FrameStack(images, count or len(images))


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 64), st.integers(-9, 9)
)
def test_a_frame_is_read_as_often_as_its_share_of_the_time(lengths, count, first):
    ends = first + np.cumsum(lengths)
    starts = [first, *ends[:-1].tolist()]
    chosen = evenly(starts, int(ends[-1]), count)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    for at, length in enumerate(lengths):
        assert abs(chosen.count(at) - count * length / sum(lengths)) <= 1


@given(st.integers(1, 64), st.integers(1, 8))
def test_frames_of_one_length_are_the_middles_of_equal_parts(count, times):
    assert evenly(range(count), count, count) == list(range(count))
    assert evenly([0] * count, 0, count) == list(range(count))  # without durations
    assert evenly(range(count * times), count * times, count) == [
        at * times + times // 2 for at in range(count)
    ]


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})]
)
def test_animations_are_read_by_their_durations(kind, options):
    data = animation(greys(0, 90, 200), kind, duration=[100, 100, 600], **options)
    assert clip_ending(data) == kind.lower()
    assert levels(Clip(BytesImage(data), 8)) == [0, 90, *[200] * 6]
    assert levels(Clip(BytesImage(data), 2)) == [200, 200]


def test_a_gif_that_was_cut_is_truncated_and_a_still_image_does_not_move():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(4)]
    data = animation(noise)
    with pytest.raises(BadSample, match="truncated"):
        Clip(BytesImage(data[: len(data) // 2])).frames()
    still = Clip(BytesImage(encode(noise[0], "PNG")))
    assert {frame.tobytes() for frame in still.frames()} == {noise[0].tobytes()}


@settings(max_examples=30, deadline=None)
@given(
    st.binary(max_size=120),
    st.sampled_from([b"GIF89a", b"RIFF\x20\0\0\0WEBPVP8X", b"\x89PNG\r\n\x1a\n"]),
)
def test_any_bytes_that_begin_as_an_animation_are_frames_or_bad(rest, start):
    with contextlib.suppress(BadSample):
        assert len(Clip(BytesImage(start + rest), 3).frames()) == 3


def test_more_pixels_than_the_limit_in_all_frames_are_refused_by_the_header(monkeypatch):
    monkeypatch.setattr("diptych.data.decode.MAX_CLIP_PIXELS", 2 * 24 * 32)
    with pytest.raises(BadSample, match="bomb"):
        Clip(BytesImage(animation(greys(0, 90, 200)))).frames()


def test_frames_of_images_have_one_size_and_one_kind():
    with pytest.raises(BadSample, match="frame-sizes"):
        FrameStack((*map(HeldImage, greys(1) + greys(2, size=(8, 8))),), 2).frames()
    with pytest.raises(BadSample, match="no-frames"):
        FrameStack(()).frames()
    clear = HeldImage(Image.new("RGBA", (32, 24)))
    assert [frame.mode for frame in FrameStack((clear, HeldImage(greys(1)[0])), 2).frames()] == [
        "RGBA",
        "RGBA",
    ]


def test_a_clip_is_kept_whole_as_a_file_and_its_middle_frame_is_an_image():
    clip = stack(10, 20, 20, 30)
    again = Clip(BytesImage(clip.read()), 4)
    assert levels(again) == levels(clip) == [10, 20, 20, 30]
    middle = images_of(clip)["main"]
    assert np.asarray(middle.decode()).max() == 20
    assert Image.open(io.BytesIO(middle.read())).getpixel((0, 0)) == (20, 20, 20)
    assert levels(Clip(BytesImage(video(greys(20, 60, 100, 140))), 4)) == pytest.approx(
        [20, 60, 100, 140], abs=2
    )


def test_clips_of_python_are_arrays_and_paths_of_videos(tmp_path):
    array = np.stack([np.asarray(frame) for frame in greys(1, 2, 3)])
    assert levels(encoded(array)) == [1, 2, 3]
    path = tmp_path / "a.mp4"
    path.write_bytes(video(greys(*[100] * 3)))
    assert len(encoded(path).frames()) == 8


def test_all_frames_of_a_clip_are_augmented_alike():
    """A view of equal frames is of equal frames; the views of a batch are the frames (B, V, …)."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    clip = FrameStack((HeldImage(noise),) * 3, 3)
    augment = Augment(crop=(0.3, 0.6), colour=0.4, flip=True)
    view = ImageView(preprocess=Preprocess(size=16), role="frames", augment=augment)
    sample = Sample(key="a", source="", images=images_of(clip))
    pixels = view(sample, np.random.default_rng(1), 1.0)["images.main"]
    assert pixels.shape == (3, 3, 16, 16)
    assert (pixels == pixels[:1]).all()
    other = view(sample, np.random.default_rng(2), 1.0)["images.main"]
    assert (pixels != other).any()
    still = view(sample, np.random.default_rng(1), None)["images.main"]
    assert torch.equal(still, Preprocess(size=16).read(clip))
    with pytest.raises(InputError, match="one view of each frame"):
        ImageView(preprocess=Preprocess(size=16), role="frames", count=2)(
            sample, np.random.default_rng(1), 1.0
        )


def test_an_image_beside_clips_is_a_clip_in_which_nothing_moves():
    preprocess = Preprocess(size=16)
    clip = preprocess.read(stack(0, 50, 100))
    image = preprocess.read(MiddleFrame(stack(0, 50, 100)))
    both = stacked([image, clip])
    assert both.shape == (2, 3, 3, 16, 16)
    assert (both[0] == 50).all()
    assert stacked([image, image]).shape == (2, 3, 16, 16)
    with pytest.raises(InputError, match="of 2 and of 3 frames"):
        stacked([clip, clip[:2]])


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_part_of_an_animation_is_a_clip(kind):
    image = BytesImage(animation(greys(0, 90, 200), kind, duration=[100, 300, 600]))
    assert levels(Clip(image, 2, span=(0.05, 0.15))) == [0, 90]
    assert levels(Clip(image, 3, span=(0.1, 0.7))) == [90, 200, 200]
    part = Clip(image, 4, span=(0.3, 0.5))
    assert levels(Clip(BytesImage(part.read()), 4)) == [90, 90, 200, 200]  # as a file of its own
    with pytest.raises(BadSample, match="outside"):
        Clip(image, 2, span=(1.0, 2.0)).frames()
    seen = [(time, round(pixels.mean())) for time, pixels in animation_pixels(image.read(), 2)]
    assert seen == [(0, 0), (0.1, 90), (0.4, 200), (1.0, 200)]
