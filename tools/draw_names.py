"""Draws the image of docs/worlds/names.md anew: `python tools/draw_names.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image

from diptych.data.worlds import WorldSource, build


def main(folder: Path) -> None:
    """The four crops of eight firms side by side, two firms in a row, at twice their size."""
    source = WorldSource(build("names", {"singles": 0.0, "twins": 1.0}), 32)
    crops = [sample.images["main"].decode() for sample in source]
    wide, high = (2 * side for side in crops[0].size)
    page = Image.new("RGB", (8 * wide, 4 * high))
    for at, crop in enumerate(crops):
        page.paste(crop.resize((wide, high)), (at % 8 * wide, at // 8 * high))
    page.save(folder / "names.webp", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/worlds"))
