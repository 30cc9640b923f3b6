"""Draws the image of docs/worlds/reports.md anew: `python tools/draw_reports.py [FOLDER]`."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from diptych.data.worlds import WorldSource, build

COLUMNS = 8
ROWS = 3
SIDE = 96
STEP = SIDE + 4


def main(folder: Path) -> None:
    source = WorldSource(build("reports", {"size": SIDE}), COLUMNS * ROWS)
    page = Image.new("RGB", (COLUMNS * STEP, ROWS * STEP), "white")
    for at in range(len(source)):
        image = source[at].images["main"].decode()
        draw = ImageDraw.Draw(image)
        for box in source[at].boxes:
            draw.rectangle(box.xyxy, outline="red")
        page.paste(image, (at % COLUMNS * STEP, at // COLUMNS * STEP))
    page.save(folder / "reports.webp", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/worlds"))
