"""DITO's mask branch, which is one for all classes."""

import pytest
import torch
from tests.factories import AT, make_method, random_images

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.testing import Toy
from diptych.testing import check as suite

VIT = "vit:image_size=32:patch=4:width=32:depth=2:heads=2"
SMALL = {
    "pyramid": 8,
    "width": 16,
    "task": "detect",
    "masks": True,
    "template": "{}",
    "windows": {"count": 2, "everywhere": 1},
    "proposals": {"post_nms_top_n": 20},
}
SUBJECT = suite.Subject.of("dito", {"task": "detect", "masks": True})
FIELDS = ("images.main", "boxes", "boxes.mask")
CHECKS = (
    suite.every_parameter_learns,
    suite.cached_gradients_are_the_whole_batchs,
    suite.missing_field_is_refused,
    suite.saved_model_loads,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_detector_of_masks_keeps_the_contract(check):
    check(SUBJECT)


def test_masks_train_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(SUBJECT, two)


def method(fields=FIELDS, **config):
    made = make_method("dito", image=VIT, **{**SMALL, **config}).eval()
    made.setup({"train": Toy(32, fields)})
    return made


def test_boxes_are_learnt_as_without_masks():
    """The branch adds a loss, and changes none of the others."""
    torch.manual_seed(0)
    with_masks = method()
    torch.manual_seed(0)
    without = method(masks=False)
    without.load_state_dict(
        {name: value for name, value in with_masks.state_dict().items() if "mask_head" not in name}
    )
    found = []
    for made in (with_masks, without):
        views = made.views(made.stages()[0])
        batch = next(Loader(Toy(32, FIELDS), views, Shuffled(), 4, steps=1).epoch(0))
        found.append(made.loss(made.encode(batch, AT), batch, AT).terms)
    assert set(found[0]) - set(found[1]) == {"masks"}
    assert float(found[0]["masks"].detach()) > 0
    for name, value in found[1].items():
        assert float(found[0][name].detach()) == pytest.approx(float(value.detach()), rel=1e-6)


def test_masks_are_found_of_any_classes():
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    model.set_classes(["a zebra", "snow"])
    found = model.detect(random_images(3, size=32), score_threshold=0.0, max_boxes=7, masks=True)
    for each in found:
        assert each.masks.shape == (len(each.boxes), 28, 28)
        assert len(each.boxes) <= 7
        assert torch.isfinite(each.masks).all()


def test_a_detector_without_the_branch_finds_no_masks():
    made = method(masks=False, fields=("images.main", "boxes"))
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    assert not model.finds_masks
    with pytest.raises(InputError, match="toy finds boxes and no masks; train it on the masks"):
        model.detect(random_images(1, size=32), masks=True)
    with pytest.raises(InputError, match="give --method.task detect too"):
        method(task="pretrain")
    measured = evaluate(model, Toy(2, FIELDS), ["detection"])["detection"]
    assert "mask_ap" not in measured
