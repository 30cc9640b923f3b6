"""Small data for the tests of the command line, towers that train in a moment, and a shell."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

TINY = (
    "--image-tower=vit:image_size=32:patch=16:width=32:depth=1:heads=2",
    "--text-tower=text:width=32:depth=1:heads=2",
    "--tokenizer=bpe:vocab_size=320:context=24",
    "--embed-dim=16",
    "--batch-size=8",
    "--steps=3",
    "--lr=0.002",
)
COLOURS = ["red", "green", "blue", "white", "black", "olive", "navy", "teal"]


class Called:
    """What a command gave back."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}{self.err}"


def image(number: int, mode: str = "RGB", size: int = 40) -> Image.Image:
    """Noise in one of eight colours."""
    rng = np.random.default_rng(number)
    base = np.array(Image.new("RGB", (size, size), COLOURS[number % 8]), dtype=float)
    pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"a {COLOURS[number % 8]} thing, number {number}"


def make_folder(
    folder: Path, count: int = 16, texts: bool = True, extra: Mapping[str, bytes] | None = None
) -> Path:
    """Images with a .txt beside each, and other files."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:02d}.png").write_bytes(encoded(image(number)))
        if texts:
            (folder / f"{number:02d}.txt").write_text(caption(number))
    for name, data in (extra or {}).items():
        (folder / name).write_bytes(data)
        if not name.endswith(".txt"):
            (folder / name).with_suffix(".txt").write_text(f"the image in {name}")
    return folder


def make_table(folder: Path, count: int = 16) -> Path:
    """A CSV beside its images."""
    folder.mkdir(parents=True)
    rows = ["file,caption,label"]
    for number in range(count):
        (folder / f"{number:02d}.jpg").write_bytes(encoded(image(number), "JPEG"))
        rows.append(f'{number:02d}.jpg,"{caption(number)}",{COLOURS[number % 8]}')
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


def make_tar(path: Path, count: int = 16) -> Path:
    """A shard in WebDataset layout."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            add_member(tar, f"{number:02d}.jpg", encoded(image(number), "JPEG"))
            add_member(tar, f"{number:02d}.txt", caption(number).encode())
    return path


def add_member(tar: tarfile.TarFile, name: str, data: bytes = b"") -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def shell(
    *words: object,
    cwd: Path | None = None,
    program: tuple[str, ...] = ("-m", "diptych"),
    **settings,
):
    """Start `python -m diptych …` with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def finish(process, seconds: int = 150) -> Called:
    out, err = process.communicate(timeout=seconds)
    return Called(process.returncode, out, err)
