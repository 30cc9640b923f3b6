"""Draws the image of docs/worlds/kidneys.md anew: `python tools/draw_kidneys.py [FOLDER]`."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.worlds import WorldSource, build

ROWS = 8
SLICES = (4, 6, 8, 10, 12)
SIZE = 64


def main(folder: Path) -> None:
    source = WorldSource(build("kidneys", {"slices": 16, "size": SIZE}), ROWS)
    page = Image.new("L", (len(SLICES) * (SIZE + 2), ROWS * (SIZE + 2)), 255)
    for row in range(ROWS):
        volume = source[row].images["main"].volume()
        shown = np.rint(255 * np.clip((volume + 200) / 500, 0, 1)).astype(np.uint8)
        for column, at in enumerate(SLICES):
            place = (column * (SIZE + 2), row * (SIZE + 2))
            page.paste(Image.fromarray(shown[at]), place)
    page.save(folder / "kidneys.webp", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/worlds"))
