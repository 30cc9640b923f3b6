"""DITO's detector: proposals, boxes and the mixture of scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.factories import AT, make_method, random_images
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import fastrcnn_loss

from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.views.regions import jittered
from diptych.evaluation import evaluate
from diptych.models.two_stage.boxes import BoxConfig, Chosen, box_terms, chosen, fused, scaled
from diptych.models.two_stage.proposals import (
    ProposalConfig,
    ProposalHead,
    anchors_of,
    iou,
    proposal_terms,
    proposed,
)
from diptych.models.two_stage.sampling import sampled
from diptych.testing import Toy
from diptych.testing import check as suite

VIT = "vit:image_size=32:patch=4:width=32:depth=2:heads=2"
SMALL = {
    "pyramid": 8,
    "width": 16,
    "task": "detect",
    "template": "{}",
    "windows": {"count": 2, "everywhere": 1},
    "proposals": {"post_nms_top_n": 20},
}
SUBJECT = suite.Subject.of("dito", {"task": "detect"})
FIELDS = ("images.main", "boxes")


# Its first loss says little of how far it can fall, as boxes and anchors are sampled anew;
# test_boxes_that_it_was_trained_on_are_found asks what it learns.
CHECKS = [check for check in suite.CHECKS if check is not suite.learns_its_own_signal]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_detector_keeps_the_contract(check):
    check(SUBJECT)


def test_detector_trains_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(SUBJECT, two)


def method(**config):
    made = make_method("dito", image=VIT, **{**SMALL, **config}).eval()
    made.setup({"train": Toy(32, FIELDS)})
    return made


# ---- scores


@pytest.mark.parametrize(("weight", "mixed"), [(0.35, 0.293780), (0.65, 0.408469)])
def test_anchors_of_the_mixture(weight, mixed):
    found = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
    known = torch.tensor([[0.6]], dtype=torch.float64)
    weights = torch.tensor([weight], dtype=torch.float64)
    for objectness, factor in ((1.0, 1.0), (0.9, 0.9**3)):
        rest = torch.tensor([objectness], dtype=torch.float64)
        [[score]] = fused(found, known, rest, weights, 3).tolist()
        assert score * (mixed + 0.8) == pytest.approx(mixed * factor, abs=1e-6)
    assert pytest.approx(0.214166, abs=1e-6) == 0.293780 * 0.9**3


def test_classes_of_training_and_others_are_mixed_otherwise():
    made = method()
    assert "a red circle on the left" in made.model.trained
    made.model.set_classes(["A red circle on the left", "a zebra"])
    assert made.model.weights().tolist() == pytest.approx([0.35, 0.65])


# ---- proposals


def slow_terms(centre, boxes, anchors, places, own, positive, negative):
    """The proposals' losses of one image, position by position; every one is learnt."""
    overlaps = [[float(iou(box[None], anchor[None])) for anchor in anchors] for box in own]
    total = {"centre": 0.0, "centre_count": 0, "sides": 0.0, "sides_count": 0}
    best = [max(row) for row in overlaps]
    for at in range(len(anchors)):
        column = [row[at] for row in overlaps]
        which = max(range(len(own)), key=column.__getitem__)
        held = max(column) >= positive or any(
            row[at] == top for row, top in zip(overlaps, best, strict=True)
        )
        x, y = places[at].tolist()
        x0, y0, x1, y1 = own[which].tolist()
        left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y
        if held and min(left, top, right, bottom) > 0:
            share = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            total["centre"] += abs(float(centre[at].sigmoid()) - share**0.5)
            total["sides"] += 1 - float(iou(boxes[at][None], own[which][None]))
            total["centre_count"] += 1
            total["sides_count"] += 1
        elif not held and max(column) < negative:
            total["centre"] += float(centre[at].sigmoid())
            total["centre_count"] += 1
    return total


def test_losses_of_the_proposals_are_those_of_a_slow_reference():
    torch.manual_seed(0)
    maps = [torch.randn(1, 8, side, side).double() for side in (8, 4, 2, 1)]
    centre, boxes = ProposalHead(8).double()(maps)
    centre = torch.randn_like(centre)
    own = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.5, 0.95, 0.9]], dtype=torch.float64)
    config = ProposalConfig(sampled=1000)
    found = proposal_terms(centre, boxes, maps, [own], torch.tensor([3]), config)
    anchors, places = anchors_of(maps)
    wanted = slow_terms(
        centre[0],
        boxes[0],
        anchors.double(),
        places.double(),
        own,
        config.positive,
        config.negative,
    )
    assert wanted["sides_count"] > 3
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-5)


