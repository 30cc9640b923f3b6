"""The pictures of the methods' pages that find regions and pixels are drawn from any model with the
abilities, here without its training."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import diptych
from diptych.data.sample import Text
from diptych.data.sources import open_source
from diptych.models.detection import Found

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "draw_regions.py"))


@pytest.fixture(scope="module")
def tiny():
    model = diptych.load("tiny")
    model.set_classes(open_source("scenes").schema()["masks.class"].classes)
    return model


def detector(tiny):
    """What finds the first class in all of each image."""
    found = Found(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]), torch.tensor([0.5]))
    return SimpleNamespace(
        detect=lambda images, least: [found] * len(images),
        classes=("cat",),
        preprocess=tiny.preprocess,
        encoder=tiny.encoder,
    )


def rewritten(tiny):
    """Scenes whose captions get the name of a thing that is shown, and of one that is not."""
    source, samples = TOOL["first"]("scenes:number=3-4:same=0:described=1", 4)
    names = source.schema()["boxes"].classes
    added = []
    for sample in samples:
        shown = {box.label for box in sample.boxes}
        other = min(set(range(len(names))) - shown)
        concepts = [Text(text=names[at], role="concept") for at in (min(shown), other)]
        added.append(replace(sample, texts=[*sample.texts, *concepts]))
    return source, added


def mapped(tiny):
    """Regions of three pages, each of which is a zero."""
    _, pages = TOOL["first"](TOOL["PAGES"], 3)
    return [
        [{"box": [each / 84 for each in box.xyxy], "attributes": ["zero"]} for box in page.boxes]
        for page in pages
    ]


MODELS = {"dito": detector, "cocu": rewritten, "villa": mapped}


@pytest.mark.parametrize("name", TOOL["PICTURES"])
def test_a_picture_is_drawn_of_what_a_model_finds(name, tiny):
    drawn = TOOL["PICTURES"][name][1](MODELS.get(name, lambda model: model)(tiny))
    stored = ROOT / "docs" / "pictures" / f"{name}.webp"
    with Image.open(stored) as shown:
        assert shown.width == drawn.width
    assert stored.stat().st_size < 60_000
    assert f"](../pictures/{name}.webp)" in (ROOT / "docs" / "methods" / f"{name}.md").read_text(
        "utf-8"
    )
    colours = drawn.getcolors(drawn.width * drawn.height)
    assert len(colours) > 100
