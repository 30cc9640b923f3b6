"""Draws the image of docs/worlds/docmnist.md anew: `python tools/draw_docmnist.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image

from diptych.data.worlds import WorldSource, build

SIDE = 126
GAP = 10


def draw() -> Image.Image:
    """Six pages of each of three complexities, a row each, enlarged."""
    page = Image.new("RGB", (6 * SIDE + 5 * GAP, 3 * SIDE + 2 * GAP), "white")
    for row, complexity in enumerate((4, 8, 16)):
        source = WorldSource(build("docmnist", {"complexity": complexity}), 6)
        for column, sample in enumerate(source):
            image = sample.images["main"].decode().resize((SIDE, SIDE), Image.Resampling.NEAREST)
            page.paste(image, (column * (SIDE + GAP), row * (SIDE + GAP)))
    return page


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/worlds")
    draw().save(folder / "docmnist.webp", quality=90)
