"""Text as pixels: fonts, and the renderer that draws a text as a strip of patches.

    unifont      the bitmap font that ships, GNU Unifont: 57,087 characters of 16 pixels, all of Unicode's first plane
    FILE.ttf     an outline font (TrueType, OpenType), drawn by FreeType at `size` pixels with grey edges

Every character is drawn on its own, from left to right in the order of the text: no kerning, no
ligatures, no joined forms of Arabic letters, no reordering. Marks without an advance are drawn over the character
before them. A character that the font lacks becomes U+FFFD and is counted.

Dimensions: H x W pixels, n characters, N texts, P patches.
"""

import io
import lzma
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from string import ascii_letters
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diptych.errors import InputError

SIDE = 16
"""The height of a bitmap glyph, in pixels."""
POINTS = 8 * 120 / 72
"""The size of outline fonts in pixels: 8 points at 120 dots an inch (Rust et al. 2023, PIXEL)."""
REPLACEMENT = "\ufffd"
FONT = "unifont"


@dataclass(frozen=True, eq=False)
class Line:
    """A line of text: the ink (H, W) of its pixels, 0 to 255, where each character ends (n,), and the
    characters that the font lacks."""

    ink: np.ndarray
    ends: np.ndarray
    missing: tuple[str, ...]


class Font(Protocol):
    """Draws a line of characters."""

    def line(self, text: str) -> Line:
        """Draw the characters of a text beside each other."""
        ...


