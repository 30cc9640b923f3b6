"""Draws the picture of a method's page that shows what it finds in images: `python tools/draw_regions.py
NAME [FOLDER]`.

The method is trained first, on generated data and from a fixed seed, for two to four minutes on one core; of
`cocu` only its names are found, without training. The images are the first ones of a held-out split, but for
`villa` and `cocu`, whose regions and names are those of the images to learn from.
"""

import io
import json
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import diptych
from diptych.data import descriptions
from diptych.data.boxes import attributes_of, shares, things
from diptych.data.drawings import png_of
from diptych.data.images import BytesImage, size_of
from diptych.data.masks import Mask
from diptych.data.matcher import Matcher
from diptych.data.render import outlines
from diptych.data.sample import Sample
from diptych.data.sources import open_source
from diptych.data.worlds.docmnist.words import ATTRIBUTES
from diptych.inference.ground import laid_over
from diptych.inference.instances import drawn_on
from diptych.lab.claims import cocu as groups
from diptych.methods.dense.clim.mosaic import assemble
from diptych.models.dense import GROUND
from diptych.models.two_stage.pyramid import map_of
from diptych.models.two_stage.windows import Windows, in_windows
from diptych.viewer.pictures import colour, pictures

SIDE = 128
WIDE = 176  # of images with names in them
PAGE = 252  # of pages
GAP = 6
LETTERS = 13
SMALL = 11
QUALITY = 50
INK = (40, 40, 40)
RIGHT = "#1a7f37"
WRONG = "#c62828"
MISSED = "#8c8c8c"
Rows = Mapping[str, Sequence[Image.Image]]


def sheet(rows: Rows, titles: Sequence[str] = (), legend: Mapping[str, str] | None = None) -> Any:
    """Rows of images on white: the name of each on its left, titles of columns above, and a legend of
    colours below."""
    font = outlines(LETTERS)
    line = LETTERS + 2 * GAP
    left = round(max(map(font.getlength, rows))) + 2 * GAP
    width = left + max(sum(each.width + GAP for each in row) for row in rows.values())
    high = sum(max(each.height for each in row) + GAP for row in rows.values())
    keys, below = placed(legend or {}, width, line)
    page = Image.new("RGB", (width, high + GAP + (line if titles else 0) + below), "white")
    pen = ImageDraw.Draw(page)
    y = GAP
    if titles:
        step = next(iter(rows.values()))[0].width + GAP
        for at, title in enumerate(titles):
            pen.text((left + at * step + step / 2, y), title, INK, font, anchor="ma")
        y += line - GAP
    for name, row in rows.items():
        height = max(each.height for each in row)
        pen.text((GAP, y + height / 2), name, INK, font, anchor="lm")
        x = left
        for image in row:
            page.paste(image, (x, y))
            x += image.width + GAP
        y += height + GAP
    for (across, down), (name, paint) in zip(keys, (legend or {}).items(), strict=True):
        pen.rectangle((across, y + down, across + LETTERS, y + down + LETTERS), fill=paint)
        pen.text((across + LETTERS + GAP, y + down), name, INK, font)
    return page


def placed(
    legend: Mapping[str, str], width: int, line: int
) -> tuple[Sequence[tuple[int, int]], int]:
    """Where the entries of a legend begin, from left to right in lines, and how high they are."""
    places = []
    x = GAP
    y = 0
    for name in legend:
        wide = LETTERS + 3 * GAP + round(outlines(LETTERS).getlength(name))
        if x + wide > width:
            x = GAP
            y += line
        places.append((x, y))
        x += wide
    return places, (y + line if places else 0)


def enlarged(sample: Sample, side: int = SIDE) -> Image.Image:
    """The image of a sample."""
    return sample.images["main"].decode().resize((side, side), Image.Resampling.BICUBIC)


def first(spec: str, count: int) -> tuple[Any, list[Sample]]:
    """A source, and its first samples."""
    source = open_source(f"{spec}:count={count}")
    return source, [source[at] for at in range(count)]


def images_of(samples: Sequence[Sample]) -> list[Any]:
    return [sample.images["main"] for sample in samples]


# intra: where a verb happens on a tool


