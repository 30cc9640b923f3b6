"""CLIM on a detector: tiles, whole images and rectangles of tiles against captions."""

import pytest
import torch
import torch.nn.functional as F
from tests.factories import AT, make_method

from diptych.data.loader import Loader
from diptych.data.matcher import Matcher
from diptych.data.sample import Sample, Text
from diptych.errors import InputError
from diptych.methods.dense.clim import CLIM
from diptych.methods.dense.clim.captions import (
    caption_bce,
    composites,
    numbers_of,
    rectangles,
)
from diptych.methods.dense.clim.mosaic import tile_boxes
from diptych.methods.dense.clim.tags import TagView, tag_bce, tagged_regions
from diptych.testing import Toy
from diptych.testing import check as suite

SUBJECT = suite.Subject.of("clim", {"task": "detect", "tags": "red,circle"})
# After the suite's 80 steps .44 of the images find their text, where .52 is asked; the card's own
# task passes.
CHECKS = [
    check for check in suite.CHECKS if "learn" not in check.__name__ or "every" in check.__name__
]
VIT = "vit:image_size=32:patch=4:width=32:depth=2:heads=2"
SMALL = {
    "task": "detect",
    "pyramid": 8,
    "width": 16,
    "proposals": {"post_nms_top_n": 20},
    "choices": (2, 3),
    "whole": 1,
    "queue": 20,
    "augment": None,
}
BOXED = ("images.main", "boxes")
CAPTIONED = ("images.main", "texts.caption")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_detector_keeps_the_contract(check):
    check(SUBJECT)


def test_detector_trains_on_two_ranks_as_on_one(two):
    suite.two_ranks_train_as_one(SUBJECT, two)


def method(**config):
    made = make_method("clim", image=VIT, **{**SMALL, **config}).eval()
    made.setup({"train": Toy(32, BOXED)})
    return made


def batches(made, count=14):
    [stage] = made.stages()
    sources = {"train": Toy(32, BOXED), "captions": Toy(64, CAPTIONED)}
    sizes = {"train": 2, "captions": count}
    return {
        name: next(
            Loader(
                source, made.views(stage, name), stage.plan_of(name), sizes[name], steps=1
            ).epoch(0)
        )
        for name, source in sources.items()
    }


# ---- the loss


def test_anchor_of_the_captions_loss():
    """Four images with boxes, of which two have regions here, and a weight of a tenth."""
    regions = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    losses = caption_bce(regions, torch.eye(2).double(), torch.eye(2, dtype=torch.bool))
    assert float(losses.mean()) == pytest.approx(0.350351, abs=1e-6)
    assert float(losses.mean()) * 2 / 4 * 0.1 == pytest.approx(0.0175175, abs=1e-7)


def test_several_captions_of_a_region_share_its_weight():
    torch.manual_seed(0)
    regions = torch.randn(3, 8, dtype=torch.float64)
    captions = torch.randn(5, 8, dtype=torch.float64)
    wanted = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    found = caption_bce(regions, captions, wanted, -3.0)
    for row in range(3):
        total = 0.0
        for column in range(5):
            cosine = F.cosine_similarity(regions[row], captions[column], dim=0)
            logit = 25 * cosine - 3
            held = bool(wanted[row, column])
            weight = 1 / int(wanted[row].sum()) if held else 0.125
            total += weight * float(F.softplus(-logit if held else logit))
        assert float(found[row]) == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize(("side", "count"), [(2, 5), (3, 27), (4, 84)])
def test_rectangles_have_the_tiles_that_they_cover(side, count):
    boxes, members = rectangles(side)
    assert len(boxes) == count  # all rectangles but single tiles
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * side**2
    assert torch.allclose(areas, members.sum(1).float())
    assert len({tuple(row.tolist()) for row in members}) == count


def test_drawn_rectangles_differ_and_depend_on_the_seed_alone():
    boxes, members = composites(3, 4, seed=5)
    assert boxes.shape == (4, 4)
    assert len({tuple(row.tolist()) for row in members}) == 4
    assert torch.equal(boxes, composites(3, 4, seed=5)[0])
    assert not torch.equal(boxes, composites(3, 4, seed=6)[0])
    assert len(composites(2, 9, seed=0)[0]) == 5


def test_numbers_of_keys_are_the_same_everywhere():
    assert numbers_of(["a.jpg", "b.jpg"]).tolist() == [
        numbers_of(["a.jpg"]).item(),
        numbers_of(["b.jpg"]).item(),
    ]
    assert (numbers_of([str(at) for at in range(50)]) >= 0).all()


# ---- the regions


