"""DenseCLIP's detector: scores that are learnt inside of boxes, and RetinaNet on maps that have them."""

import pytest
import torch
import torch.nn.functional as F
from tests.factories import AT, make_method, random_images
from torchvision.models.detection.retinanet import RetinaNet

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.dense.denseclip.losses import boxed_bce
from diptych.methods.dense.denseclip.retina import RetinaHead, anchors_of
from diptych.testing import Toy
from diptych.testing import check as suite

VIT = "vit:image_size=32:patch=4:width=32:depth=4:heads=2"
SUBJECT = suite.Subject.of("denseclip", {"task": "detect"})
FIELDS = ("images.main", "boxes")
SMALL = {"task": "detect", "width": 16, "decoder_width": 16, "dropout": 0.0, "n_ctx": 2}


# After the suite's 80 steps on 32 images, each of a class of its own, the precision is .13, where .85 is
# asked; it is trained on four images below.
CHECKS = [
    check for check in suite.CHECKS if "learn" not in check.__name__ or "every" in check.__name__
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_detector_keeps_the_contract(check):
    check(SUBJECT)


def test_detector_trains_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(SUBJECT, two)


def method(**config):
    made = make_method("denseclip", image=VIT, **{**SMALL, **config}).eval()
    made.setup({"train": Toy(32, FIELDS)})
    return made


def batch_of(made, count):
    views = made.views(made.stages()[0])
    return next(Loader(Toy(32, FIELDS), views, Shuffled(), count, steps=1).epoch(0))


# ---- the scores inside of boxes


def slow_bce(logits, boxes, classes, side):
    """The loss of one image, pixel by pixel."""
    scaled = F.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)[0]
    total = 0.0
    count = 0
    corners = [[min(max(int(float(v) * side), 0), side - 1) for v in box] for box in boxes]
    for y in range(side):
        for x in range(side):
            held = [x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in corners]
            if not any(held):
                continue
            for kind in range(len(logits)):
                target = any(
                    inside and int(own) == kind for inside, own in zip(held, classes, strict=True)
                )
                score = scaled[kind, y, x]
                total += float(F.softplus(-score if target else score))
                count += 1
    return total, count


def test_scores_inside_of_boxes_are_those_of_a_slow_reference():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.5], [0.4, 0.3, 0.99, 1.0], [0, 0, 0, 0]]] * 2).double()
    boxes[1, 0] = torch.tensor([0.2, 0.2, 0.21, 0.9])
    there = torch.tensor([[True, True, False], [True, False, False]])
    classes = torch.tensor([[2, 0, -1], [1, -1, -1]])
    total, count = boxed_bce(logits, boxes, there, classes, 16)
    for at in range(2):
        own = there[at]
        wanted = slow_bce(logits[at], boxes[at][own], classes[at][own], 16)
        assert (float(total[at]), int(count[at])) == pytest.approx(wanted, rel=1e-10)


def test_scores_outside_of_boxes_have_no_gradient():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    box = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    total, _ = boxed_bce(logits, box, torch.tensor([[True]]), torch.tensor([[1]]), 4)
    total.sum().backward()
    assert float(logits.grad[..., :2, :2].abs().min()) > 0
    assert float(logits.grad[..., 2:, :].abs().max()) == 0


def test_an_image_without_boxes_has_no_loss_of_its_scores():
    made = method()
    batch = batch_of(made, 3)
    batch.fields["regions.there"][:] = False
    losses = made.loss(made.encode(batch, AT), batch, AT)
    assert float(losses.terms["scores"].detach()) == 0
    assert float(losses.terms["moves"].detach()) == 0
    assert float(losses.terms["names"].detach()) > 0


# ---- the head


