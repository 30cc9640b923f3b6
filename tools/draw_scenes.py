"""Draws the images of docs/worlds/scenes.md and diagrams.md anew: `python tools/draw_scenes.py [FOLDER]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.data.worlds import build
from diptych.data.worlds.scenes import World
from diptych.data.worlds.scenes.config import EDITS
from diptych.data.worlds.scenes.words import STYLES

GAP = 4
QUALITY = 85


def sheet(rows: Sequence[Sequence[Image.Image]], scale: int = 2) -> Image.Image:
    """Images of one size in rows, on white, each pixel `scale` wide."""
    side = rows[0][0].width
    step = side + GAP
    page = Image.new("RGB", (max(map(len, rows)) * step - GAP, len(rows) * step - GAP), "white")
    for at, row in enumerate(rows):
        for number, image in enumerate(row):
            page.paste(image, (number * step, at * step))
    return page.resize((page.width * scale, page.height * scale), Image.Resampling.NEAREST)


def world(**options: object) -> World:
    made = build("scenes", options)
    assert isinstance(made, World)
    return made


def plain() -> Image.Image:
    """The first 24 scenes."""
    drawn = world()
    images = [drawn.render(drawn.sample(0, at)).image for at in range(24)]
    return sheet([images[at : at + 8] for at in range(0, 24, 8)])


def styles() -> Image.Image:
    """Eight scenes, one a column, in the eight domains."""
    rows = []
    for name in STYLES:
        drawn = world(styles=name, number="1-2", same=0)
        rows.append([drawn.render(drawn.sample(5, at)).image for at in range(8)])
    return sheet(rows)


def edits() -> Image.Image:
    """One scene, its instances, classes and depth, and its edits of all kinds."""
    drawn = world(number=3, same=0)
    scene = next(
        scene
        for at in range(100)
        if all(drawn.edited(scene := drawn.sample(2, at), kind) for kind in EDITS)
    )
    seen = drawn.render(scene)
    depth = Image.fromarray(np.rint(255 * (1 - seen.arrays["depth"])).astype(np.uint8))
    masks = [
        Image.fromarray((np.asarray(seen.masks[name]) * factor).astype(np.uint8))
        for name, factor in (("instance", 80), ("class", 12))
    ]
    return sheet(
        [
            [image.convert("RGB") for image in (seen.image, *masks, depth)],
            [drawn.render(drawn.edit(scene, kind)).image for kind in EDITS],
        ]
    )


def film() -> Image.Image:
    """Six clips, one a row."""
    drawn = world(film=8, number="1-3")
    shown = [drawn.example(drawn.sample(0, at), str(at)) for at in (0, 4, 5, 8, 12, 14)]
    return sheet([sample.images["frames"].frames() for sample in shown], scale=1)


def diagrams() -> Image.Image:
    """Six figures, one a row, each with six edits."""
    drawn = build("diagrams", {"edits": "all", "number": 6})
    rows = []
    for at in range(1, 7):
        sample = drawn.example(drawn.sample(2, at), str(at))
        rows.append([each.images["main"].decode() for each in (sample, *sample.edits)])
    return sheet(rows)


SHEETS = {
    "scenes": plain,
    "scenes-styles": styles,
    "scenes-edits": edits,
    "scenes-film": film,
    "diagrams": diagrams,
}


def main(folder: Path) -> None:
    for name, draw in SHEETS.items():
        draw().save(folder / f"{name}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "worlds"))