def intra(folder: Path) -> Any:
    """A map of verbs on the positions of a convolution, which learned from captions without verbs."""
    base = folder / "base"
    diptych.train(
        "clip",
        "tools:split=val:count=3000",
        base,
        image_tower="conv:image_size=64:widths=(64,128):depths=(1,2)",
        embed_dim=64,
        config={"augment": {}},
        steps=300,
        batch_size=64,
        lr=4e-3,
        quiet=True,
    )
    world: Any = open_source("tools")
    texts = {"relations": world.world.related(), "synonyms": world.world.synonyms}
    for name, lists in texts.items():
        descriptions.write(folder / f"{name}.json", lists)
    return diptych.train(
        "intra",
        "tools:count=3000",
        folder / "run",
        init=str(base),
        config={"depth": 2, **{name: str(folder / f"{name}.json") for name in texts}},
        steps=250,
        batch_size=32,
        lr=4e-3,
        quiet=True,
    ).model


def draw_intra(model: Any) -> Image.Image:
    """Tools that nobody holds, and where their verbs happen."""
    _, samples = first("tools:actor=false:split=test", 6)
    verbs = [next(iter(sample.captions("verb"))) for sample in samples]
    heat = model.heat(images_of(samples), verbs).numpy()
    truth = [np.asarray(sample.masks["heat"].decode().convert("L")) / 255 for sample in samples]
    shown = [enlarged(sample) for sample in samples]
    found = [laid_over(image, heat[at, at]) for at, image in enumerate(shown)]
    true = [laid_over(image, own) for image, own in zip(shown, truth, strict=True)]
    return sheet({"image": shown, "found": found, "truth": true}, verbs)


# denseclip: the class of each pixel


def denseclip(folder: Path) -> Any:
    """A segmentor that learns from 64 masks."""
    return diptych.train(
        "denseclip",
        "scenes:number=3:same=0:count=64",
        folder / "run",
        init="tiny",
        preset="small",
        steps=400,
        quiet=True,
    ).model


def draw_denseclip(model: Any) -> Image.Image:
    """Scenes with the classes of their pixels."""
    source, samples = first("scenes:number=3:same=0:split=val", 6)
    labels = model.segment(images_of(samples)).numpy()
    names = source.schema()["masks.class"].classes
    truth = [np.asarray(sample.masks["class"].decode()) for sample in samples]
    rows = {
        "image": [enlarged(sample) for sample in samples],
        "found": masked(samples, labels),
        "truth": masked(samples, truth),
    }
    there = np.unique([labels, truth]).tolist()
    legend = {names[number]: colour(number) for number in there if names[number] != GROUND}
    return sheet(rows, legend=legend)


def masked(samples: Sequence[Sample], labels: Any, side: int = SIDE) -> list[Image.Image]:
    """Images in grey under the colours of masks (N, H, W), as the viewer draws them; 0 has none."""
    found = []
    for sample, own in zip(samples, labels, strict=True):
        mask = Mask(BytesImage(png_of(Image.fromarray(own.astype(np.uint8)))))
        *_, picture = pictures(replace(sample, masks={"class": mask}, arrays={}, edits=()), {})
        found.append(Image.open(io.BytesIO(picture.draw(side))).convert("RGB"))
    return found


# dito: boxes that are found, and what a patch is similar to

WINDOWS = {"count": 2, "everywhere": 2}
LEAST = 0.1


def dito(folder: Path) -> Any:
    """A detector that learns from the boxes of scenes."""
    return diptych.train(
        "dito",
        "scenes:number=3:same=0:count=2000",
        folder / "run",
        init="tiny",
        config={
            "task": "detect",
            "backbone_rate": 0.1,
            "windows": WINDOWS,
            "proposals": {"most": 50},
            "boxes": {"sampled": 64},
        },
        steps=200,
        batch_size=16,
        optimizer="adamw",
        lr=3e-3,
        quiet=True,
    ).model


def draw_dito(model: Any) -> Image.Image:
    """Scenes with the boxes that are found, and the cosines of a patch with all others, before and
    after training, on one scale. The patch is the one in the middle of the first box."""
    source, samples = first("scenes:number=3:same=0:split=val", 4)
    shown = [enlarged(sample, WIDE) for sample in samples]
    found = [
        drawn_on(image, own, np.zeros((len(own.boxes), WIDE, WIDE), bool), model.classes)
        for image, own in zip(shown, model.detect(images_of(samples), least=LEAST), strict=True)
    ]
    given = [shares(sample, size_of(sample.images["main"]), things(source)) for sample in samples]
    truth = [
        boxed(image, boxes, names, [RIGHT] * len(names))
        for image, (boxes, names) in zip(shown, given, strict=True)
    ]
    middles = [boxes[0].reshape(2, 2).mean(0) for boxes, _ in given]
    pixels = torch.stack([model.preprocess.read(image) for image in images_of(samples)])
    towers = {"before": diptych.load("tiny").encoder.image, "after": model.encoder.image}
    maps = {name: cosines(tower, pixels, middles) for name, tower in towers.items()}
    least = min(own.min() for own in maps.values())
    local = {
        name: [
            boxed(
                laid_over(image, (each - least) / (1 - least)),
                [cell_of(middle, each)],
                [""],
                ["#ffffff"],
            )
            for image, each, middle in zip(shown, own, middles, strict=True)
        ]
        for name, own in maps.items()
    }
    return sheet({"found": found, "truth": truth, **local})


