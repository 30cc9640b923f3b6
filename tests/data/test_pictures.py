"""The decoder against damaged, odd and hostile files; the preprocessing against other people's pipelines."""

import contextlib
import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.data import pictures
from diptych.data.pictures import (
    HALF,
    BytesPicture,
    FilePicture,
    MemberPicture,
    Preprocess,
    ZipPicture,
    decode,
    on_ground,
)
from diptych.data.sample import BadSample
from diptych.errors import InputError


def photo(width=40, height=30, seed=0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reason(data: bytes, **options) -> str:
    with pytest.raises(BadSample) as caught:
        decode(data, **options)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A little-endian TIFF header whose tags are all LONG."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (277, 1), *more]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + bytes(64)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_each_format_decodes_to_its_pixels(format):
    image = photo()
    options = {"lossless": True} if format == "WEBP" else {}
    got = decode(encoded(image, format, **options))
    assert (got.mode, got.size) == ("RGB", image.size)
    difference = np.abs(np.asarray(got).astype(int) - np.asarray(image)).mean()
    assert difference <= {"JPEG": 6, "GIF": 12}.get(format, 0)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "JPEG", "TIFF", "BMP"])
def test_a_cut_file_is_truncated(format):
    data = encoded(photo(200, 160), format)
    for share in (0.2, 0.6, 0.9):
        assert reason(data[: int(len(data) * share)]) == "truncated"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "zero-byte"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "html"),
        (b"\xef\xbb\xbf \n<HTML>", "html"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (b"\0\0\0\x1cftypavif", "unsupported"),
        (b"%PDF-1.7", "unsupported"),
        (b"not a picture at all", "unreadable"),
        (b"RIFF\x04\0\0\0WAVE", "unreadable"),
    ],
)
def test_what_is_no_picture_is_named(data, expected):
    assert reason(data) == expected


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_flipped_bytes_never_escape_as_another_exception():
    rng = np.random.default_rng(0)
    for format in ("PNG", "WEBP", "GIF", "JPEG", "TIFF", "BMP"):
        data = encoded(photo(), format)
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(2, len(data), 4):
                damaged[at] = rng.integers(256)
            with contextlib.suppress(BadSample):
                assert decode(bytes(damaged), max_pixels=10_000_000).mode in {"RGB", "RGBA"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"])
)
def test_any_bytes_decode_or_are_bad(data, start):
    with contextlib.suppress(BadSample):
        assert decode(start + data, max_pixels=1_000_000).mode in {"RGB", "RGBA"}


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        tiff(60_000, 60_000, (278, 60_000), (273, 8), (279, 100)),
        tiff(16, 16, (322, 65_536), (323, 65_536), (324, 8), (325, 100)),  # a small picture cut from one huge tile
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0`\xea`\xea\0\x08" + bytes(20),
    ],
    ids=["png", "tiff", "tiff-tile", "bmp", "gif"],
)
def test_a_bomb_is_refused_from_its_header_with_bounded_memory_and_no_warning(data):
    """RELIABILITY 15."""
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    before = process.memory_info().rss
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(data) == "bomb"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
    assert process.memory_info().rss - before < 64_000_000


def test_the_pixel_limit_can_be_lowered():
    assert reason(encoded(photo(40, 30), "PNG"), max_pixels=1199) == "bomb"
    assert decode(encoded(photo(40, 30), "PNG"), max_pixels=1200).size == (40, 30)


def test_an_ifd_that_points_at_itself_ends():
    data = tiff(4, 4, (330, 8))  # SubIFD -> the first IFD
    assert reason(data) in {"truncated", "unreadable"}


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(format):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    got = np.asarray(decode(encoded(Image.fromarray(values), format)))
    assert np.array_equal(got[..., 0], np.round(values / 257).astype(np.uint8))


def test_float_and_32_bit_tiffs_are_unsupported():
    assert reason(encoded(Image.new("F", (4, 4), 0.5), "TIFF")) == "unsupported"
    assert reason(encoded(Image.new("I", (4, 4), 1 << 20), "TIFF")) == "unsupported"


