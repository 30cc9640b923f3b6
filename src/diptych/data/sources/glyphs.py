"""`glyphs`: 1,632 everyday concepts drawn by up to four independent hands, shipped with the package.

Each design is one WebP sheet of 64 px tiles with true transparency, 40 a row; concept i lies in row i // 40, column
i % 40. A sheet is decoded once a process, on first use. Licences and attributions: data/glyphs/LICENSES.md.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from diptych.data.sample import Field, Sample, Schema, Text
from diptych.errors import unknown
from diptych.spec import Spec, configure, several

FORMAT = "glyphs"
TILE, COLUMNS = 64, 40
DESIGNS = ("noto", "fluent-flat", "emojione", "twemoji")
HELD_OUT = "twemoji"  # the hand no model has seen: read only where it is named
SPLITS = ("train", "val", "test")  # of concepts, by a hash: whole concepts are unseen


def claims(spec: Spec) -> bool:
    """Whether this file reads `spec`."""
    return spec.name == "glyphs"


def open(spec: Spec) -> "Glyphs":
    """`glyphs[:split=train|val|test|train+val|all][:design=noto+fluent-flat+emojione+twemoji|all]`.

    Without a split: train. Without a design: all but the held-out hand, twemoji.
    """
    options = configure(GlyphsOptions, spec.options, "source 'glyphs'")
    return Glyphs(
        splits=several("split of glyphs", options.split, SPLITS),
        designs=several("design of glyphs", options.design, DESIGNS),
    )


@dataclass(frozen=True, kw_only=True)
class GlyphsOptions:
    """What may follow `glyphs:`; several values are joined by `+`."""

    split: str = "train"
    design: str = "+".join(design for design in DESIGNS if design != HELD_OUT)


@lru_cache(maxsize=1)
def concepts() -> tuple[dict[str, Any], ...]:
    """All concepts in order: index, hexcode, char, name, tags, group, subgroup, designs, split.

    >>> concepts()[0]["name"], len(concepts())
    ('grinning face', 1632)
    """
    text = files("diptych.data").joinpath("glyphs", "concepts.jsonl").read_text("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@lru_cache(maxsize=len(DESIGNS))
def _sheet(design: str) -> Image.Image:
    data = files("diptych.data").joinpath("glyphs", f"{design}.webp").read_bytes()
    sheet = Image.open(io.BytesIO(data))
    sheet.load()
    return sheet.convert("RGBA")


@dataclass(frozen=True, slots=True)
class GlyphPicture:
    """One tile of a sheet: RGBA, 64 x 64."""

    design: str
    index: int

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The drawing, transparent around it."""
        x, y = self.index % COLUMNS * TILE, self.index // COLUMNS * TILE
        return _sheet(self.design).crop((x, y, x + TILE, y + TILE))

    def read(self) -> bytes:
        """The drawing as a PNG file."""
        return png_of(self.decode())


@dataclass(frozen=True, slots=True)
class GlyphMask:
    """Where a drawing is: its alpha channel, "L", 0 to 255."""

    picture: GlyphPicture

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The alpha channel."""
        return self.picture.decode().getchannel("A")

    def read(self) -> bytes:
        """The alpha channel as a PNG file."""
        return png_of(self.decode())


def png_of(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Glyphs:
    """One sample for each drawing: concept by concept, the designs of a concept together.

    >>> source = Glyphs(splits=("test",), designs=("noto",))
    >>> len(source), source[0].key, source[0].captions()
    (192, '1f604/noto', ['grinning face with smiling eyes'])
    """

    name = "glyphs"

    def __init__(self, *, splits: Sequence[str], designs: Sequence[str]):
        self.splits, self.designs = tuple(splits), tuple(designs)
        drawn = [
            (concept["index"], DESIGNS.index(design))
            for concept in concepts()
            if concept["split"] in splits
            for design in designs
            if design in concept["designs"]
        ]
        self._rows = np.array(drawn, np.int32).reshape(-1, 2)  # (N, 2): concept, design

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        concept, design = concepts()[self._rows[index, 0]], DESIGNS[self._rows[index, 1]]
        picture = GlyphPicture(design, concept["index"])
        return Sample(
            key=f"{concept['hexcode']}/{design}",
            source=self.name,
            images={"main": picture},
            texts=(Text(text=concept["name"]), *(Text(text=tag, role="tags") for tag in concept["tags"])),
            labels={name: int(self.labels(name, index)) for name in ("concept", "group", "subgroup", "design")},
            masks={"main": GlyphMask(picture)},
        )

    def keys(self) -> list[str]:
        """`hexcode/design` of each sample."""
        return [f"{concepts()[concept]['hexcode']}/{DESIGNS[design]}" for concept, design in self._rows]

    def labels(self, name: str, index: int | slice = slice(None)) -> np.ndarray:
        """The label `name` of every sample (or of those at `index`), without decoding: (N,) int64."""
        concept, design = self._rows[index].T
        if name == "concept":
            return concept.astype(np.int64)
        if name == "design":
            return design.astype(np.int64)
        if name not in ("group", "subgroup"):
            raise unknown("label of glyphs", name, ("concept", "group", "subgroup", "design"))
        return _label_of_concepts(name)[concept]

    def schema(self) -> Schema:
        """Picture, name, tags, four labels with their class names, and the mask."""
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "texts.tags": Field(kind="text"),
            "labels.concept": Field(kind="int", classes=tuple(concept["name"] for concept in concepts())),
            "labels.group": Field(kind="int", classes=_values("group")),
            "labels.subgroup": Field(kind="int", classes=_values("subgroup")),
            "labels.design": Field(kind="int", classes=DESIGNS),
            "masks.main": Field(kind="mask"),
        }


@lru_cache(maxsize=2)
def _values(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(concept[name] for concept in concepts()))


@lru_cache(maxsize=2)
def _label_of_concepts(name: str) -> np.ndarray:
    number = {value: at for at, value in enumerate(_values(name))}
    return np.array([number[concept[name]] for concept in concepts()], np.int64)