@torch.no_grad()
def cosines(tower: Any, pixels: torch.Tensor, middles: Sequence[np.ndarray]) -> np.ndarray:
    """The cosine (N, h, w) of the patch at a place (x, y) of each image with all of its patches."""
    maps = F.normalize(map_of(in_windows(tower, pixels, Windows(**WINDOWS))), dim=1)
    found = []
    for own, (x, y) in zip(maps, middles, strict=True):
        at = own[:, int(y * own.shape[1]), int(x * own.shape[2])]
        found.append(torch.einsum("d,dhw->hw", at, own))
    return torch.stack(found).numpy()


def cell_of(place: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The sides (4,), as shares of the image, of the cell of a grid (h, w) at a place (x, y)."""
    sides = np.array(grid.shape[::-1])
    corner = np.floor(place * sides)
    return np.concatenate([corner / sides, (corner + 1) / sides])


def boxed(
    image: Image.Image, boxes: Any, texts: Sequence[str], paints: Sequence[str]
) -> Image.Image:
    """An image with boxes (n, 4), shares of it, each with a text in its colour."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    font = outlines(SMALL)
    places = np.asarray(boxes) * [*image.size, *image.size]
    for (x0, y0, x1, y1), paint in zip(places, paints, strict=True):
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=paint)
    for (x0, y0, _, _), text, paint in zip(places, texts, paints, strict=True):
        if text:
            right = image.width - pen.textlength(text, font)
            place = (max(0, min(x0, right)), max(0, y0 - SMALL))
            pen.rectangle(pen.textbbox(place, text, font), fill=paint)
            pen.text(place, text, "white", font)
    return drawn


# villa: which region has which attribute


PAGES = "docmnist:complexity=16"


def villa(folder: Path) -> list[Any]:
    """What the mapping says of the regions of the pages that it learns from, after a CLIP on others."""
    diptych.train(
        "clip",
        "docmnist:complexity=4:start=1000:count=3000",
        folder / "start",
        image_tower="conv:image_size=96:widths=(32,64,128):depths=(1,1,1)",
        embed_dim=64,
        config={"augment": {}},
        steps=500,
        batch_size=64,
        lr=4e-3,
        quiet=True,
    )
    diptych.train(
        "villa",
        f"{PAGES}:count=1000",
        folder / "run",
        init=str(folder / "start"),
        config={"most": 9, "templates": ("{}",), "mapping_lr": 3e-3},
        steps=300,
        batch_size=64,
        quiet=True,
    )
    lines = (folder / "run" / "regions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["regions"] for line in lines]


def draw_villa(found: Sequence[Any]) -> Image.Image:
    """Pages, and in the place of each region its attributes: right, wrong, and missed."""
    source, samples = first(PAGES, 3)
    matcher = Matcher(ATTRIBUTES)
    texts = []
    for sample, regions in zip(samples, found, strict=False):
        size = size_of(sample.images["main"])
        truth = attributes_of(sample, size, things(source), matcher)
        page = Image.new("RGB", (PAGE, PAGE), "white")
        pen = ImageDraw.Draw(page)
        for region, own in zip(regions, truth, strict=True):
            x0, y0, x1, y1 = (PAGE * side for side in region["box"])
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=MISSED)
            said = [
                (name, MISSED if name not in region["attributes"] else RIGHT if there else WRONG)
                for name, there in zip(matcher.names, own, strict=True)
                if there or name in region["attributes"]
            ]
            step = min(SMALL + 2, (y1 - y0 - 2) / max(1, len(said)))
            for at, (name, paint) in enumerate(said):
                pen.text((x0 + GAP, y0 + 1 + at * step), name, paint, outlines(SMALL))
        texts.append(page)
    legend = {"right": RIGHT, "wrong": WRONG, "missed": MISSED}
    return sheet(
        {"page": [enlarged(each, PAGE) for each in samples], "regions": texts}, legend=legend
    )


# clim: the names of boxes, and mosaics

TILE = 32


