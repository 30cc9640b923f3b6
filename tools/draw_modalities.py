"""Draws the image of docs/worlds/modalities.md anew: `python tools/draw_modalities.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image

from diptych.data.worlds import WorldSource, build

ROWS = 6
STEP = 34


def main(folder: Path) -> None:
    source = WorldSource(build("modalities"), 1000)
    page = Image.new("RGB", (24 * STEP, ROWS * STEP), "white")
    held = [0] * 24
    for sample in (source[at] for at in range(len(source))):
        column = int(sample.labels["class"])
        if held[column] < ROWS:
            page.paste(sample.images["main"].decode(), (column * STEP, held[column] * STEP))
            held[column] += 1
    page.save(folder / "modalities.webp", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/worlds"))
