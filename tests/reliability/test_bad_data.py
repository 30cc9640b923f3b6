"""Bad data of every format: each row ends in one line that says what to do, or in a counted bad
sample, and at once.

A row is a name, how the input is made, and what must come of it: `says`, a part of the one line
with which `diptych check` refuses the source (exit code 2), or `counts`, the reasons under which
reading all of it counts bad samples.
"""

import io
import json
import os
import pickle
import socket
import struct
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.data.helpers import tiff

from diptych.cli import main
from diptych.data.check import check
from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source

SECONDS = 1.0  # of CPU that a row may take
PREPROCESS = Preprocess(size=32)


@dataclass(frozen=True, kw_only=True)
class Row:
    """`make(folder)` writes the input into an empty folder and gives the source's name."""

    name: str
    make: Callable[[Path], object]
    says: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    good: int = 1  # samples that are whole


@lru_cache
def image(
    kind: str = "PNG", size: tuple[int, int] = (12, 9), mode: str = "RGB", **options: object
) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


# Images


def images(**files: bytes) -> Callable[[Path], Path]:
    """A folder of `good.png` and other files; two underscores are a dot."""

    def make(folder: Path) -> Path:
        (folder / "good.png").write_bytes(image())
        for name, data in files.items():
            (folder / name.replace("__", ".")).write_bytes(data)
        return folder

    return make