def test_an_image_without_boxes_teaches_that_nothing_is_there():
    maps = [torch.randn(1, 8, 4, 4)] * 4
    centre, boxes = ProposalHead(8)(maps)
    found = proposal_terms(
        centre, boxes, maps, [torch.zeros(0, 4)], torch.tensor([0]), ProposalConfig()
    )
    assert float(found["centre"]) == pytest.approx(float(centre.sigmoid().sum()), rel=1e-5)
    assert float(found["sides"]) == float(found["sides_count"]) == 0


def test_proposals_do_not_overlap_and_come_by_objectness():
    torch.manual_seed(0)
    centre = torch.randn(2, 85)
    corners = torch.rand(2, 85, 2) * 0.5
    boxes = torch.cat([corners, corners + torch.rand(2, 85, 2) * 0.6], dim=2)
    config = ProposalConfig(post_nms_top_n=12, pre_nms_top_n=30, nms_threshold=0.5)
    for found, objectness in proposed(centre, boxes, [64, 16, 4, 1], config):
        assert len(found) == 12
        assert torch.equal(objectness, objectness.sort(descending=True).values)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


def test_a_choice_depends_on_the_seed_alone():
    labels = torch.tensor([1] * 20 + [0] * 40 + [-1] * 5)
    first = sampled(labels, 16, 0.25, seed=7)
    assert torch.equal(first, sampled(labels, 16, 0.25, seed=7))
    assert not torch.equal(first, sampled(labels, 16, 0.25, seed=8))
    assert int(first[:20].sum()) == 4
    assert int(first[20:60].sum()) == 12
    assert int(first[60:].sum()) == 0
    assert int(sampled(labels[:22], 16, 0.25, seed=0).sum()) == 6  # of what there is


# ---- boxes


def test_losses_of_the_boxes_are_torchvisions():
    torch.manual_seed(0)
    K, C = 12, 3
    boxes = torch.rand(K, 4, dtype=torch.float64)
    boxes = torch.cat([boxes[:, :2] * 0.5, boxes[:, :2] * 0.5 + boxes[:, 2:] * 0.4 + 0.05], dim=1)
    truth = (boxes + 0.03 * torch.randn_like(boxes)).clamp(0, 1)
    classes = torch.tensor([0, 1, 2, 3] * 3)  # 3: background
    given = Chosen(boxes, torch.arange(K) % 2, classes, truth, torch.zeros(K).long())
    logits = torch.randn(K, C + 1, dtype=torch.float64, requires_grad=True)
    moves = torch.randn(K, 4, dtype=torch.float64, requires_grad=True)
    found = box_terms(logits, moves, given, 2, BoxConfig(background_weight=1.0))
    targets = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode_single(truth, boxes)
    named, off = fastrcnn_loss(
        logits.roll(1, 1),  # its background comes first
        moves[:, None].expand(K, C + 1, 4).flatten(1),
        [(classes + 1) % (C + 1)],
        [targets],
    )
    assert float(found["names"].sum() / K) == pytest.approx(float(named), rel=1e-10)
    assert float(found["moves"].sum() / K) == pytest.approx(float(off), rel=1e-10)
    lighter = box_terms(logits, moves, given, 2, BoxConfig())
    background = F.cross_entropy(logits, classes, reduction="none")[classes == C].sum()
    assert float(found["names"].sum() - lighter["names"].sum()) == pytest.approx(
        0.1 * float(background), rel=1e-10
    )


def test_own_boxes_are_learnt_beside_the_proposals():
    own = torch.tensor([[0.1, 0.1, 0.5, 0.5]])
    offered = torch.tensor([[0.1, 0.1, 0.45, 0.5], [0.6, 0.6, 0.9, 0.9]])
    found = chosen(
        [offered, offered], [own, own[:0]], [torch.tensor([2]), torch.zeros(0).long()],
        torch.tensor([0, 0]), 5, BoxConfig(share=1.0),
    )  # fmt: skip
    assert found.classes.tolist() == [2, 2, 5, 5, 5]
    assert found.image.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(found.truth[:2], own.expand(2, 4))


# ---- the whole


