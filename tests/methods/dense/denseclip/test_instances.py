"""DenseCLIP's instance segmentation: Mask R-CNN on maps that have the scores of classes."""

import pytest
import torch
from tests.factories import AT, make_method, random_images
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.dense.denseclip.rcnn import anchors_of, object_terms
from diptych.models.two_stage.proposals import ProposalConfig
from diptych.testing import Toy
from diptych.testing import check as suite

VIT = "vit:image_size=32:patch=4:width=32:depth=4:heads=2"
SUBJECT = suite.Subject.of("denseclip", {"task": "instances"})
FIELDS = ("images.main", "boxes", "boxes.mask")
SMALL = {
    "task": "instances",
    "width": 16,
    "hidden": 32,
    "decoder_width": 16,
    "dropout": 0.0,
    "n_ctx": 2,
    "proposals": {"post_nms_top_n": 20},
}

# That it learns is below, on four images.
CHECKS = [
    check for check in suite.CHECKS if "learn" not in check.__name__ or "every" in check.__name__
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_instances_keep_the_contract(check):
    check(SUBJECT)


def test_instances_train_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(SUBJECT, two)


def method(**config):
    made = make_method("denseclip", image=VIT, **{**SMALL, **config}).eval()
    made.setup({"train": Toy(32, FIELDS)})
    return made


def batch_of(made, count, source=None):
    views = made.views(made.stages()[0])
    source = source or Toy(32, FIELDS)
    return next(Loader(source, views, Shuffled(), count, steps=1).epoch(0))


# ---- proposals


def test_anchors_have_one_area_and_three_shapes():
    anchors = anchors_of(torch.zeros(1, 1, 4, 8)).view(4, 8, 3, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    assert torch.allclose(sides.prod(-1), torch.tensor(8 / 4 * 8 / 8))
    in_pixels = sides[0, 0] * torch.tensor([8.0, 4.0])
    assert (in_pixels[:, 1] / in_pixels[:, 0]).tolist() == pytest.approx([0.5, 1, 2])
    centres = (anchors[..., 2:] + anchors[..., :2]) / 2
    assert centres[1, 2, 1].tolist() == pytest.approx([2.5 / 8, 1.5 / 4])


def test_losses_of_the_proposals_are_torchvisions():
    """Of all anchors that are sampled, since theirs are drawn by the global generator."""
    torch.manual_seed(0)
    anchors = anchors_of(torch.zeros(1, 1, 4, 4)) / 4
    A = len(anchors)
    truth = [torch.tensor([[0.1, 0.1, 0.5, 0.6]]), torch.tensor([[0.4, 0.2, 0.9, 0.9]])]
    logits = torch.randn(2, A)
    shifts = torch.randn(2, A, 4)
    config = ProposalConfig(positive=0.7, negative=0.3, sampled=1000)
    found = object_terms(logits, shifts, anchors, truth, torch.tensor([0, 1]), config)
    theirs = object.__new__(RegionProposalNetwork)
    torch.nn.Module.__init__(theirs)
    theirs.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    theirs.proposal_matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    theirs.box_similarity = box_iou
    labels, matched = theirs.assign_targets_to_anchors(
        [anchors, anchors], [{"boxes": each} for each in truth]
    )
    theirs.fg_bg_sampler = lambda rows: (
        [(row == 1).long() for row in rows],
        [(row == 0).long() for row in rows],
    )
    goals = theirs.box_coder.encode(matched, [anchors, anchors])
    objects, off = theirs.compute_loss(logits.view(-1, 1), shifts.view(-1, 4), labels, goals)
    count = float(found["anchors_count"].sum())
    assert count == sum(int((row >= 0).sum()) for row in labels)
    assert float(found["objects"].sum()) / count == pytest.approx(float(objects), rel=1e-5)
    assert float(found["shifts"].sum()) / count == pytest.approx(float(off), rel=1e-5)


def test_an_image_without_boxes_has_no_objects_and_no_masks():
    made = method()
    batch = batch_of(made, 2)
    batch.fields["regions.there"][:] = False
    losses = made.loss(made.encode(batch, AT), batch, AT)
    for name in ("shifts", "moves", "masks", "scores"):
        assert float(losses.terms[name].detach()) == 0
    assert float(losses.terms["objects"].detach()) > 0


# ---- the whole


def test_each_class_has_its_own_mask_and_a_model_finds_some_of_its_classes():
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    assert model.finds_masks
    images = random_images(2, size=40)
    every = model.detect(images, score_threshold=0.0, max_boxes=100, masks=True)
    chosen = model.classes[4:6]
    model.set_classes(chosen)
    some = model.detect(images, score_threshold=0.0, max_boxes=100, masks=True)
    for all_, few in zip(every, some, strict=True):
        assert few.masks.shape == (len(few.boxes), 28, 28)
        assert 0 <= float(few.masks.min()) <= float(few.masks.max()) <= 1
        for at in (0, 1):
            best = few.scores[few.classes == at]
            same = few.masks[few.classes == at]
            mine = (all_.classes == at + 4).nonzero()[:, 0]
            for number in mine.tolist():
                row = (best == all_.scores[number]).nonzero()[0, 0]
                assert torch.allclose(same[row], all_.masks[number], atol=1e-5)
    alone = model.detect(images, score_threshold=0.0, max_boxes=100)
    assert all(
        each.masks is None and torch.equal(each.boxes, other.boxes)
        for each, other in zip(alone, some, strict=True)
    )


def test_boxes_without_masks_are_refused_before_training():
    made = make_method("denseclip", image=VIT, **SMALL)
    made.setup({"train": Toy(4, ("images.main", "boxes"))})
    _, view = made.views(made.stages()[0])
    assert "boxes.mask" in view.reads
    with pytest.raises(InputError, match="mosts"):
        method(proposals={"mosts": 3})


def test_masks_that_it_was_trained_on_are_found():
    source = Toy(4, FIELDS)
    made = make_method("denseclip", image=VIT, **SMALL)
    made.setup({"train": source})
    batch = batch_of(made, 4, source)
    learnt = [value for value in made.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        made.loss(made.encode(batch, AT), batch, AT).total.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
    made.eval()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    found = evaluate(model, source, ["detection"])["detection"]
    assert found["ap50"] > 0.3
    assert found["mask_ap50"] > 0.3
    assert not found["bad"]
