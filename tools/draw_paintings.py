"""Draws the image of docs/worlds/paintings.md anew: `python tools/draw_paintings.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image

from diptych.data.worlds import WorldSource, build

SIDE = 96


def main(folder: Path) -> None:
    """Two rows of ten paintings."""
    page = Image.new("RGB", (10 * SIDE, 2 * SIDE))
    for at, sample in enumerate(WorldSource(build("paintings", {"size": SIDE}), 20)):
        place = (at % 10 * SIDE, at // 10 * SIDE)
        page.paste(sample.images["main"].decode(), place)
    page.save(folder / "paintings.webp", quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/worlds"))
