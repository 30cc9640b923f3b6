"""The model of a trained segmentor: some of its classes, scores, whole images by windows; from a run on
the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import make_method, random_images

from diptych.cli import main
from diptych.data.images import FileImage
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.inference.segment import segment_source
from diptych.testing import Toy

NAMES = ("red", "a blue bar", "green")
VIT = "vit:image_size=32:patch=8:width=32:depth=4:heads=2"


def model(names=NAMES, **config):
    small = {"width": 16, "inner": 16, "decoder_width": 16}
    made = make_method("denseclip", image=VIT, **{**small, **config}).model
    made.set_classes(names)
    return made.to_model(made.tokenizer, made.image.preprocess, "mine")


@pytest.fixture
def painter(monkeypatch):
    """A model whose logits are the channels of the pixels."""
    made = model()
    mean, std = made.delivered.image.mean, made.delivered.image.std

    def paint(x, texts=None):
        colours = x if not x.is_floating_point() else (x * std + mean) * 255
        return colours.float(), torch.zeros(len(x), 3, 4, 4)

    monkeypatch.setattr(made.delivered, "forward", paint)
    return made


def test_it_names_pixels_by_its_head():
    made = model()
    x = random_images(5)
    found = made.segment(x, batch_size=2)
    assert (found.shape, found.dtype) == ((5, 32, 32), torch.int64)
    with torch.no_grad():
        logits, scores = made.delivered.eval()(x)
        large = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    assert torch.equal(found, large.argmax(1))
    torch.testing.assert_close(made.score_map(x), scores, atol=1e-5, rtol=1e-4)
    assert made.classes == NAMES
    with pytest.raises(InputError, match="no route 'values'"):
        made.segment(x, route="values")
    with pytest.raises(InputError, match="use segment"):
        made.class_logits(x)


def test_pixels_are_given_the_classes_that_are_chosen():
    made = model()
    x = random_images(2)
    scores = made.score_map(x)
    made.set_classes(["green", "red"])
    torch.testing.assert_close(made.score_map(x), scores[:, [2, 0]])
    assert made.segment(x).unique().max() < 2
    for names, message in (
        (["greem"], "unknown class that mine was trained on 'greem'; did you mean 'green'"),
        (["red", "red"], "2 class names, of which 1 differ"),
        ([], "0 class names"),
    ):
        with pytest.raises(InputError, match=message):
            made.set_classes(names)
    with pytest.raises(InputError, match="prompts of its own"):
        made.set_classes(["red"], ["a {}"])


@pytest.mark.parametrize("size", [(32, 32), (90, 41), (20, 200), (7, 5)])
def test_a_whole_image_has_a_class_at_each_pixel(painter, tmp_path, size):
    numbers = np.arange(size[0]) * 3 // size[0]
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, np.arange(size[0]), numbers] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = painter.segment_whole(FileImage(str(tmp_path / "a.png")), batch_size=2)
    assert tuple(found.shape) == size[::-1]
    expected = torch.from_numpy(np.broadcast_to(numbers, size[::-1]).copy())
    assert float((found == expected).double().mean()) > (0.9 if min(size) > 9 else 0.5)


def test_logits_of_windows_are_averaged(monkeypatch, tmp_path):
    """Windows of 32 of 48 pixels; class 0 has the logits 1 and 3 in them, class 1 always 1.5."""
    made = model()
    given = iter([1.0, 3.0])

    def constant(x, texts=None):
        logits = torch.full((1, 3, 32, 32), next(given))
        logits[:, 1] = 1.5
        logits[:, 2] = 0
        return logits, None

    monkeypatch.setattr(made.delivered, "forward", constant)
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    found = made.segment_whole(FileImage(str(tmp_path / "a.png")), batch_size=1)
    assert found[0].tolist() == [1] * 16 + [0] * 32


def test_the_suite_uses_the_head_and_restores_its_classes():
    made = model(("ground", "drawing"))
    made.set_classes(["drawing"])
    source = Toy(6, ["images.main", "masks.class"])
    found = evaluate(made, source, ["segment"])["segment"]
    assert (found["classes"], found["n"]) == (2, 6)
    assert made.classes == ("drawing",)
    with pytest.raises(InputError, match="prompts of its own"):
        evaluate(made, source, ["segment"], templates=("a {}",))
    with pytest.raises(InputError, match="unknown class that mine was trained on 'ground'"):
        evaluate(model(("drawing",)), source, ["segment"])


def test_a_run_is_trained_and_segments_on_the_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    options = (
        "--method.width 16 --method.inner 16 --method.decoder_width 16 --steps 2 --batch-size 4"
    )
    data = "scenes:count=8:number=2"
    begin = ["train", "denseclip", "--init", "tiny", "--data", data, "--out", str(run)]
    assert main([*begin, *options.split()]) == 0
    image = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8)).save(image)
    capsys.readouterr()
    assert (
        main(
            ["segment", str(run), str(image), "--whole", "--out", str(tmp_path / "maps"), "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert "background" in found["names"]
    labels = np.array(Image.open(tmp_path / "maps" / "wide.png"))
    assert labels.shape == (40, 90)
    assert labels.max() < len(found["names"])
    assert main(["segment", str(run), str(image), "--names", "dog,unicorn"]) == 2
    assert "unknown class" in capsys.readouterr().err
    assert main(["segment", "tiny", str(image)]) == 2
    assert "diptych segment has no classes" in capsys.readouterr().err
    assert main(["segment", "tiny", str(image), "--names", "dog,cat", "--whole"]) == 2
    assert "`diptych train denseclip --init MODEL`" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_counted(painter, tmp_path):
    Image.new("RGB", (40, 32), (0, 200, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    found = segment_source(painter, tmp_path, whole=True)
    assert [each.shares[0] for each in found] == [("a blue bar", 1.0)]
    assert sum(found.bad.values()) == 1
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError):
        segment_source(painter, tmp_path, whole=True)