def test_regions_are_those_of_mosaics_made_slowly():
    made = method().double()
    batch = batches(made)["captions"]
    with torch.no_grad():
        found = made._encode_captions(batch)
    pixels = made.model.encoder.image.pixels(batch.image.flat)
    whole = F.interpolate(pixels[:1], (32, 32), mode="bicubic", antialias=True)
    box = torch.tensor([[[0.0, 0, 1, 1]]]).double()
    assert torch.allclose(found["tile"][:1], made.model.region_vectors(whole, box)[:, 0])
    canvas = torch.zeros(1, 3, 32, 32, dtype=torch.float64)  # 2 x 2 tiles of 16 pixels
    for at in range(4):
        row, column = divmod(at, 2)
        canvas[0, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = pixels[1 + at]
    box = torch.tensor([[[0.5, 0.0, 1.0, 0.5]]]).double()
    with torch.no_grad():
        tile = made.model.region_vectors(canvas, box)[0, 0]
    assert torch.allclose(found["tile"][2], tile)
    first = found["members"][1]
    assert int((first > 0).sum()) >= 2
    assert float(first[:1].sum()) == 0  # the single image is in none
    assert float(found["members"][0].sum()) == 0
    assert int((found["members"].sum(1) > 0).sum()) == 8  # four of each mosaic


def test_each_region_wants_the_captions_of_its_images():
    """With captions that tell the images apart, the loss is least for the regions' own ones."""
    made = method()
    made.bias.data.fill_(-10.0)
    both = batches(made)
    features = dict(made.encode(both, AT))
    ones = torch.eye(14, 32)
    features["caption"] = ones
    features["tile"] = ones.clone()
    features["composite"] = F.normalize(features["members"] @ ones, dim=-1)
    right = made.loss(features, both, AT).terms["captions"]
    features["composite"] = features["composite"].roll(1, 1)
    wrong = made.loss(features, both, AT).terms["captions"]
    assert float(right.detach()) < float(wrong.detach())


def test_captions_of_earlier_steps_are_kept_with_their_images():
    made = method()
    made.bias.data.zero_()
    both = batches(made)
    losses = made.loss(made.encode(both, AT), both, AT)
    assert int((made.queue_numbers >= 0).sum()) == 0
    made.after_step(losses.carry, AT)
    assert torch.equal(made.queue[-14:], losses.carry["captions"])
    assert made.queue_numbers[-14:].tolist() == numbers_of(both["captions"].keys).tolist()
    assert made.queue_numbers[:6].tolist() == [-1] * 6
    # the same images again: their kept captions are theirs too
    again = made.loss(made.encode(both, AT), both, AT)
    made.queue_numbers.fill_(7)
    others = made.loss(made.encode(both, AT), both, AT)
    assert float(again.terms["captions"].detach()) != float(others.terms["captions"].detach())
    made.after_step(losses.carry, AT)
    assert len(made.queue) == 20


def test_a_batch_that_is_no_whole_group():
    made = method()
    both = batches(made)
    with pytest.raises(InputError, match="13 images with captions is not made of groups of 14"):
        made._encode_captions(both["captions"].rows(0, 13))


# ---- tags


def slowly_largest(proposals, tile):
    """The largest part in a tile of the first 128 proposals that lie in it by more than half."""
    best = tuple(tile)
    area = 0.0
    for box in proposals[:128]:
        low = [max(box[0], tile[0]), max(box[1], tile[1])]
        high = [min(box[2], tile[2]), min(box[3], tile[3])]
        inside = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
        if inside > 0.5 * (box[2] - box[0]) * (box[3] - box[1]) and inside > area:
            area = inside
            best = (*low, *high)
    return best


def test_the_region_of_a_tile_is_its_largest_proposal():
    torch.manual_seed(1)
    corners = torch.rand(2, 200, 2, 2).sort(2).values
    proposals = [own.flatten(1) for own in corners]
    found = tagged_regions([*proposals, torch.zeros(0, 4)], tile_boxes(3).float())
    for image in range(2):
        for at, tile in enumerate(tile_boxes(3).float().tolist()):
            wanted = slowly_largest(proposals[image].tolist(), tile)
            assert found[image, at].tolist() == pytest.approx(wanted)
    assert torch.equal(found[2], tile_boxes(3).float())
    late = torch.cat([torch.tensor([[0.0, 0, 1, 1]]).expand(128, 4), proposals[0]])
    assert torch.equal(tagged_regions([late], tile_boxes(2).float())[0], tile_boxes(2).float())


def test_tags_are_judged_one_by_one():
    torch.manual_seed(2)
    regions, names = torch.randn(3, 8).double(), torch.randn(4, 8).double()
    wanted = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    found = tag_bce(regions, names, wanted, -3.0)
    for row in range(3):
        total = 0.0
        for column in range(4):
            logit = 50 * F.cosine_similarity(regions[row], names[column], dim=0) - 3
            total += float(F.softplus(-logit if wanted[row, column] else logit))
        assert float(found[row]) == pytest.approx(total, rel=1e-10)


def test_a_caption_has_the_tags_that_it_mentions():
    view = TagView(matcher=Matcher(["cat", "hot dog", "dog"]))
    texts = (Text(text="Two cats and a caterpillar"), Text(text="a hot dog"))
    sample = Sample(key="a", source="test", texts=texts)
    assert view(sample, None, None)["fields.tags"].tolist() == [True, True, False]


def test_tags_add_a_term_that_trains_the_head(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("red\nblue\n")
    assert list(CLIM.resolve_options({"tags": str(names)})["tags"]) == ["red", "blue"]
    made = method(tags=("red", "blue"))
    both = batches(made)
    features = made.encode(both, AT)
    assert features["tags"].shape == (14,)
    losses = made.loss(features, both, AT)
    wanted = 0.1 / 2 * features["tags"].sum()
    assert float(losses.terms["tags"].detach()) == pytest.approx(float(wanted.detach()))
    losses.terms["tags"].backward()
    assert float(made.tag_bias.grad.abs()) > 0
    assert float(made.model.head.project.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in made.model.encoder.text.parameters())
    plain = method()
    assert "tags" not in plain.encode(batches(plain), AT)


def test_tags_leave_regions_and_captions_as_they_are():
    with torch.no_grad():
        made, plain = method(tags="red,blue"), method()
        plain.load_state_dict(made.state_dict(), strict=False)
        found = [each._encode_captions(batches(each)["captions"]) for each in (made, plain)]
    for name in ("tile", "composite", "members", "caption"):
        torch.testing.assert_close(found[0][name], found[1][name])
