"""DITO's pretraining: random boxes through the parts of a detector, contrasted with texts."""

import pytest
import torch
import torch.nn.functional as F
from tests.factories import AT, make_batch, make_method, random_images
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from diptych.errors import InputError
from diptych.methods.make import Make
from diptych.models.two_stage.pyramid import levels_of, pool_levels
from diptych.objectives import info_nce

VIT = "vit:image_size=32:patch=4:width=32:depth=2:heads=2"
SMALL = {"pyramid": 8, "width": 16, "regions": "random:count=3"}


def method(**config):
    return make_method("dito", image=VIT, **{**SMALL, **config}).eval()


def with_regions(made, regions):
    """The features of images whose boxes have these vectors (B, R, 2) on each level."""
    made.model.maps = lambda x: [None] * 4
    made.model.of_level = lambda maps, boxes: regions
    count = len(regions)
    batch = make_batch(count, {"main": 1}, {"main": 1}, regions=torch.rand(count, 3, 4))
    return made._encode_images(batch, AT)["image"]


REGIONS = torch.tensor([[[1.0, 0], [0, 1], [0, 1]], [[0, 1], [0, 1], [0, 1]]])


@pytest.mark.parametrize(("pool", "loss"), [("max", 0.186529), ("mean", 1.198369)])
def test_anchor_of_the_pooling(pool, loss):
    made = method(pool=pool)
    image = with_regions(made, REGIONS)
    assert image.shape == (2, 4, 2)
    made.model.encoder.logit_scale.forward = lambda: torch.tensor(10.0)
    found = made.loss({"image": image, "text": torch.eye(2)}, None, AT)
    assert float(found.total) == pytest.approx(loss, abs=1e-6)


def test_a_box_twice_changes_nothing_and_a_further_one_only_raises():
    regions = torch.randn(4, 3, 2)
    once = with_regions(method(), regions)
    twice = with_regions(method(), torch.cat([regions, regions[:, :1]], dim=1))
    assert torch.equal(once, twice)
    more = torch.cat([regions, torch.randn(4, 1, 2)], dim=1)
    assert (more.amax(1) >= regions.amax(1)).all()


def test_one_box_of_the_whole_image_is_the_box_head_on_the_image():
    made = method(regions="grid:side=1").double()
    batch = make_batch(
        3, {"main": 1}, {"main": 1}, regions=torch.tensor([0.0, 0, 1, 1]).expand(3, 1, 4).double()
    )
    features = made.encode(batch, AT)
    [view, _] = made.views(made.stages()[0])
    assert view._regions(None, (9, 9), None)[0].tolist() == [[0, 0, 1, 1]]
    scale = made.model.encoder.logit_scale()
    wanted = []
    for maps in made.model.maps(batch.image.flat):
        vectors = made.model.of_level(maps, batch.fields["regions"])[:, 0]
        wanted.append(info_nce(F.normalize(vectors, dim=-1), features["text"], scale))
    assert float(made.loss(features, batch, AT).total) == pytest.approx(
        float(sum(wanted)) / 4, abs=1e-12
    )


def test_a_box_is_pooled_from_the_level_that_torchvision_takes():
    boxes = torch.rand(500, 4, dtype=torch.float64)
    boxes = torch.cat([boxes[:, :2] * 0.5, boxes[:, :2] * 0.5 + boxes[:, 2:] * 0.5], dim=1)
    for side in (224, 1024):
        mapper = LevelMapper(2, 5, 224, 4)
        wanted = mapper([boxes * side])
        assert torch.equal(levels_of(boxes, (side // 16, side // 16)), wanted)


def test_pooling_is_torchvisions():
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, side, side) for side in (56, 28, 14, 7)]
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0.0, 0.0, 0.2, 0.3], [0.3, 0.3, 0.4, 0.4]])
    image = torch.tensor([0, 0, 1])
    wanted = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(
        {str(at): each for at, each in enumerate(maps)},
        [boxes[:2] * 224, boxes[2:] * 224],
        [(224, 224)] * 2,
    )
    found = pool_levels(maps, boxes, image)
    aligned = pool_levels([each * 0 + 1 for each in maps], boxes, image)
    assert torch.allclose(aligned, torch.ones_like(aligned))
    # torchvision's samples lie half a position off (aligned=False), so the ones of a ramp differ alike
    assert found.shape == wanted.shape
    ramp = [torch.arange(each.shape[-1]).float().expand_as(each) for each in maps]
    ours = pool_levels(ramp, boxes[:1], image[:1])
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(
        {str(at): each for at, each in enumerate(ramp)},
        [boxes[:1] * 224, boxes[:0]],
        [(224, 224)] * 2,
    )
    assert torch.allclose(ours, theirs - 0.5, atol=1e-5)


def test_what_learns():
    made = method()
    names = {name for name, value in made.named_parameters() if value.requires_grad}
    assert not any(".text" in name or "image_projection" in name for name in names)
    assert any(name.startswith("model.pyramid") for name in names)
    trained = method(train_text=True)
    assert any(
        ".text." in name for name, value in trained.named_parameters() if value.requires_grad
    )


def test_a_run_goes_on_with_its_pyramid_and_head():
    first = method()
    delivered = first.deliver()
    model = delivered.to_model(first.make.tokenizer, None, "given")
    again = make_method("dito", seed=1, make=Make.of(model), **SMALL, task="detect")
    for name in ("pyramid.outputs.0.0.weight", "head.project.weight", "encoder.image.positions"):
        assert torch.equal(again.model.state_dict()[name], delivered.state_dict()[name])
    before = again.model.state_dict()["before.encoder.image.positions"]
    assert torch.equal(before, delivered.state_dict()["encoder.image.positions"])
    with pytest.raises(InputError, match=r"a pyramid of 8 channels .* --method\.pyramid 8"):
        make_method("dito", make=Make.of(model), **{**SMALL, "pyramid": 16})


def test_regions_are_embedded_by_the_head_or_by_a_route_of_the_tower():
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, None, "toy")
    images = random_images(2, size=32)
    boxes = [[[0, 0, 0.5, 0.5], [0, 0, 1, 1]], [[0.2, 0.2, 0.9, 0.7]]]
    by_head = model.embed_regions(images, boxes)
    assert by_head.vectors.shape == (2, 2, 32)
    assert by_head.there.tolist() == [[True, True], [True, False]]
    by_values = model.embed_regions(images, boxes, route="values")
    assert not torch.allclose(by_head.vectors, by_values.vectors, atol=0.1)
    with pytest.raises(InputError, match="proposes no boxes.*--method.task detect"):
        model.delivered.regions(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regions": "boxes"}, "no labels and are not those of the data"),
        ({"regions": "random"}, "do not say how many"),
        ({"size": 33}, "33 pixels, and the image tower's patches are of 4"),
    ],
)
def test_bad_options(options, said):
    def views():
        made = method(**options)
        return made.views(made.stages()[0])

    with pytest.raises(InputError, match=said):
        views()


def test_towers_without_texts_or_positions():
    with pytest.raises(InputError, match="no text tower"):
        make_method("dito", image=VIT, text="none", **SMALL)