def test_head_is_torchvisions_retinanet():
    """Losses and detections are those of torchvision's own model of the same weights on the same maps."""
    torch.manual_seed(0)
    side = 64
    maps = [torch.randn(2, 6, each, each) for each in (16, 8, 4)]
    head = RetinaHead((6, 6, 6), width=16, classes=3).eval()
    with torch.no_grad():  # else all probabilities are .01
        for layer in (head.head.classification_head.cls_logits, head.head.regression_head.bbox_reg):
            layer.weight.normal_(std=0.2)
            layer.bias.zero_()
    outputs, anchors = head(maps, side)
    boxes = [torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 50]]), torch.zeros(0, 4)]
    classes = [torch.tensor([2, 0]), torch.zeros(0).long()]
    losses = head.losses(outputs, anchors, boxes, classes)

    class Bare(RetinaNet):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.head = head.head
            self.proposal_matcher = head.matcher
            self.box_coder = head.head.regression_head.box_coder
            self.score_thresh, self.topk_candidates, self.nms_thresh = 0.05, 1000, 0.5
            self.detections_per_img = 100

    joined = torch.cat(anchors)
    theirs = Bare().compute_loss(
        [{"boxes": b, "labels": c} for b, c in zip(boxes, classes, strict=True)],
        outputs,
        [joined, joined],
    )
    assert float(losses["names"].mean()) == pytest.approx(float(theirs["classification"]), rel=1e-5)
    assert float(losses["moves"].mean()) == pytest.approx(
        float(theirs["bbox_regression"]), rel=1e-5
    )

    counts = [len(each) for each in anchors]
    split = {name: list(each.split(counts, 1)) for name, each in outputs.items()}
    [wanted, _] = Bare().postprocess_detections(split, [[*anchors]] * 2, [(side, side)] * 2)
    regions = head.regions(outputs, anchors, side)
    best = regions.scores[0].flatten().max()
    assert float(best) == pytest.approx(float(wanted["scores"][0]), rel=1e-5)
    at = int(regions.scores[0].amax(1).argmax())
    assert torch.allclose(side * regions.boxes[0, at], wanted["boxes"][0], atol=1e-3)


def test_anchors_lie_on_the_positions():
    first, second = anchors_of([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)], 64)
    assert (len(first), len(second)) == (64 * 9, 16 * 9)
    sides = first[:9, 2:] - first[:9, :2]
    assert sides.prod(1).sqrt().tolist() == pytest.approx(
        [32 * 2 ** (part / 3) for part in range(3)] * 3, abs=1
    )


# ---- the whole


def test_the_head_reads_scores_divided_by_tau():
    x = torch.rand(1, 3, 32, 32)
    made = {own: method(scaled_scores=own) for own in (None, True, False)}
    maps = {own: each.model.scored_maps(x) for own, each in made.items()}
    read = {own: found[made[own].model.scored][:, -33:] for own, (found, _) in maps.items()}
    assert torch.allclose(read[None], read[False] / 0.07, rtol=1e-5)
    assert torch.equal(read[None], read[True])


def test_a_model_finds_some_of_its_classes():
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    assert len(model.classes) == 33
    images = random_images(3, size=40)
    every = model.embed_regions(images)
    model.set_classes(model.classes[4:6])
    some = model.embed_regions(images)
    assert torch.equal(some.scores, every.scores[..., 4:6])
    assert some.boxes.shape[:2] == some.scores.shape[:2]
    assert len(model.detect(images, score_threshold=0.0, max_boxes=5)) == 3
    with pytest.raises(InputError, match=r"class that toy was trained on"):
        model.set_classes(["a zebra"])
    given = model.embed_regions(images, [[[0, 0, 1, 1]]] * 3)  # by the encoder
    assert given.vectors.shape == (3, 1, 32)


def test_crops_are_of_the_segmentor_alone():
    with pytest.raises(InputError, match="augment of detection has 'scale'"):
        method(augment={"scale": [0.5, 2.0]})


def test_boxes_that_it_was_trained_on_are_found():
    source = Toy(4, FIELDS)
    made = make_method("denseclip", image=VIT, **{**SMALL, "width": 32})
    made.setup({"train": source})
    views = made.views(made.stages()[0])
    batch = next(Loader(source, views, Shuffled(), 4, steps=1).epoch(0))
    learnt = [value for value in made.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        made.loss(made.encode(batch, AT), batch, AT).total.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
    made.eval()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    found = evaluate(model, source, ["detection"])["detection"]
    assert found["recall50"] >= 0.75
    assert found["ap50"] > 0.15
