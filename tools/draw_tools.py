"""Draws the image of docs/worlds/tools.md anew: `python tools/draw_tools.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image

from diptych.data.worlds import WorldSource, build

SIDE = 96


def main(folder: Path) -> None:
    """Two rows of ten images in use, each above the same tool without the hand and its heat map."""
    page = Image.new("RGB", (10 * SIDE, 6 * SIDE))
    sources = [
        WorldSource(build("tools", {"size": SIDE, "actor": actor}), 20) for actor in (True, False)
    ]
    for at, (used, alone) in enumerate(zip(*sources, strict=True)):
        for row, image in enumerate(
            (used.images["main"], alone.images["main"], alone.masks["heat"])
        ):
            page.paste(image.decode().convert("RGB"), (at % 10 * SIDE, (at // 10 * 3 + row) * SIDE))
    page.save(folder / "tools.webp", quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/worlds"))
