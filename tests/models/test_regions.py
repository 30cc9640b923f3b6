"""Regions of images by boxes and by masks: their vectors, their classes, and what is refused."""

import pytest
import torch
from tests.factories import random_images, small_make, tokenizer

from diptych.errors import InputError
from diptych.models.model import Model
from diptych.models.regions import checked_boxes
from diptych.towers.nn.parts import Temperature
from diptych.towers.regions import region_vectors

LEFT, WHOLE = [0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    dual = small_make("vit:image_size=32:patch=8:width=32:depth=2:heads=2").dual(
        logit_scale=Temperature()
    )
    return Model(dual, tokenizer(), dual.image.preprocess, name="small")


def test_regions_of_several_images_are_filled_up(model):
    images = random_images(3)
    found = model.embed_regions(images, [[LEFT], [], [WHOLE, LEFT]], batch_size=2)
    assert found.vectors.shape == (3, 2, 32)
    assert found.there.tolist() == [[True, False], [False, False], [True, True]]
    assert found.boxes[2].tolist() == [WHOLE, LEFT]
    assert not found.vectors[~found.there].any()
    with torch.no_grad():
        own = region_vectors(model.encoder, images[2:], torch.tensor([[WHOLE, LEFT]]))
    torch.testing.assert_close(found.vectors[2], own[0], atol=1e-5, rtol=1e-5)


def test_a_mask_is_the_mean_of_the_positions_below_it(model):
    images = random_images(1)
    half = torch.zeros(1, 64, 64, dtype=torch.bool)
    half[:, :, :32] = True
    by_mask = model.embed_regions(images, masks=[half])
    by_box = model.embed_regions(images, [[LEFT]])
    torch.testing.assert_close(by_mask.vectors, by_box.vectors, atol=1e-5, rtol=1e-5)
    assert by_mask.boxes.tolist() == [[LEFT]]


def test_images_are_read_whole_and_at_any_size(model):
    """A wide image is squashed, not cropped; a ViT interpolates its positions."""
    wide = torch.zeros(1, 3, 32, 96, dtype=torch.uint8)
    wide[..., :32] = 255
    plain = model.embed_regions(wide, [[[0, 0, 1 / 3, 1]]])
    squashed = torch.nn.functional.interpolate(wide.float(), (32, 32), mode="area").byte()
    near = model.embed_regions(squashed, [[[0, 0, 1 / 3, 1]]])
    assert float((plain.vectors * near.vectors).sum()) > 0.9
    assert model.embed_regions(wide, [[WHOLE]], size=64).vectors.shape == (1, 1, 32)
    assert not model.encoder.image.config.any_size
    with pytest.raises(
        InputError, match="size is 30 pixels, and the image tower's patches are of 8"
    ):
        model.embed_regions(wide, [[WHOLE]], size=30)


def test_classes_of_regions_are_probabilities(model):
    images = random_images(2)
    with pytest.raises(InputError, match="small has no class embeddings for regions"):
        model.classify_regions(images, [[LEFT], [LEFT]])
    found = model.classify_regions(images, [[LEFT], []], ["red circle", "blue square"], scale=75)
    assert found.shape == (2, 1, 2)
    torch.testing.assert_close(found.sum(-1), torch.tensor([[1.0], [0.0]]))
    vectors = model.embed_regions(images, [[LEFT], []]).vectors[0, 0]
    expected = (75 * vectors @ model.embed_texts(["red circle", "blue square"]).T).softmax(-1)
    torch.testing.assert_close(found[0, 0], expected)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[0, 0, 12, 10]],
            r"box 0 of image 2, \(0, 0, 12, 10\), lies outside the image: .*divide p",
        ),
        ([WHOLE, [0.5, 0, 0.5, 1]], "box 1 of image 2, .*, has no area"),
        ([[0.5, 0, 0.1, 1]], "has no area"),
        ([[float("nan"), 0, 1, 1]], "lies outside"),
        ([0, 0, 1, 1], "give rows of x0, y0, x1, y1"),
    ],
)
def test_boxes_outside_an_image_and_without_area_are_refused(boxes, message):
    with pytest.raises(InputError, match=message):
        checked_boxes(boxes, 2)


def test_regions_that_do_not_fit_are_refused(model):
    images = random_images(2)
    with pytest.raises(InputError, match="2 images have the regions of 1"):
        model.embed_regions(images, [[LEFT]])
    with pytest.raises(InputError, match="give one of the two"):
        model.embed_regions(images)
    with pytest.raises(InputError, match="mask 0 of image 1 is empty"):
        model.embed_regions(images, masks=[torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])
    with pytest.raises(InputError, match="no route 'dense'; it has tokens and values"):
        model.embed_regions(images, [[LEFT], [LEFT]], route="dense")
