"""The world `docmnist`: pages stay within their complexity, texts name what is drawn and nothing else,
boxes tell which attributes they have, and splits share no digit."""

import colorsys
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data.matcher import Matcher
from diptych.data.sources import open_source
from diptych.data.views import sentences
from diptych.data.worlds.docmnist import ATTRIBUTES, Config, World
from diptych.data.worlds.docmnist.draw import CELL, CORNERS, INK, SHARES, cell, digits
from diptych.data.worlds.docmnist.words import COLOURS, DIGITS, SENTENCES, SHAPES, SIZES
from diptych.errors import InputError

ROOT = Path(__file__).parents[3]
MATCHER = Matcher(ATTRIBUTES, plural=False)


def facts_of(spec):
    source = open_source(spec)
    return [source.world.sample(source.seed, at) for at in range(len(source))]


@pytest.mark.parametrize(("complexity", "mean"), [(4, 3.56), (8, 7.35), (16, 15.20)])
def test_pages_have_the_published_number_of_pairs(complexity, mean):
    pairs = [facts.pairs for facts in facts_of(f"docmnist:count=600:complexity={complexity}")]
    assert max(pairs) <= complexity
    assert min(pairs) >= 2
    assert np.mean(pairs) == pytest.approx(mean, abs=0.15)


def test_a_cell_has_two_attributes_or_four():
    seen = set()
    for facts in facts_of("docmnist:count=300"):
        places = [each.place for each in facts.cells]
        assert len(set(places)) == len(places)
        for each in facts.cells:
            digit, colour, *shape = each.attributes
            assert digit in DIGITS
            assert colour in COLOURS
            assert len(shape) in (0, 2)
            seen.update(each.attributes)
            assert all(CORNERS[0] <= side <= CORNERS[1] for side in each.corner)
    assert seen == set(ATTRIBUTES)
    assert len(ATTRIBUTES) == 20


def test_a_text_names_what_is_drawn_once_a_sentence():
    source = open_source("docmnist:count=60")
    for at in range(60):
        sample = source[at]
        facts = source.world.sample(0, at)
        [text] = sample.captions()
        said = sentences(text)
        assert len(set(said)) == len(said) <= facts.pairs
        assert text == " . ".join(said)
        assert all(len(MATCHER.find(each)) == 1 for each in said)
        named = {name for each in said for name in MATCHER.find(each)}
        assert named == {name for each in facts.cells for name in each.attributes}


def test_each_form_names_its_own_attribute_alone():
    for names, forms in SENTENCES.items():
        for form in forms:
            assert not MATCHER.find(form.format("thing"))
            assert all(MATCHER.find(form.format(name)) == [name] for name in names)


def test_boxes_are_the_cells_and_tell_their_attributes():
    source = open_source("docmnist:count=20")
    for at in range(20):
        sample = source[at]
        facts = source.world.sample(0, at)
        pixels = np.asarray(sample.images["main"].decode())
        assert pixels.shape == (84, 84, 3)
        rest = pixels.copy()
        for each, box in zip(facts.cells, sample.boxes, strict=True):
            assert MATCHER.find(box.text) == list(each.attributes)
            assert ATTRIBUTES[box.label] == DIGITS[each.digit]
            x0, y0, x1, y1 = map(int, box.xyxy)
            assert (x1 - x0, y1 - y0) == (CELL, CELL)
            assert pixels[y0:y1, x0:x1].any()
            rest[y0:y1, x0:x1] = 0
        assert not rest.any(), "nothing is drawn outside of the cells"
        assert sample.labels["pairs"] == facts.pairs


@pytest.mark.parametrize("name", COLOURS)
def test_ink_has_its_colour(name):
    grey = digits("train")[3][0]
    pixels = cell(grey, name, "", "", (5, 5))
    hue = colorsys.rgb_to_hsv(*(pixels[grey >= INK][0] / 255))[0]
    assert hue == pytest.approx(COLOURS.index(name) / 5, abs=0.002)
    assert len(np.unique(pixels[grey >= INK], axis=0)) == 1
    faint = pixels[grey < INK]
    assert (faint == faint[:, :1]).all(), "what is fainter stays grey"


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_outlines_of_three_sizes_within_the_cell(shape):
    empty = np.zeros((CELL, CELL), np.uint8)
    widths = []
    for size in SIZES:
        for corner in ((CORNERS[0],) * 2, (CORNERS[1],) * 2):
            pixels = cell(empty, "red", shape, size, corner)
            assert set(np.unique(pixels)) == {0, 255}
        columns = np.flatnonzero(pixels[..., 0].any(0))
        widths.append(int(columns[-1] - columns[0] + 1))
    assert widths == ([3, 7, 11] if shape == "circle" else [2, 5, 8])
    assert not pixels[CORNERS[1] + 2, CORNERS[1] + 2].any(), "it is hollow"


def test_splits_share_no_digit():
    images = {split: np.concatenate(digits(split)) for split in SHARES}
    assert sum(map(len, images.values())) == 1797
    assert min(len(own) for split in SHARES for own in digits(split)) >= 20
    flat = {split: {image.tobytes() for image in own} for split, own in images.items()}
    assert not flat["train"] & flat["test"]
    assert not flat["train"] & flat["val"]


def test_a_budget_of_pairs_gives_a_number_of_pages():
    world = World(Config(complexity=8))
    pages = world.within(500)
    total = sum(world.sample(0, at).pairs for at in range(pages))
    assert total <= 500 < total + world.sample(0, pages).pairs
    assert world.within(1) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("complexity=3", "it must be from 4, the pairs of a digit with a shape, to 36"),
        ("complexity=37", "to 36"),
        ("split=dev", "unknown split of docmnist"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        open_source(f"docmnist:{options}")


def test_the_picture_of_the_docs_shows_these_pages():
    """docs/worlds/docmnist.webp, which is lossy, by tools/draw_docmnist.py."""
    drawn = runpy.run_path(str(ROOT / "tools" / "draw_docmnist.py"))["draw"]()
    shown = Image.open(ROOT / "docs" / "worlds" / "docmnist.webp").convert("RGB")
    assert shown.size == drawn.size
    assert np.abs(np.asarray(shown, float) - np.asarray(drawn, float)).mean() < 6
