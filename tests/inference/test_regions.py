"""Boxes of a file are named, and combined with a detector's scores; in Python and on the command
line."""

import json

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.errors import InputError
from diptych.inference.regions import Fusion, fused, name_regions, read_boxes
from diptych.methods.store import load

NAMES = "cat,dog,strawberry"


@pytest.fixture(scope="module")
def model():
    return load("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, (width, height) in {"a.png": (80, 40), "b.png": (40, 40)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def boxes(folder, tmp_path):
    def write(*rows, **top):
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps({"boxes": list(rows), **top} if top else list(rows)))
        return path

    return write


def row(image, *box, **more):
    return {"image": str(image), "box": list(box), **more}


def test_boxes_are_named_in_the_order_of_the_images(model, folder, boxes):
    a, b = folder / "a.png", folder / "b.png"
    path = boxes(row(b, 0, 0, 20, 20), row(a, 10, 0, 80, 40), row(a, 0, 0, 8, 8))
    found, bad = name_regions(model, folder, path, NAMES, k=2)
    assert [(each.image, each.box) for each in found] == [
        (str(a), (10, 0, 80, 40)),
        (str(a), (0, 0, 8, 8)),
        (str(b), (0, 0, 20, 20)),
    ]
    assert not bad
    assert all(len(each.classes) == 2 and each.score is None for each in found)
    [alone] = name_regions(model, a, boxes(row(a, 10, 0, 80, 40)), NAMES, k=2)[0]
    assert alone.classes[0][0] == found[0].classes[0][0]
    assert alone.classes[0][1] == pytest.approx(found[0].classes[0][1], abs=1e-5)
    expected = model.classify_regions([a], [[[10 / 80, 0, 1, 1]]])[0, 0]
    assert alone.classes[0][1] == pytest.approx(float(expected.max()), abs=1e-5)


def test_scores_are_combined_by_a_weighted_geometric_mean(model, folder, boxes):
    a = folder / "a.png"
    path = boxes(
        row(a, 0, 0, 40, 40, name="cat", score=0.5),
        row(a, 0, 0, 40, 40, name="dog", score=0.25),
        model="x",
    )
    fusion = Fusion(0.1, 0.8, novel=("dog",))
    found, _ = name_regions(model, folder, path, NAMES, k=3, fusion=fusion)
    shares = model.classify_regions([a], [[[0, 0, 0.5, 1]]], scale=75)[0, 0].tolist()
    own = dict(zip(model.classes, shares, strict=True))
    assert found[0].score == pytest.approx(0.5**0.9 * own["cat"] ** 0.1, abs=1e-6)
    assert found[1].score == pytest.approx(0.25**0.2 * own["dog"] ** 0.8, abs=1e-6)
    assert fused(0.3, 0.9, 0.0) == pytest.approx(0.3)
    names, _ = name_regions(model, folder, path, fusion=fusion)
    assert {name for name, _ in names[0].classes} == {"cat", "dog"}  # the detector's


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "lists no boxes"),
        ('[{"image": "a"}]', "row 0 has no image with a box of four numbers"),
        ('[{"image": "a", "box": [1, 2]}]', "row 0 has no image with a box of four numbers"),
    ],
)
def test_files_that_hold_no_boxes_are_refused(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_boxes(path)


def test_boxes_that_fit_no_image_are_refused(model, folder, boxes):
    a = folder / "a.png"
    with pytest.raises(
        InputError, match=r"the box \(0, 0, 81, 10\) of .*a.png lies outside the image of 80 x 40"
    ):
        name_regions(model, folder, boxes(row(a, 0, 0, 81, 10)), NAMES)
    with pytest.raises(InputError, match="has boxes of c.png, which .* does not hold"):
        name_regions(model, folder, boxes(row("c.png", 0, 0, 8, 8)), NAMES)
    with pytest.raises(InputError, match="a box has no name or score"):
        name_regions(model, folder, boxes(row(a, 0, 0, 8, 8)), NAMES, fusion=Fusion(0.1, 0.8))
    path = boxes(row(a, 0, 0, 8, 8, name="cow", score=1))
    with pytest.raises(InputError, match="the class 'cow' is not among the names"):
        name_regions(model, folder, path, NAMES, fusion=Fusion(0.1, 0.8))
    with pytest.raises(InputError, match="the weights 0.1,2 are shares"):
        Fusion(0.1, 2)


def test_the_command_names_boxes(folder, boxes, capsys):
    path = str(boxes(row(folder / "a.png", 0, 0, 40, 40, name="cat", score=0.5)))
    asked = ["classify", "tiny", str(folder), "--boxes", path, "--names", NAMES]
    assert main([*asked, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["boxes"]
    assert found["box"] == [0, 0, 40, 40]
    assert "score" not in found
    assert main([*asked, "--fuse", "0.1,0.8", "--novel", "cat"]) == 0
    assert "score" in capsys.readouterr().out
    for extra, message in (
        (["--fuse", "much"], "--fuse is 'much'; give two weights"),
        (["--novel", "cat"], "give --fuse A,B too"),
        (["--route"], "--route is not about regions"),
    ):
        assert main([*asked, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["classify", "tiny", str(folder), "--names", NAMES, "--size", "64"]) == 2
    assert "--size is about regions; name them with --boxes" in capsys.readouterr().err
