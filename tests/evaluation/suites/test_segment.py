"""Zero-shot segmentation: a model that sees colours finds all, one that swaps two finds none of
them; where an image is like a sentence, in numbers and on the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.helpers import Plane, Rows
from tests.evaluation.suites.helpers import COLOURS, Seer

from diptych.data.images import Preprocess
from diptych.data.sample import Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.segment import ious_of
from diptych.inference.ground import Grounded, laid_over, part_seen
from diptych.methods.store import load

NAMES = ("background", "red", "green", "blue")


def quarters(*cells, names=NAMES):
    """One image of four quarters; white is background."""
    pixels, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for at, name in enumerate(cells):
        where = np.s_[at // 2 * 4 : (at // 2 + 1) * 4, at % 2 * 4 : (at % 2 + 1) * 4]
        pixels[where] = COLOURS[name]
        mask[where] = 0 if name == "white" else names.index(name)
    sample = Sample(
        key="a", source="rows", images={"main": Plane(pixels)}, masks={"class": Plane(mask)}
    )
    return Rows([sample], fields={"masks.class": Field(kind="mask", classes=names)})


def test_who_sees_colours_finds_every_class_and_the_ground_does_not_count():
    found = evaluate(
        Seer(), quarters("red", "green", "blue", "white"), ["segment"], templates=("it is {}",)
    )["segment"]
    assert (found["miou"], found["accuracy"], found["n"], found["classes"]) == (1.0, 1.0, 1, 3)
    assert found["by_class"] == {name: {"iou": 1.0} for name in NAMES[1:]}
    assert found["chance_accuracy"] == pytest.approx(1 / 3)
    assert found["chance_miou"] == pytest.approx(1 / 9)


def test_who_takes_red_for_green_finds_blue_alone():
    swapped = COLOURS | {"red": COLOURS["green"], "green": COLOURS["red"]}
    found = evaluate(
        Seer(swapped), quarters("red", "green", "blue", "blue"), ["segment"], templates=("{}",)
    )["segment"]
    assert found["by_class"] == {"red": {"iou": 0.0}, "green": {"iou": 0.0}, "blue": {"iou": 1.0}}
    assert found["accuracy"] == 0.5


def test_counts_give_the_overlap_of_sets():
    truth, predicted = np.random.default_rng(0).integers(0, 4, (2, 200))
    table = np.zeros((5, 5), int)
    np.add.at(table, (truth, predicted), 1)
    for number, iou in ious_of(table).items():
        a, b = (set(np.flatnonzero(each == number).tolist()) for each in (truth, predicted))
        assert iou == pytest.approx(len(a & b) / len(a | b))


def test_a_mask_without_names_is_refused():
    source = quarters("red", "green", "blue", "white")
    source.fields["masks.class"] = Field(kind="mask")
    with pytest.raises(InputError, match="numbers without class names"):
        evaluate(Seer(), source, ["segment"])


# ---- one image


def test_heat_is_the_cosine_of_the_texts_with_the_positions():
    tiny = load("tiny")
    pixels = torch.randint(0, 256, (2, 3, *[tiny.preprocess.size] * 2), dtype=torch.uint8)
    heat = tiny.heat(pixels, ["a cat", "a bus"])
    encoded = tiny.represent(pixels)
    with torch.no_grad():
        positions = torch.nn.functional.normalize(
            tiny.encoder.project_image(encoded.patches), dim=-1
        )
    expected = torch.einsum(
        "npe,ke->nkp", positions, tiny.embed_texts(["a cat", "a bus"])
    ).unflatten(2, encoded.grid)
    torch.testing.assert_close(heat, expected)


@pytest.mark.parametrize(
    "how", [{}, {"resize": "squash"}, {"resize": "longest"}, {"margin": 2.0}, {"ratio": 1.25}]
)
def test_the_part_that_is_seen_is_what_the_pixels_show(how):
    """A white square that fills the part that is seen, and no more, fills the pixels."""
    preprocess = Preprocess(size=20, **how)
    seen = part_seen(preprocess, (200, 100))
    pixels = np.zeros((100, 200, 3), np.uint8)
    x0, y0, x1, y1 = (round(value) for value in seen)
    pixels[max(0, y0) : y1, max(0, x0) : x1] = 255
    lit = preprocess(Image.fromarray(pixels))[0].float() / 255
    inside = (min(x1, 200) - max(x0, 0)) * (min(y1, 100) - max(y0, 0)) / ((x1 - x0) * (y1 - y0))
    bars = 1 - inside if how.get("resize") == "longest" else 0  # which are white there
    assert lit.mean() == pytest.approx(inside + bars, abs=0.08)


def test_hot_places_are_red_and_cold_ones_grey():
    image = laid_over(Image.new("RGB", (40, 40), (90, 90, 90)), np.array([[0.0, 1.0]]))
    assert image.getpixel((2, 20)) == (90, 90, 90)
    red, green, blue = image.getpixel((38, 20))
    assert red > green + 50
    assert red > blue + 50
    flat = Grounded("a", np.full((2, 2), 0.3), (0, 0), (0, 0, 1, 1))
    assert (flat.weights == 1).all()


def test_the_command_writes_a_image_and_numbers(tmp_path, capsys):
    from diptych.cli import main

    place = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), (200, 30, 30)).save(place)
    assert main(["ground", "tiny", str(place), "a red bus"]) == 0
    with Image.open(tmp_path / "photo-heat.png") as heat:
        assert heat.size == (384, 384)
    capsys.readouterr()
    assert main(["ground", "tiny", str(place), "a red bus", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert np.array(reported["cosines"]).shape == tuple(reported["grid"])
    assert reported["seen"] == [15, 0, 75, 60]
    assert 15 <= reported["best"]["x"] <= 75
    for words, message in (
        (["tiny", str(place)], "has no sentence"),
        (["tiny", str(tmp_path / "no.png"), "a bus"], "there is no such file"),
        (["tiny", str(place), "a bus", "--out", str(tmp_path / "a.jpg")], "name a PNG file"),
        (["tiny", str(place), "a bus", "--out", str(place)], "would replace"),
        (["tiny-lm", str(place), "a bus"], "heat"),
    ):
        assert main(["ground", *words]) == 2
        assert message in capsys.readouterr().err
