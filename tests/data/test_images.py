"""Images wherever they lie; the preprocessing against other people's pipelines."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.helpers import encoded, photo

from diptych.data import images
from diptych.data.images import (
    HALF,
    BytesImage,
    FileImage,
    MemberImage,
    Preprocess,
    ZipImage,
)
from diptych.data.sample import BadSample
from diptych.errors import InputError


def test_luma_is_added_in_one_order():
    """Bit-equal to single products and sums, which every processor rounds alike; a matrix product
    is not."""
    pixels = np.random.default_rng(0).uniform(0, 255, (40, 3)).astype(np.float32)
    red, green, blue = (np.float32(weight) for weight in (0.299, 0.587, 0.114))
    slow = [(pixel[0] * red + pixel[1] * green) + pixel[2] * blue for pixel in pixels]
    assert images.luma(pixels).tolist() == [float(value) for value in slow]
    assert images.luma(pixels.reshape(5, 8, 3)).shape == (5, 8)


def test_images_read_from_file_memory_and_tar_pickle_and_agree(tmp_path):
    data = encoded(photo(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "a.tar").write_bytes(b"x" * 7 + data + b"y" * 9)
    images = [
        FileImage(str(tmp_path / "a.png")),
        BytesImage(data),
        MemberImage(str(tmp_path / "a.tar"), 7, len(data)),
    ]
    for image in images:
        again = pickle.loads(pickle.dumps(image))
        assert again.read() == data
        assert np.array_equal(np.asarray(again.decode()), np.asarray(photo()))


def test_files_that_are_gone_or_cut_are_bad_samples(tmp_path):
    (tmp_path / "short.tar").write_bytes(b"abc")
    for image, expected in [
        (FileImage(str(tmp_path / "none.png")), "missing"),
        (FileImage(str(tmp_path)), "unreadable"),
        (MemberImage(str(tmp_path / "none.tar"), 0, 1), "missing"),
        (MemberImage(str(tmp_path / "short.tar"), 1, 5), "truncated"),
    ]:
        with pytest.raises(BadSample) as caught:
            image.decode()
        assert caught.value.reason == expected


def test_a_thin_image_is_a_bomb_where_scaling_would_make_it_one():
    # 661 bytes on disk; with a short side of 32 it would be 32 x 9,600,000.
    thin = BytesImage(encoded(Image.new("RGB", (1, 300_000)), "PNG"))
    for preprocess in (
        Preprocess(size=32),
        Preprocess(size=32, ratio=1.25),
        Preprocess(size=400, resize="squash"),  # 400 x 300,000 between the two steps
    ):
        for exact in (True, False):
            with pytest.raises(BadSample, match="1 x 300000 pixels, scaled to") as caught:
                preprocess.read(thin, exact=exact)
            assert caught.value.reason == "bomb"
    assert Preprocess(size=32, resize="longest").read(thin).shape == (3, 32, 32)


def test_bomb_limits_do_not_touch_ordinary_panoramas():
    assert Preprocess(size=32).read(
        BytesImage(encoded(Image.new("L", (3000, 20)), "PNG"))
    ).shape == (3, 32, 32)


SIZES = [(57, 40), (40, 57), (33, 32), (32, 35), (32, 32), (20, 90), (500, 61), (7, 9)]


def test_images_in_a_zip_are_read_or_bad(tmp_path, monkeypatch):
    data = encoded(photo(), "PNG")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.png", data)
    assert ZipImage(str(path), "in/a.png").read() == data
    assert pickle.loads(pickle.dumps(ZipImage(str(path), "in/a.png"))).decode(20).size == (40, 30)
    (tmp_path / "b.zip").write_bytes(path.read_bytes()[:-30])
    spoilt = bytearray(path.read_bytes())
    spoilt[60] ^= 255
    (tmp_path / "c.zip").write_bytes(spoilt)
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "a.png").write_bytes(data)
    assert ZipImage(str(tmp_path / "folder.zip"), "a.png").read() == data
    expected = [("a.zip", "b.png", "missing"), ("no.zip", "a.png", "missing"), ("folder.zip", "b.png", "missing"),
                ("b.zip", "in/a.png", "unreadable"), ("c.zip", "in/a.png", "unreadable")]  # fmt: skip
    for name, member, reason in expected:
        with pytest.raises(BadSample) as caught:
            ZipImage(str(tmp_path / name), member).decode()
        assert caught.value.reason == reason
    monkeypatch.setattr(images, "MOST_BYTES", len(data) - 1)
    with pytest.raises(BadSample, match="unpacks to"):
        ZipImage(str(path), "in/a.png").read()


@pytest.mark.parity
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_open_clip(resize, interpolation):
    transform = pytest.importorskip("open_clip.transform")
    theirs = transform.image_transform(
        32, False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize, interpolation=interpolation
    )
    ours = Preprocess(size=32, resize=resize, interpolation=interpolation, fill=(0, 0, 0))
    for seed, size in enumerate(SIZES):
        image = photo(*size, seed)
        assert torch.equal(ours(image), (theirs(image) * 255).round().to(torch.uint8)), size


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pixels_equal_transformers(kind):
    models = pytest.importorskip(f"transformers.models.{kind}")
    name = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[kind]
    processor = getattr(models, f"{name}Pil", None) or getattr(
        models, name
    )  # the Pillow one, whatever its name
    if kind == "clip":
        options = {
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        }
        ours = Preprocess(size=32, crop="floor")
    else:
        options = {"size": {"height": 32, "width": 32}, "resample": 3}
        ours = Preprocess(size=32, resize="squash", mean=HALF, std=HALF)
    theirs = processor(do_normalize=False, do_rescale=False, **options)
    for seed, size in enumerate(SIZES):
        image = photo(*size, seed)
        expected = torch.as_tensor(np.asarray(theirs(image)["pixel_values"][0]))
        assert torch.equal(ours(image), expected.to(torch.uint8)), size


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 80), height=st.integers(1, 80), size=st.integers(1, 40))
def test_every_shape_gives_the_asked_size(resize, width, height, size):
    got = Preprocess(size=size, resize=resize)(Image.new("RGB", (width, height), "red"))
    assert (got.shape, got.dtype) == ((3, size, size), torch.uint8)


def test_transparent_images_lie_on_the_fill_before_resizing():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert Preprocess(size=8, fill=(10, 20, 30))(image).amax((1, 2)).tolist() == [10, 20, 30]


def test_preprocess_round_trips_through_plain_values_and_refuses_bad_ones():
    ours = Preprocess(size=24, resize="squash", mean=HALF, std=HALF)
    assert Preprocess.from_dict(ours.to_dict()) == ours
    for change, message in [
        ({"siez": 3}, "did you mean 'size'"),
        ({"resize": "squish"}, "did you mean 'squash'"),
        ({"size": 0}, "positive integer"),
        ({"std": [1, 1]}, "it must be .a number, a number, a number."),
        ({"std": [1, 1, 0]}, "must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            Preprocess.from_dict({**ours.to_dict(), **change})


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), ratio=st.floats(1, 3))
def test_bars_bring_a_image_to_the_ratio_and_leave_it_whole(width, height, ratio):
    image = Image.new("RGB", (width, height), (9, 99, 199))
    padded = images.barred(image, ratio)
    long, short = max(padded.size), min(padded.size)
    assert long == max(width, height)
    if max(width, height) < ratio * min(width, height):
        assert padded is image
        return
    assert short - 2 < long / ratio + 1e-6  # bars are of whole pixels, as many on each side
    assert short > long / ratio - 2
    values = np.array(padded)
    left, top = (padded.width - width) // 2, (padded.height - height) // 2
    assert (values[top : top + height, left : left + width] == (9, 99, 199)).all()
    assert (values.sum(2) > 0).sum() == width * height


def test_a_ratio_pads_before_scaling_and_is_told_only_where_there_is_one():
    image = Image.new("RGB", (100, 20), (255, 255, 255))
    plain, padded = Preprocess(size=16), Preprocess(size=16, ratio=1.25)
    assert (plain(image) == 255).all()
    assert torch.equal(padded(image), plain(images.barred(image, 1.25)))
    assert 0.15 < (padded(image) > 127).float().mean() < 0.4
    assert torch.equal(
        padded(Image.new("RGB", (20, 20), (1, 2, 3))), plain(Image.new("RGB", (20, 20), (1, 2, 3)))
    )
    assert "ratio" not in plain.to_dict()
    assert Preprocess.from_dict(padded.to_dict()) == padded
    assert Preprocess.from_dict(plain.to_dict()) == plain
    with pytest.raises(InputError, match="ratio 0.8 is the long side over the short one"):
        Preprocess(size=16, ratio=0.8)


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (289, 289), (90, 1000)])
def test_a_margin_is_scaled_and_cropped_away_as_torchvision_does_it(width, height):
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    resize = v2.Resize(346, interpolation=v2.InterpolationMode.BICUBIC)
    expected = v2.functional.pil_to_tensor(v2.CenterCrop(289)(resize(image)))
    with_margin = Preprocess(size=289, margin=346 / 289)
    assert torch.equal(with_margin(image), expected)
    assert with_margin.least() == 692
    squashed = Preprocess(size=10, margin=1.5, resize="squash")
    assert squashed.scaled(40, 20) == (15, 15)
    assert squashed(image).shape == (3, 10, 10)


def test_a_margin_is_told_only_where_there_is_one():
    plain, wide = Preprocess(size=8), Preprocess(size=8, margin=1.25)
    assert "margin" not in plain.to_dict()
    assert Preprocess.from_dict(wide.to_dict()) == wide
    assert Preprocess.from_dict(plain.to_dict()) == plain
    for bad in ({"margin": 0.9}, {"margin": float("nan")}, {"margin": 1.2, "resize": "longest"}):
        with pytest.raises(InputError, match="preprocess margin"):
            Preprocess(size=8, **bad)


def test_padding_has_the_median_colour_of_the_border():
    pixels = np.full((8, 20, 3), (200, 190, 180), np.uint8)
    pixels[2:6, 3:17] = 0  # a word, that does not touch the border
    pixels[0, :6] = 255  # and a stain that does
    preprocess = Preprocess(size=20, resize="longest", fill="border")
    found = preprocess(Image.fromarray(pixels))
    assert found[:, 0, 0].tolist() == found[:, -1, -1].tolist() == [200, 190, 180]
    assert found[:, 6:14].permute(1, 2, 0).numpy().tolist() == pixels.tolist()
    again = Preprocess.from_dict(preprocess.to_dict())
    assert again == preprocess
    clear = Image.new("RGBA", (20, 8), (0, 0, 0, 0))
    assert preprocess(clear).unique().tolist() == [255], "transparent images lie on white"
    with pytest.raises(InputError, match="needs three numbers"):
        Preprocess(size=20, fill="edge")


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (50, 200), (128, 32), (40, 90)])
@pytest.mark.parametrize("size", [(16, 64), (48, 20)])
def test_images_of_two_sides_have_them_and_show_a_box_of_their_proportions(
    resize, width, height, size
):
    prepare = Preprocess(size=size, resize=resize)
    image = Image.new("RGB", (width, height))
    for exact in (True, False):
        assert prepare(image, exact=exact).shape == (3, *size)
    x0, y0, x1, y1 = prepare.seen(width, height)
    if resize == "squash":
        assert (x0, y0, x1, y1) == (0, 0, width, height)
        return
    # whole pixels of the scaled image: a side may be off by one of them
    off = 1.5 * max(1 / size[0], 1 / size[1])
    assert (y1 - y0) / (x1 - x0) == pytest.approx(size[0] / size[1], rel=off)
    inside = x0 >= -1 and y0 >= -1 and x1 <= width + 1 and y1 <= height + 1
    around = x0 <= 1 and y0 <= 1 and x1 >= width - 1 and y1 >= height - 1
    assert inside if resize == "shortest" else around


def test_a_size_of_two_equal_sides_is_one_number():
    assert Preprocess(size=(32, 32)) == Preprocess(size=32)
    assert Preprocess(size=[16, 64]).to_dict()["size"] == [16, 64]
    assert Preprocess.from_dict(Preprocess(size=(16, 64)).to_dict()) == Preprocess(size=(16, 64))
    for bad in ((16,), (16, 0), (16, 2.5), (1, 2, 3), True):
        with pytest.raises(InputError, match="positive integer, or"):
            Preprocess(size=bad)
    with pytest.raises(InputError, match="16 x 64 pixels"):
        _ = Preprocess(size=(16, 64)).side


def test_what_is_cropped_for_two_sides_is_the_middle():
    """A ramp along x: of an image of 4 x 12, a strip of 2 x 2 proportions shows columns 4 to 8."""
    ramp = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None], 4, 0).repeat(3, 2)
    found = Preprocess(size=(4, 6))(Image.fromarray(ramp))
    assert found[0, 0].tolist() == [3, 4, 5, 6, 7, 8]