def png(width: int, height: int, rows: bytes = b"", *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels with these rows (each behind a byte for its filter), and chunks before
    them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    extra = b"".join(chunk(*each) for each in more)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    data = image("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def gif_of(width: int, height: int) -> bytes:
    return patched(image("GIF"), 6, struct.pack("<HH", width, height))


def webp_of(width: int, height: int) -> bytes:
    """An extended WebP whose canvas has another size."""
    data = image("WEBP", exif=b"x")
    at = data.index(b"VP8X") + 12
    return patched(data, at, (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def bmp_of(width: int, height: int) -> bytes:
    return patched(image("BMP"), 18, struct.pack("<ii", width, height))


def avif_of(width: int, height: int) -> bytes:
    data = image("AVIF")
    return patched(data, data.index(b"ispe") + 8, struct.pack(">II", width, height))


def cut(kind: str) -> bytes:
    data = image(kind, (60, 50))
    return data[: len(data) // 2]


def pipe(folder: Path, name: str = "x.png") -> Path:
    os.mkfifo(folder / name)
    return folder / name


def image_pipe(folder: Path) -> Path:
    pipe(folder)
    return images()(folder)


def image_device(folder: Path) -> Path:
    (folder / "x.png").symlink_to("/dev/zero")
    return images()(folder)


def image_of_terabytes(folder: Path) -> Path:
    with (folder / "x.png").open("wb") as file:
        file.truncate(1 << 36)  # sparse: it takes no room
    return images()(folder)


def image_socket(folder: Path) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("x.png")
    finally:
        os.chdir(here)
    return images()(folder)


def dangling(folder: Path) -> Path:
    (folder / "x.png").symlink_to("nowhere.png")
    return images()(folder)


IMAGES = [
    Row(name="an empty file", make=images(x__png=b""), counts={"zero-byte": 1}),
    Row(name="a web page", make=images(x__jpg=b"<!doctype html><p>404"), counts={"html": 1}),
    Row(
        name="an SVG",
        make=images(x__png=b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        counts={"unsupported": 1},
    ),
    Row(name="a PDF", make=images(x__jpg=b"%PDF-1.7"), counts={"unsupported": 1}),
    Row(name="a JPEG 2000", make=images(x__jp2=b"x"), counts={"unsupported": 1}),
    Row(
        name="a film as a HEIC",
        make=images(x__heic=b"\0\0\0\x10ftypmp42isom"),
        counts={"unsupported": 1},
    ),
    Row(name="noise", make=images(x__jpg=bytes(range(7, 200))), counts={"unreadable": 1}),
    *[
        Row(name=f"a cut {kind}", make=images(x__png=cut(kind)), counts={"truncated": 1})
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
    ],
    Row(name="a PNG bomb", make=images(x__png=png(100_000, 100_000)), counts={"bomb": 1}),
    Row(name="a JPEG bomb", make=images(x__jpg=jpeg_of(65_000, 65_000)), counts={"bomb": 1}),
    Row(name="a GIF bomb", make=images(x__gif=gif_of(65_000, 65_000)), counts={"bomb": 1}),
    Row(name="a WebP bomb", make=images(x__webp=webp_of(16_384, 16_384)), counts={"bomb": 1}),
    Row(name="a BMP bomb", make=images(x__bmp=bmp_of(100_000, 100_000)), counts={"bomb": 1}),
    Row(
        name="a TIFF bomb",
        make=images(x__tif=tiff(60_000, 60_000, (278, 60_000), (273, 8), (279, 100))),
        counts={"bomb": 1},
    ),
    Row(
        name="a TIFF of one enormous tile",
        make=images(x__tif=tiff(16, 16, (322, 65_536), (323, 65_536), (324, 8), (325, 100))),
        counts={"bomb": 1},
    ),
    Row(
        name="a PNG of 1 x 300,000",
        make=images(x__png=png(1, 300_000, bytes(600_000))),
        counts={"bomb": 1},
    ),
    Row(
        name="a PNG of 300,000 x 1",
        make=images(x__png=png(300_000, 1, bytes(300_001))),
        counts={"bomb": 1},
    ),
    Row(
        name="a text bomb in a PNG",
        make=images(
            x__png=png(2, 2, bytes(6), (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9)))
        ),
        counts={"unreadable": 1},
    ),
    Row(name="a PNG of no pixels", make=images(x__png=png(0, 0)), counts={"unreadable": 1}),
    Row(name="an image that is a pipe", make=image_pipe, counts={"unreadable": 1}),
    Row(name="an image that is a device", make=image_device, counts={"unreadable": 1}),
    Row(name="an image that is a socket", make=image_socket, counts={"unreadable": 1}),
    Row(name="an image of 64 GB", make=image_of_terabytes, counts={"bomb": 1}),
    Row(name="a link to nothing", make=dangling, counts={"missing": 1}),
]


AVIF = (
    [
        Row(name="a cut AVIF", make=images(x__avif=cut("AVIF")), counts={"truncated": 1}),
        Row(name="an AVIF bomb", make=images(x__avif=avif_of(16_000, 16_000)), counts={"bomb": 1}),
    ]
    if features.check("avif")
    else []
)


# Tars


def tar(
    *members: tuple[str, bytes], kinds: Mapping[str, bytes] | None = None
) -> Callable[[Path], Path]:
    """A tar of a good sample and these members."""

    def make(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as file:
            for name, data in (("good.png", image()), *members):
                info = tarfile.TarInfo(name)
                info.size, info.type = len(data), (kinds or {}).get(name, tarfile.REGTYPE)
                file.addfile(info, io.BytesIO(data))
        return folder / "a.tar"

    return make


def sized(size: bytes) -> Callable[[Path], Path]:
    """A tar of three samples, in which the header of the second says this size."""

    def make(folder: Path) -> Path:
        path = tar(("b.png", image()), ("c.png", image()))(folder)
        data = bytearray(path.read_bytes())
        with tarfile.open(path) as file:
            at = file.getmember("b.png").offset
        data[at + 124 : at + 136] = size
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}".encode() + b"\0 "
        path.write_bytes(data)
        return path

    return make


def raw(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def npy(shape: str, kind: str = "<f8", data: bytes = bytes(8)) -> bytes:
    """An array whose header says this shape."""
    head = (
        f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode()
        + b"\n"
    )
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + data


DEEP = b"[" * 100_000
DIGITS = b'{"label": ' + b"9" * 5_000 + b"}"
TARS = [
    Row(name="a size below zero", make=sized(b"-0000001750\0"), counts={"checksum": 1}, good=2),
    Row(
        name="a size below zero in base 256",
        make=sized(b"\xff" * 12),
        counts={"checksum": 1},
        good=2,
    ),
    Row(name="a size of exabytes", make=sized(b"\x80" + b"\xff" * 11), counts={"truncated": 1}),
    Row(
        name="a size that is no number",
        make=sized(b"a lot\0\0\0\0\0\0\0"),
        counts={"checksum": 1},
        good=2,
    ),
    Row(
        name="a million extended records",
        make=tar(("pax", b"6 a=b\n" * 170_000), ("b.png", image()), kinds={"pax": b"x"}),
        good=2,
    ),
    Row(
        name="an extended header of 2 MB",
        make=tar(("pax", b"6 a=b\n" * 340_000), kinds={"pax": b"x"}),
        counts={"checksum": 1},
    ),
    Row(
        name="an extended record without end",
        make=tar(("pax", b"99 path=x\n"), kinds={"pax": b"x"}),
        counts={"checksum": 1},
    ),
    Row(
        name="an extended size below zero",
        make=tar(("pax", b"11 size=-9\n"), kinds={"pax": b"x"}),
        counts={"checksum": 1},
    ),
    Row(
        name="a member of type M",
        make=tar(("b.png", image()), kinds={"b.png": b"M"}),
        counts={"member-type": 1},
    ),
    Row(
        name="a member of type Z",
        make=tar(("b.png", image()), kinds={"b.png": b"Z"}),
        counts={"member-type": 1},
    ),
    Row(
        name="a link",
        make=tar(("b.png", b""), kinds={"b.png": b"2"}),
        says="is a link; repack the tar",
    ),
    Row(
        name="a device",
        make=tar(("b.png", b""), kinds={"b.png": b"3"}),
        says="is a device; repack the tar",
    ),
    Row(
        name="a sparse member",
        make=tar(("b.png", b""), kinds={"b.png": b"S"}),
        says="is sparse; repack the tar",
    ),
    Row(
        name="a member above the folder",
        make=tar(("../b.png", image())),
        says="points outside the tar",
    ),
    Row(
        name="a member at an absolute path",
        make=tar(("/etc/b.png", image())),
        says="points outside the tar",
    ),
    Row(name="a pickled member", make=tar(("b.pkl", b"x")), says="is a pickle"),
    Row(name="a key twice", make=tar(("good.png", image())), counts={"duplicate-key": 1}),
    Row(
        name="a compressed tar",
        make=raw("a.tar", b"\x1f\x8b\x08" + bytes(2000)),
        says="unpack it with gunzip",
    ),
    Row(name="noise as a tar", make=raw("a.tar", bytes(range(256)) * 8), says="not a tar file"),
    Row(name="an empty tar", make=raw("a.tar", b""), says="no samples in 1 shard"),
    Row(
        name="JSON with 5,000 digits",
        make=tar(("b.png", image()), ("b.json", DIGITS)),
        counts={"json": 1},
    ),
    Row(
        name="deeply nested JSON",
        make=tar(("b.png", image()), ("b.json", DEEP)),
        counts={"json": 1},
    ),
    Row(
        name="JSON that is a list",
        make=tar(("b.png", image()), ("b.json", b"[1]")),
        counts={"json": 1},
    ),
    Row(
        name="a label of 30 digits",
        make=tar(("b.png", image()), ("b.json", b'{"x": 1%s}' % (b"0" * 30))),
        counts={"number": 1},
    ),
    Row(
        name="a list with 30 digits",
        make=tar(("b.png", image()), ("b.json", b'{"x": [1%s]}' % (b"0" * 30))),
        counts={"number": 1},
    ),
    Row(
        name="a class of 5,000 digits",
        make=tar(("b.png", image()), ("b.cls", b"9" * 5000)),
        counts={"number": 1},
    ),
    Row(
        name="a class that is a word",
        make=tar(("b.png", image()), ("b.cls", b"cat")),
        counts={"label": 1},
    ),
    Row(
        name="a caption in Latin-1",
        make=tar(("b.png", image()), ("b.txt", b"caf\xe9")),
        counts={"utf8": 1},
    ),
    Row(
        name="half a surrogate pair",
        make=tar(("b.png", image()), ("b.json", b'{"text": "a \\ud83d"}')),
        good=2,
    ),
    Row(
        name="a box of words",
        make=tar(("b.png", image()), ("b.json", b'{"boxes": [{"box": "abcd"}]}')),
        counts={"box": 1},
    ),
    Row(
        name="a box of infinite class",
        make=tar(
            ("b.png", image()), ("b.json", b'{"boxes": [{"box": [1, 2, 3, 4], "label": Infinity}]}')
        ),
        counts={"box": 1},
    ),
    Row(
        name="an array of 10^10",
        make=tar(("b.png", image()), ("b.npy", npy("(10000000000,)"))),
        counts={"npy": 1},
    ),
    Row(
        name="an array of 10^30",
        make=tar(("b.png", image()), ("b.npy", npy(f"({10**30},)"))),
        counts={"npy": 1},
    ),
    Row(
        name="an array of 0 x 10^30",
        make=tar(("b.png", image()), ("b.npy", npy(f"(0, {10**30})"))),
        counts={"npy": 1},
    ),
    Row(
        name="an array below zero",
        make=tar(("b.png", image()), ("b.npy", npy("(-1,)"))),
        counts={"npy": 1},
    ),
    Row(
        name="an array of objects",
        make=tar(("b.png", image()), ("b.npy", npy("(1,)", "|O"))),
        counts={"pickled": 1},
    ),
    Row(
        name="an array of texts",
        make=tar(("b.png", image()), ("b.npy", npy("(1,)", "<U2"))),
        counts={"npy": 1},
    ),
    Row(
        name="a cut array", make=tar(("b.png", image()), ("b.npy", npy("(9,)"))), counts={"npy": 1}
    ),
    Row(
        name="an array without a header",
        make=tar(("b.png", image()), ("b.npy", b"\x93NUMPY\1\0\xff\xff{")),
        counts={"npy": 1},
    ),
    Row(
        name="an archive as an array",
        make=tar(("b.png", image()), ("b.npy", b"PK\3\4" + bytes(60))),
        counts={"npy": 1},
    ),
    Row(
        name="a mask in colours",
        make=tar(("b.png", image()), ("b.seg.png", image())),
        counts={"unsupported": 1},
    ),
    Row(
        name="a mask bomb",
        make=tar(("b.png", image()), ("b.seg.png", png(100_000, 100_000))),
        counts={"bomb": 1},
    ),
    Row(
        name="braces for a hundred million files",
        make=lambda folder: folder / "{0..99999999}.tar",
        says="the braces stand for 100,000,000 files",
    ),
    Row(
        name="braces in braces in braces",
        make=lambda folder: f"{folder}/{'{0..9999}' * 3}.tar",
        says="at most 1,000,000 are read",
    ),
    Row(
        name="braces for a file that is not there",
        make=lambda folder: f"{folder}/{{0..3}}.tar",
        says="0.tar: no such file",
    ),
]


# Tables


def table(name: str, text: str | bytes) -> Callable[[Path], Path]:
    """A table beside `good.png`."""

    def make(folder: Path) -> Path:
        (folder / "good.png").write_bytes(image())
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder / name

    return make


def parquet(columns: Callable[[], Mapping[str, object]], damage: Callable[[bytes], bytes] = bytes):
    """A Parquet file of these columns, of which bytes are spoilt."""

    def make(folder: Path) -> Path:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.table(columns()), folder / "t.parquet", compression="none")
        (folder / "t.parquet").write_bytes(damage((folder / "t.parquet").read_bytes()))
        (folder / "good.png").write_bytes(image())
        return folder / "t.parquet"

    return make


def far_times() -> dict[str, object]:
    import pyarrow

    times = pyarrow.array([0, 2**62, 5], pyarrow.timestamp("us"))
    return {"text": ["a", "b", "c"], "when": times}


def large_labels() -> dict[str, object]:
    return {"text": ["a", "b", "c"], "label": np.array([1, 2**64 - 1, 2], np.uint64)}


def large_numbers() -> dict[str, object]:
    return {"text": ["a", "b", "c"], "seen": np.array([1, 2**64 - 1, 2], np.uint64)}


def many_texts() -> dict[str, object]:
    return {"text": [f"text number {at}" for at in range(3000)]}


def noisy(data: bytes) -> bytes:
    return data[:2000] + bytes(reversed(data[2000:40_000])) + data[40_000:]


def table_pipe(folder: Path) -> Path:
    return pipe(folder, "t.csv")


def table_device(folder: Path) -> Path:
    (folder / "t.csv").symlink_to("/dev/zero")
    return folder / "t.csv"


def spoilt_archive(folder: Path) -> Path:
    (folder / "a.zip").write_bytes(b"PK\3\4" + bytes(100))
    return table("t.csv", "image,text\na.zip/b.png,x\ngood.png,y\n")(folder)


def archive_bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.png", bytes(1 << 20))
    data = bytearray((folder / "a.zip").read_bytes())
    at = data.rindex(b"PK\1\2") + 24
    data[at : at + 4] = struct.pack("<I", 1 << 31)  # what the archive says that it unpacks to
    (folder / "a.zip").write_bytes(data)
    return table("t.csv", "image,text\na.zip/b.png,x\ngood.png,y\n")(folder)


TABLES = [
    Row(name="a CSV of no rows", make=table("t.csv", "image,text\n"), says="the table has no rows"),
    Row(name="an empty CSV", make=table("t.csv", ""), says="the table has no rows"),
    Row(
        name="a CSV without known columns", make=table("t.csv", "a,b\n1,2\n"), says=":image=COLUMN"
    ),
    Row(
        name="a column twice",
        make=table("t.csv", "image,image\na,b\n"),
        says="names a column twice",
    ),
    Row(
        name="a CSV of web addresses",
        make=table("t.csv", "image,text\nhttp://x/a.png,x\n"),
        says="web addresses",
    ),
    Row(
        name="a row with a cell too many",
        make=table("t.csv", "image,text\ngood.png,x\ngood.png,y,z\n"),
        counts={"columns": 1},
    ),
    Row(
        name="a row in Latin-1",
        make=table("t.csv", b"image,text\ngood.png,x\ngood.png,caf\xe9\n"),
        counts={"utf8": 1},
    ),
    Row(
        name="a NUL in a path",
        make=table("t.csv", b"image,text\ngood.png,x\na\0b.png,y\n"),
        counts={"missing": 1},
    ),
    Row(
        name="a path of 5,000 letters",
        make=table("t.csv", f"image,text\ngood.png,x\n{'a' * 5000}.png,y\n"),
        counts={"unreadable": 1},
    ),
    Row(
        name="a path that is a folder",
        make=table("t.csv", "image,text\ngood.png,x\n.,y\n"),
        counts={"unreadable": 1},
    ),
    Row(
        name="a label of 30 digits in a CSV",
        make=table("t.csv", f"image,text,label\ngood.png,x,1\nb.png,y,1{'0' * 30}\n"),
        counts={"number": 1},
    ),
    Row(name="labels of odd digits", make=table("t.csv", "text,label\na,1\nb,²\nc,--3\n"), good=3),
    Row(
        name="a CSV of old line ends",
        make=table("t.csv", "image,text\rgood.png,x\r"),
        says="not a table",
    ),
    Row(
        name="a quote without end",
        make=table("t.csv", 'image,text\ngood.png,"x\n' + "good.png,y\n" * 5),
        good=1,
    ),
    Row(name="an image in a spoilt archive", make=spoilt_archive, counts={"unreadable": 1}),
    Row(name="an image of 2 GB in an archive", make=archive_bomb, counts={"bomb": 1}),
    Row(name="a table that is a pipe", make=table_pipe, says="a pipe, a device or a socket"),
    Row(name="a table that is a device", make=table_device, says="a pipe, a device or a socket"),
    Row(
        name="a table that is not there", make=lambda folder: folder / "t.csv", says="no such file"
    ),
    Row(
        name="JSON lines with 5,000 digits",
        make=table("t.jsonl", b'{"text": "a"}\n' + DIGITS + b"\n"),
        counts={"json": 1},
    ),
    Row(
        name="JSON lines, deeply nested",
        make=table("t.jsonl", b'{"text": "a"}\n' + DEEP + b"\n"),
        counts={"json": 1},
    ),
    Row(
        name="JSON lines with half a surrogate pair",
        make=table("t.jsonl", '{"text": "a \\ud83d", "key": "\\udc80"}\n'),
    ),
    Row(
        name="JSON lines of lists",
        make=table("t.jsonl", "[1]\n[2]\n"),
        says="no JSON objects in its first lines",
    ),
    Row(
        name="JSON lines with another kind of path",
        make=table(
            "t.jsonl", '{"image": "good.png", "text": "a"}\n{"image": ["b.png"], "text": "b"}\n'
        ),
        counts={"columns": 1},
    ),
    Row(name="a time beyond the calendar", make=parquet(far_times), counts={"columns": 1}, good=2),
    Row(name="a label of 2^64 - 1", make=parquet(large_labels), counts={"number": 1}, good=2),
    Row(name="a number of 2^64 - 1", make=parquet(large_numbers), counts={"number": 1}, good=2),
    Row(
        name="noise in a Parquet page",
        make=parquet(many_texts, noisy),
        says="damaged, or not a Parquet file",
    ),
    Row(
        name="a cut Parquet file",
        make=parquet(many_texts, lambda data: data[:-100]),
        says="damaged, or not a Parquet file",
    ),
    Row(
        name="an image in place of Parquet",
        make=raw("t.parquet", image()),
        says="damaged, or not a Parquet file",
    ),
]


# Pickles, COCO and others


def shared_lists(levels: int = 9) -> list:
    """A list that written out has 10^levels entries."""
    value: list = ["x"]
    for _ in range(levels):
        value = [value] * 10
    return value


def endless_list() -> list:
    value: list = []
    value.append(value)
    return value


class Runs:
    """What would run a command were it unpickled."""

    def __reduce__(self):
        return os.system, ("echo ran > ran",)


def pickled(*entries: object) -> Callable[[Path], Path]:
    return table("c.pkl", pickle.dumps([*entries]))


GOOD = {"image_name": "good.png", "captions": ["x"]}


def coco(**change: object) -> Callable[[Path], Path]:
    """COCO's captions of one image, with other values in some fields."""
    data = {
        "images": [{"id": 1, "file_name": "good.png"}],
        "annotations": [{"image_id": 1, "caption": "x"}],
        **change,
    }
    return table("captions_x.json", json.dumps(data))


def boxed(*boxes: object) -> Callable[[Path], Path]:
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes]
    return coco(annotations=annotations, categories=[{"id": 1, "name": "cat"}])


def questions(folder: Path) -> Path:
    entries = [
        {"img_id": number, "question": "q", "answers": ["a"], "explanation": ["e", 1]}
        for number in (1, 10**30)
    ]
    return raw("VQA-E_val_set.json", json.dumps(entries).encode())(folder)


def cirr(folder: Path) -> Path:
    triple = {
        "pairid": 1,
        "reference": "a",
        "target_hard": "b",
        "caption": "c",
        "img_set": {"id": 1, "members": [[]]},
    }
    raw("split.rc2.val.json", b'{"a": "good.png", "b": "good.png"}')(folder)
    return table("cap.rc2.val.json", json.dumps([triple]))(folder)


def raw_photographs(folder: Path) -> Path:
    for name in ("a.nef", "b.cr2"):
        (folder / name).write_bytes(b"x")
    return folder


OTHERS = [
    Row(
        name="a pickle that runs code",
        make=pickled(GOOD, Runs()),
        says="wants to import 'posix.system'",
    ),
    Row(
        name="a pickle of shared lists",
        make=pickled(GOOD, {**GOOD, "more": shared_lists()}),
        counts={"columns": 1},
    ),
    Row(
        name="a path of shared lists",
        make=pickled(GOOD, {"image_id": shared_lists(), "captions": ["x"]}),
        counts={"columns": 1},
    ),
    Row(
        name="a pickle that holds itself",
        make=pickled(GOOD, {**GOOD, "more": endless_list()}),
        counts={"columns": 1},
    ),
    Row(
        name="a pickle of one long entry a million times",
        make=pickled(*[{**GOOD, "x": "x" * 100_000}] * 50_000),
        says="when they are written out",
    ),
    Row(name="a pickle of a word", make=raw("c.pkl", pickle.dumps("word")), says="holds a str"),
    Row(
        name="a cut pickle",
        make=raw("c.pkl", pickle.dumps([GOOD])[:-5]),
        says="cut short, or no pickle",
    ),
    Row(name="an array of numbers", make=raw("c.npy", npy("(1,)")), says="an array of float64"),
    Row(name="COCO that is no JSON", make=table("captions_x.json", "{"), says="not JSON"),
    Row(name="COCO with 5,000 digits", make=table("captions_x.json", DIGITS), says="not JSON"),
    Row(name="COCO, deeply nested", make=table("captions_x.json", DEEP), says="not JSON"),
    Row(name="COCO without images", make=coco(images=[]), says="no list 'images'"),
    Row(name="COCO with a nameless image", make=coco(images=[{"id": 1}]), says="lacks 'file_name'"),
    Row(
        name="COCO with a caption of no image",
        make=coco(annotations=[{"image_id": 2, "caption": "x"}]),
        counts={"missing": 1},
    ),
    Row(
        name="COCO with a caption that is a number",
        make=coco(annotations=[{"image_id": 1, "caption": 5}]),
        counts={"columns": 1},
    ),
    Row(name="a box of no width", make=boxed([0, 0, 5, 5], [0, 0, 0, 5]), counts={"box": 1}),
    Row(
        name="a box of three numbers", make=boxed([0, 0, 5]), says="a category, box or image lacks"
    ),
    Row(
        name="COCO that is a pipe",
        make=lambda folder: pipe(folder, "captions_x.json"),
        says="a pipe, a device",
    ),
    Row(
        name="a list of what was kept that is a pipe",
        make=lambda folder: f"filtered:{pipe(folder, 'k.npz')}",
        says="a pipe, a device",
    ),
    Row(
        name="a list of what was kept that is cut",
        make=lambda folder: f"filtered:{raw('k.npz', b'PK' + bytes(9))(folder)}",
        says="is no list of what was kept",
    ),
    Row(
        name="a token file whose first row is bad",
        make=table("a.token", b"\xff#0\tx\ngood.png#0\ty\n"),
        counts={"utf8": 1},
    ),
    Row(name="a question on image 10^30", make=questions, counts={"number": 1}),
    Row(
        name="CIRR with a set of lists",
        make=cirr,
        says="img_set of triple 1 has no id with members",
    ),
    Row(
        name="a folder of raw photographs",
        make=raw_photographs,
        says="2 images of kinds that are not read",
    ),
    Row(name="an empty folder", make=lambda folder: folder, says="no images in this folder"),
    Row(name="a file of no format", make=raw("x.doc", b"x"), says="no format reads this file"),
    Row(
        name="a web address", make=lambda folder: "https://x.org/a.csv", says="not from the network"
    ),
    Row(
        name="an option that is none",
        make=lambda folder: f"{images()(folder)}:txt=a",
        says="did you mean 'text'",
    ),
    Row(
        name="a text without its image",
        make=images(good__txt=b"x", lost__txt=b"y"),
        counts={"missing": 1},
    ),
    Row(
        name="a text that is no UTF-8",
        make=images(x__png=image(), x__txt=b"\xff"),
        counts={"utf8": 1},
    ),
]


ROWS = [*IMAGES, *AVIF, *TARS, *TABLES, *OTHERS]


def counted(source: Source) -> tuple[Counter[str], int]:
    """Read all of a source: the reasons of its bad samples, and how many samples are whole."""
    reasons, good = Counter(getattr(source, "damage", {}).values()), 0
    for key, index in zip(source.keys(), range(len(source)), strict=True):
        key.encode()  # a key can be written into any file
        try:
            sample = source[index]
            for text in sample.texts:
                text.text.encode()
            for image in sample.images.values():
                PREPROCESS.read(image)
            for mask in sample.masks.values():
                mask.decode()
        except BadSample as bad:
            reasons[bad.reason] += 1
        else:
            good += 1
    return reasons, good


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What the command imports at its first call is no work of a row."""
    assert main(["check", "nowhere.csv"]) == 2
    pyarrow = pytest.importorskip("pyarrow")
    pyarrow.array([0], pyarrow.timestamp("us")).to_pylist()  # which looks for pandas


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_data(row, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    name = str(row.make(folder))
    started = time.process_time()
    if row.says:
        assert main(["check", name]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert row.says in err
    else:
        source = open_source(name)
        reasons, good = counted(source)
        assert (dict(reasons), good) == (dict(row.counts), row.good)
        check(source)
    assert time.process_time() - started < SECONDS


CACHED = {
    "tar": tar(("b.png", image())),
    "parquet": parquet(lambda: {"image": ["good.png", "good2.png"], "text": ["x", "y"]}),
    "pickle": pickled(GOOD, {"image_name": "good2.png", "captions": ["y"]}),
}


@pytest.mark.parametrize("kept", [0, 0.5, -1], ids=["emptied", "cut", "a byte short"])
@pytest.mark.parametrize("make", CACHED.values(), ids=CACHED)
def test_a_damaged_cache_is_made_again(make, kept, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("diptych.data.sources.tarindex._CACHED_FROM", 1)
    (tmp_path / "data").mkdir()
    name = str(make(tmp_path / "data"))
    keys = list(open_source(name).keys())
    [stored] = (tmp_path / "cache" / "diptych").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(len(whole) * kept) if kept >= 0 else -1])
    assert list(open_source(name).keys()) == keys
    assert len(keys) == 2
    assert stored.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_bytes(b"a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = str(parquet(many_texts)(tmp_path))
    assert main(["check", name]) == 2
    assert "cannot write the unpacked copy" in capsys.readouterr().err


ESCAPES = "\x1b[31mred\x07 \x9b1m \u202eback"


def no_terminal_obeys(text: str) -> bool:
    return not any(sign in text for sign in "\x1b\x07\x9b\u202e")


def hostile(folder: Path) -> Path:
    """A table with escapes in a caption that occurs twice, and in keys of damaged images."""
    rows = [("good.png", "good"), (f"a{ESCAPES}.png", "good"), ("good.png", "good")]
    lines = [
        json.dumps({"image": name, "key": f"{at}{ESCAPES}", "text": f"{text} {ESCAPES}"})
        for at, (name, text) in enumerate(rows)
    ]
    return table("t.jsonl", "\n".join(lines))(folder)


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["table", "json"])
def test_escapes_in_data_do_not_reach_the_terminal(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "diptych.front.checking._estimate", lambda *args: None
    )  # what training takes: seconds
    name = str(hostile(tmp_path))
    assert main(["check", name, "--tokenizer", "bpe:vocab_size=300:context=16", *words]) == 0
    out, err = capsys.readouterr()
    assert no_terminal_obeys(out + err)
    shown = json.loads(out)["damaged"] if words else out
    assert (f"1{ESCAPES}" in shown) if words else ("1\\x1b[31mred" in shown)


def test_escapes_in_errors_do_not_reach_the_terminal(tmp_path, capsys):
    assert main(["check", str(tmp_path / f"{ESCAPES}.csv")]) == 2
    assert main(["check", str(tar((f"../{ESCAPES}.png", b""))(tmp_path))]) == 2
    err = capsys.readouterr().err
    assert no_terminal_obeys(err)
    assert err.count("\\x1b[31m") == 2
