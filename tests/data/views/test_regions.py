"""Regions of an image: rows of a fixed number that move with it."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Plane

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Box, Sample
from diptych.data.tokenizers import build
from diptych.data.views import HiddenView, ImageView, RegionView, collate
from diptych.data.views.images import Augment
from diptych.errors import InputError
from diptych.rng import generator

SQUASH = Preprocess(size=8, resize="squash")
WORDS = build("bpe:vocab_size=280:context=16", ["a red cup", "a blue cup"])
BOXES = (
    Box(xyxy=(0, 0, 10, 10), text="a red cup", label=1),
    Box(xyxy=(10, 5, 20, 10), text="a blue cup", label=0),
    Box(xyxy=(5, 0, 10, 5)),
)


def sample(boxes=BOXES, width=20, height=10):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    return Sample(key="a", source="s", images={"main": Plane(pixels)}, boxes=boxes)


def regions(seed=0, progress=None, **options):
    view = RegionView(preprocess=SQUASH, **options)
    found = view(sample(), generator(seed), progress)
    assert tuple(found) == view.gives
    return found


def test_boxes_are_rows_with_a_mask_and_their_texts():
    found = regions(max_boxes=4, tokenizer=WORDS)
    assert found["fields.regions"].tolist() == [[0, 0, 0.5, 1], [0.5, 0.5, 1, 1], [0] * 4, [0] * 4]
    assert found["fields.regions.there"].tolist() == [True, True, False, False]
    assert [WORDS.decode(ids) for ids in found["texts.regions"]] == [
        "a red cup",
        "a blue cup",
        "",
        "",
    ]


def test_without_texts_boxes_without_a_name_are_regions_too():
    found = regions(max_boxes=3)
    assert found["fields.regions.there"].all()
    assert found["fields.regions"][2].tolist() == [0.25, 0, 0.5, 0.5]


def test_texts_may_be_the_names_of_classes():
    found = regions(max_boxes=3, tokenizer=WORDS, classes=("dish", "mug"))
    assert [WORDS.decode(ids) for ids in found["texts.regions"]] == ["mug", "dish", ""]


def test_regions_are_mirrored_with_the_image():
    mirrored = 0
    for seed in range(20):
        found = regions(seed, 0.5, max_boxes=3, flip=True)
        red = found["images.main"][0, 0, 0]
        left = red[0] > red[-1]
        first = found["fields.regions"][0].tolist()
        assert first == ([0, 0, 0.5, 1] if left else [0.5, 0, 1, 1])
        mirrored += not left
    assert 0 < mirrored < 20


def test_cells_of_a_grid_are_regions_in_rows():
    found = regions(max_boxes=9, regions="grid:side=3")["fields.regions"]
    assert found[1].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 1 / 3])
    assert found[3].tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3])
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    assert areas.sum() == pytest.approx(1)


def test_random_regions_lie_inside_and_follow_from_the_generator():
    view = RegionView(preprocess=SQUASH, max_boxes=200, regions="random:count=200")
    found = view(sample(), generator(0), None)["fields.regions"]
    assert (found >= 0).all()
    assert (found <= 1 + 1e-6).all()
    sides = found[:, 2:] - found[:, :2]
    assert 0.1 - 1e-6 <= float(sides.min()) < 0.12
    assert 0.98 < float(sides.max()) <= 1 + 1e-6
    assert torch.equal(found, view(sample(), generator(0), None)["fields.regions"])
    assert not torch.equal(found, view(sample(), generator(1), None)["fields.regions"])


def test_more_regions_than_rows_are_damage_that_says_so():
    with pytest.raises(BadSample, match="more-than-2-regions: 3 regions; raise `max_boxes`"):
        regions(max_boxes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": "boxs"}, "did you mean 'boxes'"),
        ({"regions": "grid:side=2", "tokenizer": WORDS}, "have no texts"),
        ({"preprocess": Preprocess(size=8)}, "resize=squash"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RegionView(**{"preprocess": SQUASH, "max_boxes": 4, **options})


def test_rows_of_unequal_number_are_refused_with_their_name():
    rows = [{"fields.regions": torch.zeros(count, 4)} for count in (2, 3)]
    with pytest.raises(InputError, match=r"fields.regions is \(2, 4\) of one sample and \(3, 4\)"):
        collate(["a", "b"], rows, {})
    texts = [{"texts.main": [[1, 2]] * count} for count in (1, 2)]
    with pytest.raises(InputError, match="different numbers of texts.main"):
        collate(["a", "b"], texts, {"main": WORDS})


# ---- crops


def cropped(seed, flip=False, **augment):
    view = ImageView(
        preprocess=Preprocess(size=16), augment=Augment(flip=flip, **augment), crops=True
    )
    picture = np.zeros((41, 61, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 240, 61)[None]  # red grows from left to right, green downwards
    picture[..., 1] = np.linspace(0, 240, 41)[:, None]
    one = Sample(key="a", source="s", images={"main": Plane(picture)})
    found = view(one, generator(seed), 1.0)
    assert tuple(found) == view.gives
    return found["images.main"][0].double(), found["fields.main.crops"][0].double()


@pytest.mark.parametrize("seed", range(12))
def test_crops_say_where_the_first_and_last_pixels_are(seed):
    """In an image whose colour is its position, the colours at the ends of a crop are its
    positions, also of a mirrored one."""
    pixels, (x0, y0, x1, y1) = cropped(seed, flip=True, crop=(0.3, 0.6))
    red = pixels[0].mean(0)
    green = pixels[1].mean(1)
    across = torch.linspace(float(x0), float(x1), 16) * 240
    along = torch.linspace(float(y0), float(y1), 16) * 240
    assert (red - across)[3:-3].abs().max() < 4
    assert (green - along)[3:-3].abs().max() < 4


def test_a_crop_of_the_whole_image_spans_it():
    _, box = cropped(0, crop=(1.0, 1.0), ratio=(61 / 41, 61 / 41))
    assert box.tolist() == pytest.approx([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        (Preprocess(size=16, resize="squash"), (0, 0, 60, 40)),
        (Preprocess(size=16), (10.0, 0.0, 50.0, 40.0)),
        (Preprocess(size=16, resize="longest"), (0.0, -7.3, 60.0, 50.9)),
        (Preprocess(size=16, margin=1.25), (14.0, 4.0, 46.0, 36.0)),
    ],
)
def test_the_box_of_a_preprocessed_image(preprocess, expected):
    assert preprocess.seen(60, 40) == pytest.approx(expected, abs=1.1)


def test_a_transparent_image_has_no_crop():
    view = ImageView(preprocess=Preprocess(size=16), crops=True)
    one = Sample(key="a", source="s", images={"main": Plane(np.zeros((8, 8, 4), np.uint8))})
    with pytest.raises(BadSample, match="placed and has no crop"):
        view(one, generator(0), 1.0)


# ---- hidden patches


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.75, 1.0])
def test_hidden_patches_are_their_share_of_the_grid(blocks, share):
    view = HiddenView(grid=(7, 5), share=share, blocks=blocks)
    seen = set()
    for seed in range(8):
        hidden = view(sample(), generator(seed), None)["fields.main.hidden"]
        assert hidden.shape == (35,)
        assert int(hidden.sum()) == round(35 * share)
        seen.add(tuple(hidden.tolist()))
    assert (len(seen) > 1) == (0 < share < 1)


def test_blocks_hide_patches_side_by_side():
    """Of two neighbours, both or none are hidden more often under blocks."""

    def alike(blocks):
        view = HiddenView(grid=(8, 8), share=0.4, blocks=blocks)
        maps = [view(sample(), generator(seed), None)["fields.main.hidden"] for seed in range(40)]
        grids = torch.stack(maps).view(-1, 8, 8)
        return float((grids[:, :, 1:] == grids[:, :, :-1]).double().mean())

    assert alike(True) > alike(False) + 0.15


def masked(boxes, seed=0, progress=None, **options):
    view = RegionView(preprocess=SQUASH, max_boxes=3, masks=4, **options)
    found = view(sample(boxes), generator(seed), progress)
    assert tuple(found) == view.gives
    assert view.reads == ("images.main", "boxes", "boxes.mask")
    return found["fields.regions.masks"]


def left_half(box):
    """A box whose object is all that is left of the middle of the image."""
    plane = np.zeros((10, 20), np.uint8)
    plane[:, :10] = 1
    return Box(xyxy=box, text="a cup", mask=Plane(plane))


def test_masks_are_those_of_the_boxes():
    planes = masked(
        [left_half((0, 0, 20, 10)), left_half((5, 2, 10, 4)), left_half((10, 0, 20, 5))]
    )
    assert planes.shape == (3, 4, 4)
    assert planes[0].tolist() == [[255, 255, 0, 0]] * 4
    assert (planes[1] == 255).all()
    assert (planes[2] == 0).all()
    shares = masked([left_half((8, 0, 13, 10))])[0]
    assert shares[0].tolist() == pytest.approx([255, 153, 0, 0], abs=2)  # cells of 1.25 pixels


def test_masks_are_mirrored_with_the_image():
    box = [left_half((0, 0, 20, 10))]
    seen = {tuple(masked(box, seed, 0.5, flip=True)[0, 0].tolist()) for seed in range(8)}
    assert seen == {(255, 255, 0, 0), (0, 0, 255, 255)}


@pytest.mark.parametrize("factors", [(0.4, 0.4), (2.5, 2.5)])
def test_masks_are_of_what_is_seen_of_a_scaled_image(factors):
    """The object is the left half of the image, which is red."""
    kept = 0
    for seed in range(10):
        view = RegionView(preprocess=SQUASH, max_boxes=1, masks=8, jitter=factors)
        found = view(sample([left_half((0, 0, 20, 10))]), generator(seed), 0.5)
        if not found["fields.regions.there"][0]:
            continue
        kept += 1
        x0, y0, x1, y1 = (found["fields.regions"][0] * 8).tolist()
        red = found["images.main"][0, 0].float() / 255
        inside = red[round(y0) : round(y1), round(x0) : round(x1)].mean()
        share = found["fields.regions.masks"][0].float().mean() / 255
        assert abs(float(inside - share)) < 0.3  # whole pixels of a small image
    assert kept > 3


def test_boxes_of_other_classes_have_no_masks():
    boxes = [Box(xyxy=(0, 0, 5, 5), text="a bat"), left_half((0, 0, 20, 10))]
    planes = masked(boxes, names=("a cup",))
    assert planes[0].tolist() == [[255, 255, 0, 0]] * 4
    assert (planes[1:] == 0).all()
    with pytest.raises(BadSample, match="no-mask"):
        masked(boxes)


def test_masks_are_those_of_boxes_alone():
    with pytest.raises(InputError, match="leave masks out"):
        RegionView(preprocess=SQUASH, max_boxes=4, masks=4, regions="grid:side=2")