class BitmapFont:
    """A font of bitmaps 16 pixels high and 8 or 16 wide.

    `points` (N,) are the code points in order, `advance` (N,) the widths, `before` (N,) how far a
    cell starts to the left of the pen, and `bits` (2, N, 16) the left and right halves of the cells.

    >>> line = font("unifont").line("Ab 漢")
    >>> line.ink.shape, line.ends.tolist(), line.missing
    ((16, 40), [8, 16, 24, 40], ())
    """

    def __init__(
        self, points: np.ndarray, advance: np.ndarray, before: np.ndarray, bits: np.ndarray
    ):
        self.points = points
        self.advance = advance.astype(np.int64)
        self.before = before.astype(np.int64)
        self.bits = bits

    def line(self, text: str) -> Line:
        """Draw the characters of a text beside each other."""
        codes = np.array([ord(letter) for letter in text], np.int64)
        rows, known = self._rows(codes)
        missing = tuple(letter for letter, there in zip(text, known, strict=True) if not there)
        widths = self.advance[rows]
        ends = np.cumsum(widths)
        cells = np.unpackbits(self.bits[:, rows], axis=-1).reshape(2, len(rows), SIDE, SIDE // 2)
        cells = cells.transpose(1, 2, 0, 3).reshape(len(rows), SIDE, SIDE)
        shown = np.arange(SIDE) < widths[:, None]
        ink = cells.transpose(1, 0, 2)[:, shown]
        for number in np.flatnonzero(widths == 0):  # marks, which are rare
            _over(ink, cells[number], int(ends[number] - self.before[rows[number]]))
        return Line(ink * np.uint8(255), ends, missing)

    def _rows(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The glyph of each code point, and whether it is the character's own."""
        rows = np.searchsorted(self.points, codes).clip(max=len(self.points) - 1)
        known = self.points[rows] == codes
        other = np.searchsorted(self.points, ord(REPLACEMENT))
        return np.where(known, rows, other), known


def _over(ink: np.ndarray, cell: np.ndarray, start: int) -> None:
    """Draw a cell over a line (16, W), from the column `start` on, as far as it is in the line."""
    first = max(0, start)
    last = min(ink.shape[1], start + SIDE)
    if first < last:
        ink[:, first:last] |= cell[:, first - start : last - start]


class OutlineFont:
    """An outline font of a file, drawn at `size` pixels. Characters are not kerned.

    Lines are as high as the tallest and the lowest letters of the font ask for.
    """

    def __init__(self, path: str, size: float):
        self.font = _opened(path, size)
        self._empty = self._drawn("\uffff")
        self._known: dict[str, bool] = {}

    def line(self, text: str) -> Line:
        """Draw the characters of a text beside each other."""
        missing = tuple(letter for letter in text if not self._has(letter))
        shown = [letter if self._has(letter) else REPLACEMENT for letter in text]
        places = np.cumsum([0.0, *map(self.font.getlength, shown)])
        above, below = self.font.getmetrics()
        page = Image.new("L", (math.ceil(places[-1]), above + below))
        pen = ImageDraw.Draw(page)
        for letter, place in zip(shown, places.tolist(), strict=False):
            pen.text((place, 0), letter, fill=255, font=self.font)
        ends = np.ceil(places[1:]).astype(np.int64)
        return Line(np.array(page).reshape(above + below, -1), ends, missing)

    def _has(self, letter: str) -> bool:
        """Whether the font has a glyph of its own for a character."""
        if letter not in self._known:
            kind = unicodedata.category(letter)
            blank = kind[0] in "ZM" or kind == "Cf"  # which may have no ink
            self._known[letter] = kind != "Cs" and (blank or self._drawn(letter) != self._empty)
        return self._known[letter]

    def _drawn(self, letter: str) -> bytes:
        return bytes(self.font.getmask(letter))  # type: ignore[arg-type]  # a sequence of greys


def _opened(path: str, size: float) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(
            f"{path} is no font that can be read ({error}); name a .ttf or .otf file, or unifont, which ships"
        ) from None


@lru_cache(maxsize=16)
def outlines(size: float) -> ImageFont.FreeTypeFont:
    """The outline font that comes with Pillow, of Latin letters, at `size` pixels."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    return found


@lru_cache(maxsize=8)
def font(name: str, size: float = POINTS) -> Font:
    """The font of a name: `unifont`, or a file of an outline font.

    Raises InputError for a file that is none, and for a size of less than a pixel.
    """
    if name == FONT:
        place = files("diptych.data").joinpath("fonts", "unifont.npz.xz")
        with np.load(io.BytesIO(lzma.decompress(place.read_bytes()))) as arrays:
            return BitmapFont(**arrays)
    if not 1 <= size <= 1000:
        raise InputError(f"font size {size} is not a number of pixels from 1 to 1,000")
    if not Path(name).expanduser().is_file():
        raise InputError(f"there is no font {name!r}; name unifont, or a .ttf or .otf file")
    return OutlineFont(str(Path(name).expanduser()), size)


@dataclass(frozen=True, eq=False)
class Rendered:
    """A text as a strip (H, W) of grey pixels, 0 black: `patches` of it have text, and the separator
    follows. `cut` characters did not fit; `missing` are those that the font lacks."""

    pixels: np.ndarray
    patches: int
    cut: int
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TextRenderer:
    """Draws a text in one line, black on white, as a strip of `patches` squares of `patch` pixels.

    The text starts `left` pixels from the edge and is vertically centred. A black patch follows it
    at the next border of a patch, and white ones up to the end:

        n = ceil((left + width) / patch),    real patches: min(n + 1, P)

    Of a line that is higher than a patch, as of a font for many scripts, the rows in the middle are drawn.
    A text is cut after the last character that leaves room for the black patch. Spaces at its ends
    are left out; other white space, line breaks too, becomes single spaces. Characters are
    normalised to NFC. The same text gives the same pixels on every machine with `unifont`; those of
    outline fonts depend on FreeType's version.

    Raises InputError for a font whose Latin letters are higher than a patch. Source: Rust et al. 2023 (PIXEL).

    >>> found = TextRenderer(patches=8).render("two cats")
    >>> found.pixels.shape, found.patches, found.cut
    ((16, 128), 5, 0)
    """

    patches: int
    patch: int = SIDE
    font: str = FONT
    size: float = POINTS
    left: int = 3

    def __post_init__(self) -> None:
        if self.patches < 2 or self.left < 0:
            raise InputError(
                f"a strip of {self.patches} patches with {self.left} pixels before the text has no room for a text "
                "and the black patch behind it; give 2 patches or more, and no negative margin"
            )
        ink = font(self.font, self.size).line(ascii_letters).ink
        if ink.any(1).sum() > self._inside(ink).any(1).sum():
            raise InputError(
                f"font {self.font} is {len(ink)} pixels high, and patches have {self.patch}; give larger patches or a "
                "smaller size"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a strip."""
        return self.patch, self.patch * self.patches

    def render(self, text: str) -> Rendered:
        """Draw a text."""
        text = plain(text)
        line = font(self.font, self.size).line(text[: self.patch * self.patches])
        room = self.patch * (self.patches - 1) - self.left
        fitting = int(np.searchsorted(line.ends, room, side="right"))
        width = int(line.ends[fitting - 1]) if fitting else 0
        count = math.ceil((self.left + width) / self.patch) if width else 0
        pixels = np.full(self.shape, 255, np.uint8)
        ink = self._inside(line.ink[:, :width])
        top = (self.patch - len(ink)) // 2
        pixels[top : top + len(ink), self.left : self.left + width] -= ink
        pixels[:, count * self.patch : (count + 1) * self.patch] = 0
        return Rendered(pixels, count, len(text) - fitting, line.missing)

    def _inside(self, ink: np.ndarray) -> np.ndarray:
        """The rows of a line (H, W) that a patch has room for, in its middle."""
        above = max(0, len(ink) - self.patch) // 2
        return ink[above : above + self.patch]

    def strips(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The strips (N, H, W) of texts, and which patches (N, P) are real: those of the text and the
        black one."""
        drawn = [self.render(text) for text in texts]
        pixels = np.stack([each.pixels for each in drawn]) if drawn else np.empty((0, *self.shape))
        return pixels.astype(np.uint8), real([each.patches for each in drawn], self.patches)


def real(counts: Sequence[int], patches: int) -> np.ndarray:
    """Which patches (N, P) of strips are real, from the numbers of patches with text (N,): those, and
    the separator behind them.

    >>> real([3, 9], 6).astype(int).tolist()
    [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    """
    return np.arange(patches) <= np.array(counts, np.int64).reshape(-1, 1)


def plain(text: str) -> str:
    """A text in one line: NFC, single spaces, none at the ends.

    >>> plain("  two\\n cats ")
    'two cats'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())
