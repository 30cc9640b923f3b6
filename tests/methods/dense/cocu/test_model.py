"""Segments named by texts: scores, background, windows, the suite; against loops."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.suites.helpers import COLOURS
from tests.factories import make_method, random_images

from diptych.data.images import FileImage
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.inference.segment import segment_source
from diptych.methods.dense.cocu.groupvit import Segments
from diptych.methods.dense.cocu.model import is_foreground, segment_scores
from diptych.testing import Toy

TOWER = "cocu.groupvit:image_size=32:patch=8:width=32:heads=2:depths=(1,1,1):groups=(4,3)"
HEAD = "mlp:hidden=32:bias=true:last_bias=true"
NAMES = ["red", "green", "blue", "background"]


def model(**config):
    made = make_method("cocu", image=TOWER, projection=HEAD, **config)
    return made.model.to_model(made.make.tokenizer, made.model.image.preprocess, "mine")


def test_scores_are_products_of_two_softmaxes():
    """Logits 2, 1 and 0; all kept, or the best two of the image."""
    u = torch.tensor([[2.0, 1, 0]], dtype=torch.float64)
    classes = torch.eye(3, dtype=torch.float64)
    p = [math.exp(x) / (math.e**2 + math.e + 1) for x in (2, 1, 0)]
    found = segment_scores(u[None], u, classes, 1.0, 5)
    assert found.flatten().tolist() == pytest.approx([x * x for x in p])
    assert found.flatten().tolist() == pytest.approx([0.4425, 0.0599, 0.0081], abs=5e-5)
    two = segment_scores(u[None], u, classes, 1.0, 2)
    assert two.flatten().tolist() == pytest.approx([0.4863, 0.0658, 0], abs=5e-5)


def test_classes_are_kept_by_the_vector_of_the_image():
    groups = torch.tensor([[[0.0, 5.0]]])
    found = segment_scores(groups, torch.tensor([[1.0, 0.0]]), torch.eye(2), 1.0, 1)
    assert found[0, 0, 1] == 0
    assert found[0, 0, 0] > 0


def test_what_no_class_fits_is_background_but_never_all():
    scores = torch.tensor([[[0.9, 0.1], [0.2, 0.5]], [[0.1, 0.2], [0.3, 0.1]]])
    assert is_foreground(scores, 0.95).tolist() == [[True, False], [False, True]]
    assert is_foreground(scores, 0.5).tolist() == [[True, True], [False, True]]
    assert is_foreground(scores, 0.0).all()


def slow(made, x, names, threshold):
    """The classes of the pixels of preprocessed images, by loops over segments."""
    encoder = made.encoder.eval()
    with torch.no_grad():
        tokens, shares = encoder.image.segments(x)
        large = torch.nn.functional.interpolate(shares, x.shape[-2:], mode="bilinear")
        owners = large.argmax(1)
        scale = float(encoder.logit_scale())
        classes = {name: made.embed_texts(f"a {name}")[0] for name in names if name != "background"}

        def unit(vector):
            return vector / vector.norm()

        found = torch.zeros(owners.shape, dtype=torch.int64)
        for at in range(len(x)):
            whole = unit(encoder.image_projection(tokens[at].mean(0)[None])[0])
            fit = {name: float(whole @ text) for name, text in classes.items()}
            kept = sorted(fit, key=lambda name: -fit[name])[: made.best]
            labels = []
            tops = []
            for token in tokens[at]:
                u = unit(encoder.image_projection(token[None])[0])
                raw = {name: math.exp(scale * float(u @ text)) for name, text in classes.items()}
                score = {
                    name: raw[name] / sum(raw.values()) * raw[name] / sum(raw[k] for k in kept)
                    for name in kept
                }
                best = max(score, key=lambda name: score[name])
                labels.append(names.index(best))
                tops.append(score[best])
            for group, top in enumerate(tops):
                if "background" in names and top < min(threshold, max(tops)):
                    labels[group] = names.index("background")
            found[at] = torch.tensor(labels)[owners[at]]
    return found


@pytest.mark.parametrize("names", [NAMES, NAMES[:3]])
def test_pixels_have_the_class_of_their_segment(names):
    made = model(best=2)
    made.set_classes(names, ["a {}"])
    x = made.encoder.image.pixels(random_images(5))
    expected = slow(made, x, names, 0.95)
    found = made.segment(x, batch_size=2)
    assert (found.dtype, found.shape) == (torch.int64, (5, 32, 32))
    assert torch.equal(found, expected)
    if "background" in names:
        assert (found == 3).any()
        made.background = 0.0
        assert not (made.segment(x) == 3).any()


@pytest.fixture
def painter(monkeypatch):
    """A model of three segments, for the red, the green and the blue pixels, that has no doubt what each
    of them is."""
    made = model(best=3)
    tower = made.encoder.image

    def segments(x):
        colours = x if not x.is_floating_point() else x * tower.std + tower.mean
        return Segments(torch.eye(3).expand(len(x), 3, 3), colours.float())

    monkeypatch.setattr(tower, "segments", segments)
    monkeypatch.setattr(made.encoder, "project_image", lambda tokens: 20 * tokens)
    with torch.no_grad():
        made.encoder.logit_scale.value.fill_(math.log(20))
    made.classes = ("blue", "red", "green")
    made._class_vectors = torch.eye(3)[[2, 0, 1]]
    return made


@pytest.mark.parametrize("size", [(64, 64), (90, 71), (128, 300)])
def test_a_whole_image_has_a_class_at_each_pixel(painter, tmp_path, size):
    third = np.arange(size[0]) * 3 // size[0]
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, np.arange(size[0]), third] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = painter.segment_whole(FileImage(str(tmp_path / "a.png")), batch_size=2)
    expected = torch.tensor([1, 2, 0])[torch.from_numpy(third)].expand(size[1], -1)
    assert float((found == expected).double().mean()) > 0.95


def test_a_class_that_fits_no_segment_is_background_in_a_whole_image(painter, tmp_path):
    """Blue is no class, so the blue segment is as like to both others."""
    painter.classes = ("red", "background", "green")
    painter._class_vectors = torch.eye(3)[[0, 2, 1]]
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48, 0] = pixels[:, 48:, 2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = painter.segment_whole(FileImage(str(tmp_path / "a.png")))
    assert found[:, :46].unique().tolist() == [0]
    assert found[:, 50:].unique().tolist() == [1]


def test_what_it_cannot_do_is_refused():
    made = model()
    x = random_images(1)
    with pytest.raises(InputError, match="mine knows no classes"):
        made.segment(x)
    with pytest.raises(InputError, match="mine knows no classes"):
        made.segment_whole(None)
    made.set_classes(["red"])
    with pytest.raises(InputError, match="no route 'values'"):
        made.segment(x, route="values")
    with pytest.raises(InputError, match="no image to segment"):
        made.segment([])
    made.set_classes(["background"])
    with pytest.raises(InputError, match="by the background alone"):
        made.segment(x)


def test_the_suite_counts_the_background_and_tells_the_rule():
    made = model()
    made.set_classes(["red"])
    source = Toy(6, ["images.main", "masks.class"])
    found = evaluate(made, source, ["segment"])["segment"]
    assert (found["n"], found["classes"]) == (6, 2)
    other = evaluate(made, source, ["segment"], background="0.5")["segment"]
    assert found["protocol"] != other["protocol"]
    assert (made.classes, made.background) == (("red",), 0.95)
    for given in ("high", "1.5"):
        with pytest.raises(InputError, match=f"background={given} is no threshold"):
            evaluate(made, source, ["segment"], background=given)


def test_only_models_with_a_background_take_a_threshold(tmp_path):
    import diptych

    Image.new("RGB", (40, 40), COLOURS["red"]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="tiny has no rule for what is background"):
        segment_source(diptych.load("tiny"), tmp_path / "a.png", "cat,dog", background=0.5)
    made = model()
    names = ",".join(NAMES)
    found = segment_source(made, tmp_path / "a.png", names, templates=("{}",), background=0.0)
    assert dict(found[0].shares)["background"] == 0
    assert made.background == 0.95
