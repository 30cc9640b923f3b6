"""The drawings in the package: 1,632 everyday concepts in up to four designs, with an alpha
channel, and their names in 28 languages.

Each design is one WebP file of 64 px tiles, 40 per row; concept i is in row i // 40, column i % 40.
A file is decoded once per process, on first use. Licences and attributions:
data/glyphs/LICENSES.md.
"""

import gzip
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from PIL import Image

from diptych.data.png import png_of

TILE = 64  # side in pixels
COLUMNS = 40
DESIGNS = ("noto", "fluent-flat", "emojione", "twemoji")


HELD_OUT = "twemoji"  # the held-out design, read only if it is requested by name


@lru_cache(maxsize=1)
def concepts() -> tuple[dict[str, Any], ...]:
    """All concepts in order: index, hexcode, char, name, tags, group, subgroup, designs, split.

    >>> concepts()[0]["name"], len(concepts())
    ('grinning face', 1632)
    """
    text = files("diptych.data").joinpath("glyphs", "concepts.jsonl").read_text("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@lru_cache(maxsize=1)
def names() -> tuple[dict[str, str], ...]:
    """The names of all concepts in order, by language (English ones are in `concepts`).

    >>> names()[0]["de"], len(names()[0])
    ('grinsendes Gesicht', 27)
    """
    data = files("diptych.data").joinpath("glyphs", "names.jsonl.gz").read_bytes()
    lines = gzip.decompress(data).decode("utf-8").splitlines()
    return tuple(json.loads(line)["names"] for line in lines)


@lru_cache(maxsize=len(DESIGNS))
def _atlas(design: str) -> Image.Image:
    data = files("diptych.data").joinpath("glyphs", f"{design}.webp").read_bytes()
    sheet = Image.open(io.BytesIO(data))
    sheet.load()
    return sheet.convert("RGBA")


@dataclass(frozen=True, slots=True)
class GlyphImage:
    """One tile of a design's file: RGBA, 64 x 64."""

    design: str
    index: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The drawing, on a transparent background."""
        x = self.index % COLUMNS * TILE
        y = self.index // COLUMNS * TILE
        return _atlas(self.design).crop((x, y, x + TILE, y + TILE))

    def read(self) -> bytes:
        """The drawing as a PNG file."""
        return png_of(self.decode())


@dataclass(frozen=True, slots=True)
class GlyphMask:
    """The mask of a drawing: its alpha channel, "L", 0 to 255."""

    image: GlyphImage

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The alpha channel."""
        return self.image.decode().getchannel("A")

    def read(self) -> bytes:
        """The alpha channel as a PNG file."""
        return png_of(self.decode())
