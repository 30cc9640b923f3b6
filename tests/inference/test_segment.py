"""Segmentation of pictures: label maps of the size of the picture, their legend, and shares."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.cli import main
from diptych.data.images import Preprocess
from diptych.data.masks import VOID
from diptych.errors import InputError
from diptych.inference.segment import palette, segment_source
from diptych.methods.store import load
from diptych.models.dense import by_pixel, patch_vectors

NAMES = ["red", "green", "blue"]


class Painter:
    """Its class of a pixel is its strongest channel."""

    name = "painter"
    preprocess = Preprocess(size=16)
    classes = ()

    def set_classes(self, names, templates):
        assert all("{}" in template for template in templates)
        self.classes = tuple(names)

    def segment(self, images, *, batch_size, route):
        return images.int().argmax(1)


def picture(path, size, *bands):
    """A picture of vertical bands of equal width in the colours of classes."""
    numbers = np.repeat(bands, size[0] // len(bands))
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, np.arange(size[0]), numbers] = 200
    Image.fromarray(pixels).save(path)
    return np.broadcast_to(numbers, (size[1], size[0]))


def test_a_map_has_the_size_of_the_picture_and_says_what_the_model_does_not_see(tmp_path):
    (tmp_path / "in").mkdir()
    square = picture(tmp_path / "in" / "a.png", (32, 32), 0, 0, 2, 1)
    wide = picture(tmp_path / "in" / "b.png", (64, 16), 0, 1, 2, 0)
    out = tmp_path / "maps"
    found = segment_source(Painter(), tmp_path / "in", NAMES, out=out)
    assert [each.file for each in found] == ["a.png", "b.png"]
    assert dict(found[0].shares) == pytest.approx({"red": 0.5, "green": 0.25, "blue": 0.25})
    assert found[0].shares[0][0] == "red"
    first, second = (np.array(Image.open(out / each.file)) for each in found)
    assert (first == square).mean() > 0.9  # bicubic at the borders
    assert first.shape == (32, 32)
    assert second.shape == (16, 64)
    seen = np.s_[:, 24:40]  # the centre
    assert (second[seen] == wide[seen]).all()
    assert (np.delete(second, range(24, 40), axis=1) == VOID).all()
    legend = json.loads((out / "legend.json").read_text())
    assert [each["name"] for each in legend["classes"]] == NAMES
    colours = Image.open(out / "a.png").convert("RGB").getcolors()
    assert {colour for _, colour in colours} == {
        tuple(each["colour"]) for each in legend["classes"]
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "maps"]


def test_pictures_of_one_name_get_files_of_their_own_and_damaged_ones_are_counted(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        picture(tmp_path / "in" / folder / "A b.png", (16, 16), 1)
    (tmp_path / "in" / "x" / "bad.png").write_bytes(b"no image")
    found = segment_source(Painter(), tmp_path / "in", "red,green,blue", out=tmp_path / "out")
    assert [each.file for each in found] == ["A_b.png", "A_b-2.png"]
    assert sum(found.bad.values()) == 1
    assert found.records()[0]["green"] == 1.0


def test_an_error_leaves_nothing_behind(tmp_path):
    picture(tmp_path / "a.png", (16, 16), 1)
    with pytest.raises(InputError, match="at most 255 classes, not 300"):
        segment_source(Painter(), tmp_path, [str(n) for n in range(300)], out=tmp_path / "out")
    with pytest.raises(InputError, match="no route 'heads'"):
        segment_source(load("tiny"), tmp_path / "a.png", NAMES, route="heads", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_command_gives_what_the_model_says_by_its_prompts(tmp_path, capsys):
    picture(tmp_path / "a.png", (40, 40), 0, 2)
    tiny = load("tiny")
    for route in ("tokens", "values"):
        line = [
            "segment",
            "tiny",
            str(tmp_path / "a.png"),
            "--names",
            "cat,sky,bus",
            "--route",
            route,
        ]
        assert main([*line, "--template", "a {}", "--template", "one {}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        texts = [
            tiny.embed_texts([f"a {name}", f"one {name}"]).mean(0) for name in ("cat", "sky", "bus")
        ]
        texts = torch.nn.functional.normalize(torch.stack(texts), dim=1)
        (positions,), grid = patch_vectors(tiny, tmp_path / "a.png", route=route)
        labels = by_pixel((positions @ texts.T).T.unflatten(1, grid), (tiny.preprocess.size,) * 2)
        expected = {
            name: float((labels == at).float().mean())
            for at, name in enumerate(("cat", "sky", "bus"))
        }
        assert found["images"][0]["shares"] == pytest.approx(expected)
    assert main([*line, "--out", str(tmp_path / "maps")]) == 0
    assert "legend.json" in capsys.readouterr().out


def test_colours_of_classes_differ():
    assert len(np.unique(palette()[:VOID], axis=0)) == VOID
