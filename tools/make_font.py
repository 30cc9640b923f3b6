"""Rebuild the bitmap font that ships with diptych (src/diptych/data/fonts) from Debian's package of
GNU Unifont.

    apt-get download fonts-unifont && dpkg-deb -x fonts-unifont_*.deb unifont
    pip install fonttools
    python tools/make_font.py unifont/usr/share/fonts/opentype/unifont/unifont.otf --out build/fonts

Every glyph of the OpenType file is drawn at its size of 16 pixels, at which it is a bitmap, and put
into an array with its code point and its advance. Nothing is changed or left out, but that a mark
that is wider than its cell of 16 pixels is cut to it.
"""

import argparse
import io
import lzma
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

SIDE = 16
SHIPPED = Path(__file__).parents[1] / "src" / "diptych" / "data" / "fonts"


def glyphs(path: Path) -> dict[str, np.ndarray]:
    """The code points (N,), advances (N,), how far each cell starts before the pen (N,), and the
    cells in bits: their left halves (N, 16), then their right halves (N, 16)."""
    table = TTFont(path)
    unit = table["head"].unitsPerEm // SIDE
    advances = table["hmtx"].metrics
    names = table.getBestCmap()
    font = ImageFont.truetype(str(path), SIDE, layout_engine=ImageFont.Layout.BASIC)
    points = sorted(names)
    advance = [advances[names[point]][0] // unit for point in points]
    before = []
    cells = []
    for point, width in zip(points, advance, strict=True):
        drawn = drawing(chr(point), font)
        start = 0
        if width == 0:  # a mark, over the character before the pen
            start = SIDE // 2 if drawn[:, SIDE:].any() else SIDE
        before.append(start)
        cells.append(drawn[:, SIDE - start : 2 * SIDE - start])
    bits = np.packbits(np.stack(cells), axis=2).transpose(2, 0, 1)
    return {
        "points": np.array(points, np.int32),
        "advance": np.array(advance, np.uint8),
        "before": np.array(before, np.uint8),
        "bits": bits,
    }


def drawing(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """A character (16, 48), drawn with the pen at column 16."""
    page = Image.new("L", (3 * SIDE, SIDE))
    pen = ImageDraw.Draw(page)
    pen.fontmode = "1"
    pen.text((SIDE, 0), text, fill=255, font=font)
    return np.asarray(page) > 0


def main() -> None:
    """Write the font, and say whether it is the one that ships."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("font", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    buffer = io.BytesIO()
    np.savez(buffer, **glyphs(given.font))
    packed = lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    given.out.mkdir(parents=True, exist_ok=True)
    place = given.out / "unifont.npz.xz"
    place.write_bytes(packed)
    shipped = SHIPPED / place.name
    same = shipped.exists() and contents(shipped) == contents(place)
    print(f"{place}: {len(packed):,} bytes, {'equal to' if same else 'other than'} what ships")


def contents(path: Path) -> dict[str, bytes]:
    """The arrays of a packed font, by name; the archive itself holds the time."""
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
        return {name: arrays[name].tobytes() for name in arrays}


if __name__ == "__main__":
    main()