def test_regions_have_a_fixed_number_and_scores_of_all_classes():
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, None, "toy")
    model.set_classes(["a zebra", "a red circle on the left", "snow"])
    regions = model.embed_regions(random_images(3, size=32))
    assert regions.boxes.shape == (3, 20, 4)
    assert regions.scores.shape == (3, 20, 3)
    assert torch.isfinite(regions.scores).all()
    assert float(regions.scores.max()) < 1
    found = model.detect(random_images(2, size=32), score_threshold=0.0)
    assert len(found) == 2


def test_scores_come_from_both_models():
    """The frozen tower's part changes them, and at weight 0 it does not."""
    torch.manual_seed(1)
    x = torch.rand(1, 3, 32, 32)
    weights = {}
    for w in (0.0, 1.0):
        made = method(boxes={"base_weight": w, "novel_weight": w})
        before = made.model.regions(x).scores
        with torch.no_grad():
            made.model.before.encoder.image_projection.weight.mul_(-1)
        weights[w] = float((made.model.regions(x).scores - before).abs().max())
    assert weights[0.0] == 0
    assert weights[1.0] > 1e-6


def test_the_frozen_tower_stays_as_it_was():
    made = method()
    assert not any(value.requires_grad for value in made.model.before.parameters())
    batch = batch_of(made, 4)
    before = {name: value.clone() for name, value in made.model.before.state_dict().items()}
    made.train()
    made.loss(made.encode(batch, AT), batch, AT).total.backward()
    assert all(
        torch.equal(value, before[name]) for name, value in made.model.before.state_dict().items()
    )
    assert float(made.model.encoder.image.positions.grad.abs().sum()) > 0


def batch_of(made, count):
    views = made.views(made.stages()[0])
    return next(Loader(Toy(32, FIELDS), views, Shuffled(), count, steps=1).epoch(0))


def test_scaled_boxes_keep_their_centres():
    box = torch.tensor([0.2, 0.4, 0.6, 0.8])
    assert scaled(box, 0.5).tolist() == pytest.approx([0.3, 0.5, 0.5, 0.7])


@pytest.mark.parametrize("factors", [(0.3, 0.3), (2.0, 2.0)])
def test_boxes_follow_a_scaled_image(factors):
    """A square that is drawn on black lies where its box says."""
    image = Image.new("RGB", (60, 40))
    image.paste((255, 255, 255), (24, 16, 36, 24))
    box = np.array([[24 / 60, 16 / 40, 36 / 60, 24 / 40], [0.0, 0.0, 0.01, 0.01]])
    for seed in range(20):
        seen, boxes, kept, _ = jittered(image, box, factors, np.random.default_rng(seed))
        width, height = seen.size
        assert width / height == 1.5
        if not kept[0]:
            continue
        white = np.argwhere(np.asarray(seen)[..., 0] > 128)
        (top, left), (bottom, right) = white.min(0), white.max(0) + 1
        found = np.array([left / width, top / height, right / width, bottom / height])
        assert np.abs(found - boxes[0]).max() < 0.06


def test_views_give_the_numbers_of_the_classes():
    made = method()
    batch = batch_of(made, 6)
    numbers, there = batch.fields["regions.classes"], batch.fields["regions.there"]
    assert numbers.shape == there.shape == (6, 100)
    assert (numbers[there] >= 0).all()
    assert (numbers[~there] == -1).all()


def test_boxes_that_it_was_trained_on_are_found():
    source = Toy(4, FIELDS)
    made = make_method(
        "dito", image=VIT, **{**SMALL, "pyramid": 16, "width": 32}, boxes={"base_weight": 0.0}
    )
    made.setup({"train": source})
    views = made.views(made.stages()[0])
    batch = next(Loader(source, views, Shuffled(), 4, steps=1).epoch(0))
    learnt = [value for value in made.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        made.loss(made.encode(batch, AT), batch, AT).total.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
    made.eval()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    assert model.detections == 300
    [one, *_] = model.detect([source[0].images["main"].decode()], score_threshold=0.0, max_boxes=1)
    assert len(one.boxes) == 1
    found = evaluate(model, source, ["detection"])["detection"]
    assert found["recall50"] >= 0.5
    assert found["ap50"] > 0.1


def test_images_of_another_size_are_read(tmp_path):
    made = method(size=48)
    assert made.model.image.image_size == made.model.side == 48
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "toy")
    assert model.embed_images(random_images(2, size=32)).shape == (2, 32)
    assert model.embed_regions(random_images(1, size=32)).boxes.shape == (1, 20, 4)