def test_cmyk_becomes_rgb():
    got = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert got.mode == "RGB"
    assert np.allclose(np.asarray(got).mean((0, 1)), (255, 0, 0), atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_the_picture_upright(orientation, format):
    from PIL import ImageOps

    image = photo(40, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    got = decode(data)
    assert got.size == ((30, 40) if orientation > 4 else (40, 30))
    assert np.array_equal(np.asarray(got), np.asarray(expected))


def test_exif_survives_conversion_from_grey_and_cmyk():
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("L", "CMYK"):
        assert decode(encoded(photo(40, 30).convert(mode), "JPEG", exif=exif)).size == (30, 40)
    grey = Image.fromarray(np.zeros((30, 40), np.uint16))
    assert decode(encoded(grey, "PNG", exif=exif)).size == (30, 40)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(np.asarray(decode(data).convert("RGB")), np.asarray(frames[0]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_as_rgba(mode):
    image = Image.new("RGBA", (8, 8), (200, 30, 30, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    got = decode(encoded(image.quantize() if mode == "P" else image.convert(mode), "PNG"))
    assert got.mode == "RGBA"
    assert [got.getpixel((x, 0))[3] for x in (0, 7)] == [0, 255]
    assert on_ground(got, (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def test_pictures_read_from_file_memory_and_tar_pickle_and_agree(tmp_path):
    data = encoded(photo(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "a.tar").write_bytes(b"x" * 7 + data + b"y" * 9)
    pictures = [
        FilePicture(str(tmp_path / "a.png")),
        BytesPicture(data),
        MemberPicture(str(tmp_path / "a.tar"), 7, len(data)),
    ]
    for picture in pictures:
        again = pickle.loads(pickle.dumps(picture))
        assert again.read() == data
        assert np.array_equal(np.asarray(again.decode()), np.asarray(photo()))


def test_files_that_are_gone_or_cut_are_bad_samples(tmp_path):
    (tmp_path / "short.tar").write_bytes(b"abc")
    for picture, expected in [
        (FilePicture(str(tmp_path / "none.png")), "missing"),
        (FilePicture(str(tmp_path)), "unreadable"),
        (MemberPicture(str(tmp_path / "none.tar"), 0, 1), "missing"),
        (MemberPicture(str(tmp_path / "short.tar"), 1, 5), "truncated"),
    ]:
        with pytest.raises(BadSample) as caught:
            picture.decode()
        assert caught.value.reason == expected


SIZES = [(57, 40), (40, 57), (33, 32), (32, 35), (32, 32), (20, 90), (500, 61), (7, 9)]


def test_pictures_in_a_zip_are_read_or_bad(tmp_path, monkeypatch):
    data = encoded(photo(), "PNG")
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.png", data)
    assert ZipPicture(str(path), "in/a.png").read() == data
    assert pickle.loads(pickle.dumps(ZipPicture(str(path), "in/a.png"))).decode(20).size == (40, 30)
    (tmp_path / "b.zip").write_bytes(path.read_bytes()[:-30])
    spoilt = bytearray(path.read_bytes())
    spoilt[60] ^= 255
    (tmp_path / "c.zip").write_bytes(spoilt)
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "a.png").write_bytes(data)
    assert ZipPicture(str(tmp_path / "folder.zip"), "a.png").read() == data
    expected = [("a.zip", "b.png", "missing"), ("no.zip", "a.png", "missing"), ("folder.zip", "b.png", "missing"),
                ("b.zip", "in/a.png", "unreadable"), ("c.zip", "in/a.png", "unreadable")]  # fmt: skip
    for name, member, reason in expected:
        with pytest.raises(BadSample) as caught:
            ZipPicture(str(tmp_path / name), member).decode()
        assert caught.value.reason == reason
    monkeypatch.setattr(pictures, "MAX_PIXELS", len(data) // 8 - 1)
    with pytest.raises(BadSample, match="unpacks to"):
        ZipPicture(str(path), "in/a.png").read()


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
    processor = getattr(models, f"{name}Pil", None) or getattr(models, name)  # the Pillow one, whatever its name
    if kind == "clip":
        options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
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


def test_transparent_pictures_lie_on_the_fill_before_resizing():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert Preprocess(size=8, fill=(10, 20, 30))(image).amax((1, 2)).tolist() == [10, 20, 30]


def test_preprocess_round_trips_through_plain_values_and_refuses_bad_ones():
    ours = Preprocess(size=24, resize="squash", mean=HALF, std=HALF)
    assert Preprocess.from_dict(ours.to_dict()) == ours
    for change, message in [
        ({"siez": 3}, "did you mean 'size'"),
        ({"resize": "squish"}, "did you mean 'squash'"),
        ({"size": 0}, "positive integer"),
        ({"std": [1, 1]}, "three numbers"),
        ({"std": [1, 1, 0]}, "must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            Preprocess.from_dict({**ours.to_dict(), **change})


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 60), height=st.integers(1, 60), ratio=st.floats(1, 3))
def test_bars_bring_a_picture_to_the_ratio_and_leave_it_whole(width, height, ratio):
    image = Image.new("RGB", (width, height), (9, 99, 199))
    padded = pictures.barred(image, ratio)
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
    assert torch.equal(padded(image), plain(pictures.barred(image, 1.25)))
    assert 0.15 < (padded(image) > 127).float().mean() < 0.4
    assert torch.equal(padded(Image.new("RGB", (20, 20), (1, 2, 3))), plain(Image.new("RGB", (20, 20), (1, 2, 3))))
    assert "ratio" not in plain.to_dict()
    assert Preprocess.from_dict(padded.to_dict()) == padded
    assert Preprocess.from_dict(plain.to_dict()) == plain
    with pytest.raises(InputError, match="ratio 0.8 is the long side over the short one"):
        Preprocess(size=16, ratio=0.8)
