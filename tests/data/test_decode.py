"""The decoder against damaged, odd and hostile files."""

import contextlib
import io
import struct
import sys
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features
from tests.data.helpers import encoded, photo, tiff

from diptych.data.decode import decode, dimensions
from diptych.data.images import on_ground
from diptych.data.sample import BadSample


def reason(data: bytes, **options) -> str:
    with pytest.raises(BadSample) as caught:
        decode(data, **options)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_each_format_decodes_to_its_pixels(format):
    image = photo()
    options = {"lossless": True} if format == "WEBP" else {}
    got = decode(encoded(image, format, **options))
    assert (got.mode, got.size) == ("RGB", image.size)
    difference = np.abs(np.asarray(got).astype(int) - np.asarray(image)).mean()
    assert difference <= {"JPEG": 6, "GIF": 12}.get(format, 0)


def encoded_boxed(format: str, image: Image.Image, **options) -> bytes:
    """The image in a format that an extra may have to write."""
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    return encoded(image, format, **options)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_avif_and_heic_decode_and_a_cut_one_is_truncated(format):
    image = photo(64, 48)
    data = encoded_boxed(format, image, quality=95)
    got = decode(data)
    assert (got.mode, got.size) == ("RGB", image.size)
    assert np.abs(np.asarray(got).astype(int) - np.asarray(image)).mean() < 6
    assert decode(data, at_least=8).size == image.size
    for share in (0.5, 0.9):
        assert reason(data[: int(len(data) * share)]) == "truncated"
    assert reason(data, max_pixels=1000) == "bomb"


def test_a_turned_avif_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded_boxed("AVIF", photo(64, 48), exif=exif)
    assert decode(turned).size == dimensions(turned) == (48, 64)


def test_heic_without_its_reader_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
    with pytest.raises(
        BadSample, match=r"HEIC needs pillow-heif; install it with pip install 'diptych\[data\]'"
    ) as bad:
        decode(heic)
    assert bad.value.reason == "unsupported"


def test_avif_without_its_reader_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(BadSample, match="AVIF needs Pillow 11.3") as bad:
        decode(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")
    assert bad.value.reason == "unsupported"


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
        (b"\0\0\0\x1cftypmp42\0\0\0\0isommp41", "unsupported"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), "unsupported"),
        (b"\xff\x4f\xff\x51" + bytes(30), "unsupported"),
        (b"%PDF-1.7", "unsupported"),
        (b"not an image at all", "unreadable"),
        (b"RIFF\x04\0\0\0WAVE", "unreadable"),
    ],
)
def test_what_is_no_image_is_named(data, expected):
    assert reason(data) == expected


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_flipped_bytes_never_escape_as_another_exception():
    rng = np.random.default_rng(0)
    for format in ("PNG", "WEBP", "GIF", "JPEG", "TIFF", "BMP", "AVIF", "HEIF"):
        data = encoded_boxed(format, photo())
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(2, len(data), 4):
                damaged[at] = rng.integers(256)
            with contextlib.suppress(BadSample):
                assert decode(bytes(damaged), max_pixels=10_000_000).mode in {"RGB", "RGBA"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]),
)
def test_any_bytes_decode_or_are_bad(data, start):
    with contextlib.suppress(BadSample):
        assert decode(start + data, max_pixels=1_000_000).mode in {"RGB", "RGBA"}


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        tiff(60_000, 60_000, (278, 60_000), (273, 8), (279, 100)),
        tiff(
            16, 16, (322, 65_536), (323, 65_536), (324, 8), (325, 100)
        ),  # a small image cut from one huge tile
        b"BM"
        + struct.pack(
            "<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0
        ),
        b"GIF89a"
        + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0)
        + b",\0\0\0\0`\xea`\xea\0\x08"
        + bytes(20),
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
def test_exif_turns_the_image_upright(orientation, format):
    from PIL import ImageOps

    image = photo(40, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    got = decode(data)
    assert got.size == ((30, 40) if orientation > 4 else (40, 30))
    assert dimensions(data) == got.size
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