def clim(folder: Path) -> Any:
    """`tiny`, continued on mosaics."""
    return diptych.train(
        "clim",
        f"{ALONE}:count=3000",
        folder / "run",
        init="tiny",
        config={"choices": (2, 3), "group": 64, "tile": TILE, "size": 3 * TILE},
        steps=300,
        batch_size=64,
        optimizer="adamw",
        lr=3e-4,
        quiet=True,
    ).model


ALONE = "scenes:number=1"


def draw_clim(model: Any) -> Image.Image:
    """Crowded scenes with the names of their boxes by `tiny` and after training, and mosaics."""
    source, samples = first("scenes:number=6:same=0:occlusion=1:split=val", 4)
    names = things(source)
    shown = [enlarged(sample, WIDE) for sample in samples]
    given = [shares(sample, size_of(sample.images["main"]), names) for sample in samples]
    rows = {}
    for title, each in (("tiny", diptych.load("tiny")), ("clim", model)):
        likely = each.classify_regions(images_of(samples), [boxes for boxes, _ in given], names)
        row = []
        for image, (boxes, truth), own in zip(
            shown, given, likely.argmax(-1).tolist(), strict=True
        ):
            said = [names[number] for number in own[: len(boxes)]]
            paints = [RIGHT if a == b else WRONG for a, b in zip(said, truth, strict=True)]
            row.append(boxed(image, boxes, said, paints))
        rows[title] = row
    rows["truth"] = [
        boxed(image, boxes, truth, [MISSED] * len(truth))
        for image, (boxes, truth) in zip(shown, given, strict=True)
    ]
    return sheet({**rows, "mosaics": mosaics()})


def mosaics() -> list[Image.Image]:
    """The mosaics of 2 x 2 and 3 x 3 tiles of the first images, two of each."""
    _, samples = first(ALONE, 26)
    tiles = [each.decode().convert("RGB").resize((TILE, TILE)) for each in images_of(samples)]
    pixels = torch.stack([torch.from_numpy(np.array(tile)) for tile in tiles]).permute(0, 3, 1, 2)
    found = []
    for side, part in ((2, pixels[:8]), (3, pixels[8:])):
        made = assemble(part.float(), side, 3 * TILE).clamp(0, 255).byte().permute(0, 2, 3, 1)
        found += [Image.fromarray(own.numpy()).resize((WIDE, WIDE)) for own in made]
    return found


# cocu: the names that are added to a caption


def cocu(folder: Path) -> Any:
    """Scenes whose captions name one thing, with the concepts that are added to them by `tiny`."""
    data = "scenes:number=3-4:same=0:described=1:count=1000"
    file = folder / "concepts.jsonl"
    groups.concepts(data, "cocu", 8, file, 0)
    source = open_source(f"rewritten:{file}")
    return source, [source[at] for at in range(4)]


def draw_cocu(found: tuple[Any, Sequence[Sample]]) -> Image.Image:
    """Scenes with their captions, and below them what is shown: in the caption, added, or missed; and
    what is added and not shown."""
    source, samples = found
    names = source.schema()["boxes"].classes
    line = SMALL + 4
    font = outlines(SMALL)
    captions = []
    lists = []
    for sample in samples:
        [caption] = sample.captions("caption")
        captions.append(Image.new("RGB", (WIDE, 3 * line), "white"))
        text = "\n".join(textwrap.wrap(caption, 28))
        ImageDraw.Draw(captions[-1]).text((0, 0), text, INK, font, spacing=4)
        added = sample.captions("concept")
        shown = [names[box.label] for box in sample.boxes]
        rows = [
            (name, INK if name in caption else RIGHT if name in added else MISSED) for name in shown
        ]
        rows += [(name, WRONG) for name in added if name not in shown]
        lists.append(Image.new("RGB", (WIDE, 8 * line), "white"))
        pen = ImageDraw.Draw(lists[-1])
        for at, (name, paint) in enumerate(rows):
            pen.text((0, at * line), name, paint, font)
    return sheet(
        {"image": [enlarged(each, WIDE) for each in samples], "caption": captions, "names": lists},
        legend={
            "in the caption": "#282828",
            "added": RIGHT,
            "added, not shown": WRONG,
            "missed": MISSED,
        },
    )


PICTURES = {
    "intra": (intra, draw_intra),
    "denseclip": (denseclip, draw_denseclip),
    "clim": (clim, draw_clim),
    "dito": (dito, draw_dito),
    "cocu": (cocu, draw_cocu),
    "villa": (villa, draw_villa),
}


def main(name: str, folder: Path) -> None:
    train, draw = PICTURES[name]
    with tempfile.TemporaryDirectory() as work:
        draw(train(Path(work))).save(folder / f"{name}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "docs/pictures"))
