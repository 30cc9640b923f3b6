"""Views: pure functions of (sample, generator), and the images that they make."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views import (
    Augment,
    ImageView,
    LabelView,
    TextView,
    collate,
    look,
    place,
    sentences,
)
from diptych.data.views.images import augmentation
from diptych.data.views.randaugment import OPERATIONS, changed
from diptych.errors import InputError
from diptych.rng import generator
from diptych.testing import Toy

WORDS = build("bpe:vocab_size=300:context=16", ["a red circle", "a blue square on the left"])


class Held:
    def __init__(self, image):
        self.image = image

    def decode(self, at_least=None):
        return self.image


def tile(colour=(255, 0, 0, 255)):
    return Image.new("RGBA", (16, 16), colour)


@pytest.mark.parametrize(
    ("labels", "whole", "real"),
    [
        ({}, -1, math.nan),
        ({"a": -1}, -1, math.nan),
        ({"a": math.nan}, -1, math.nan),
        ({"a": 3}, 3, 3.0),
        ({"a": -1.0}, -1.0, -1.0),
    ],
)
def test_a_missing_label_is_minus_one_or_nan_or_refused(labels, whole, real):
    sample = Sample(key="a", source="s", labels=labels)
    rng = generator(0)

    def given(**options):
        return LabelView(label="a", **options)(sample, rng, None)["fields.a"]

    assert given() == whole
    assert torch.equal(given(real=True).nan_to_num(99), torch.tensor(real).nan_to_num(99))
    for is_real in (False, True):
        if math.isnan(real):
            with pytest.raises(BadSample, match="no-label: no label 'a'"):
                given(needed=True, real=is_real)
        else:
            assert given(needed=True, real=is_real) == real


def test_placed_tile_lies_wholly_inside_and_covers_its_share():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shrink = rng.uniform(1, 1.8)
        canvas = np.array(place(tile(), 64, shrink, (rng.uniform(), rng.uniform()), (0, 0, 255)))
        red = (canvas == (255, 0, 0)).all(-1)
        assert red.sum() == round(64 / shrink) ** 2


def test_views_are_functions_of_seed_epoch_position_and_view():
    view = ImageView(preprocess=Preprocess(size=32), augment=Augment(crop=(0.3, 1.0)))
    sample = Toy(8)[3]
    first = look(sample, [view], (0, 1, 2), 1.0)["images.main"]
    assert torch.equal(first, look(sample, [view], (0, 1, 2), 1.0)["images.main"])
    for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3)]:
        assert not torch.equal(first, look(sample, [view], other, 1.0)["images.main"])


def test_transparent_images_are_placed_on_changing_grounds_and_evaluated_on_white():
    view = ImageView(preprocess=Preprocess(size=32))
    sample = Sample(key="a", source="s", images={"main": Held(tile((255, 0, 0, 0)))})
    grounds = {
        tuple(view(sample, generator(0, i), 1.0)["images.main"][0, :, 0, 0].tolist())
        for i in range(8)
    }
    assert len(grounds) == 8
    assert view(sample, generator(0), None)["images.main"].unique().tolist() == [255]


def test_evaluation_draws_nothing():
    view = ImageView(preprocess=Preprocess(size=32))
    sample = Toy(8)[3]
    assert torch.equal(
        view(sample, generator(0), None)["images.main"],
        view(sample, generator(1), None)["images.main"],
    )


def test_texts_are_drawn_in_training_and_the_first_is_taken_otherwise():
    view = TextView(tokenizer=WORDS)
    captions = ["a red circle", "a blue square", "on the left"]
    sample = Sample(key="a", source="s", texts=[Text(text=text) for text in captions])
    drawn = {tuple(view(sample, generator(0, i), 1.0)["texts.main"][0]) for i in range(40)}
    assert drawn == {tuple(ids) for ids in WORDS.encode(captions)}
    assert view(sample, generator(3), None)["texts.main"] == WORDS.encode(captions[:1])


def test_count_captions_differ_while_there_are_enough():
    view = TextView(tokenizer=WORDS, count=3)
    sample = Sample(
        key="a", source="s", texts=[Text(text=text) for text in ("red", "blue", "left")]
    )
    assert len({tuple(ids) for ids in view(sample, generator(0), 1.0)["texts.main"]}) == 3


@pytest.mark.parametrize("texts", [(), (Text(text="  "),)])
def test_a_sample_without_words_is_bad(texts):
    with pytest.raises(BadSample, match="no-caption"):
        TextView(tokenizer=WORDS)(Sample(key="a", source="s", texts=texts), generator(0), 1.0)


def test_texts_that_must_differ_count_once():
    said = [Text(text=text) for text in ("a red circle", "a red circle", "a blue square")]
    sample = Sample(key="a", source="s", texts=said)
    view = TextView(tokenizer=WORDS, count=2, repeat=False)
    for seed in range(5):
        assert len(set(view.drawn(sample, generator(seed), 1.0))) == 2
    with pytest.raises(BadSample, match="few-captions: 2 texts of role 'caption' for 3 views"):
        replace(view, count=3).drawn(sample, generator(0), 1.0)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_collate_gives_numbers_torchs_default_type(default):
    one = {
        "fields.boxes": torch.zeros(4),
        "fields.weight": np.float64(0.1),
        "fields.half": torch.zeros(2, dtype=torch.float16),
        "fields.class": 3,
        "fields.there": torch.tensor([True]),
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        fields = collate(["a", "b"], [one, one], {}).fields
    finally:
        torch.set_default_dtype(before)
    kinds = [fields[name].dtype for name in ("boxes", "weight", "half", "class", "there")]
    assert kinds == [default, default, default, torch.int64, torch.bool]


def test_collate_pads_texts_to_the_longest_and_stacks_images():
    toy = Toy(8)
    views = [ImageView(preprocess=Preprocess(size=32)), TextView(tokenizer=WORDS, count=2)]
    rows = [look(toy[i], views, (0, 0, i), 1.0) for i in range(4)]
    batch = collate([toy[i].key for i in range(4)], rows, {"main": WORDS})
    assert batch.image.pixels.shape == (4, 1, 3, 32, 32)
    assert batch.image.pixels.dtype == torch.uint8
    assert batch.text.ids.shape[:2] == (4, 2)
    assert batch.text.ids.shape[2] == batch.text.lengths.max()
    assert batch.rows(1, 3).keys == ("001", "002")


def test_strength_grows_along_the_ramp():
    augment = Augment(ramp=(0.1, 0.6))
    assert [augment.strength(progress) for progress in (0, 0.1, 0.35, 0.6, 1)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )
    assert Augment().strength(0.0) == 1.0


def test_before_the_ramp_a_training_image_is_the_image_itself():
    view = ImageView(
        preprocess=Preprocess(size=32), augment=Augment(crop=(0.2, 0.5), ramp=(0.5, 1.0))
    )
    clear = Sample(key="a", source="s", images={"main": Held(tile((255, 0, 0, 128)))})
    for sample in (clear, Toy(8)[3]):
        early, evaluated = (
            view(sample, generator(0), 0.0)["images.main"],
            view(sample, generator(0), None)["images.main"],
        )
        assert (early.int() - evaluated.int()).abs().max() <= 2
        assert not torch.equal(early, view(sample, generator(0), 1.0)["images.main"])


def form_counts(role, texts, count=400):
    view = TextView(tokenizer=WORDS, role=role)
    sample = Sample(key="a", source="s", texts=texts)
    drawn = [tuple(view(sample, generator(0, i), 1.0)["texts.main"][0]) for i in range(count)]
    return view, lambda *options: sum(
        drawn.count(tuple(ids)) for ids in WORDS.encode(list(options))
    )


def test_mixture_of_roles_is_drawn_by_weight_and_joined_by_commas():
    texts = [Text(text="red"), *(Text(text=word, role="tags") for word in ("blue", "left"))]
    view, count = form_counts("caption=3,caption+tags+tags=1", texts)
    assert view.reads == ("texts.caption", "texts.tags")
    assert count("red") == pytest.approx(300, abs=40)
    assert count("red, blue, left", "red, left, blue") == pytest.approx(100, abs=40)


def test_a_starred_role_is_all_its_texts_in_their_order():
    texts = [
        Text(text="red"),
        *(Text(text=word, role="long") for word in ("right", "blue", "left")),
    ]
    view, count = form_counts("long*=3,caption+long*=1", texts)
    assert view.reads == ("texts.long", "texts.caption")
    assert count("right blue left") == pytest.approx(300, abs=40)
    assert count("right blue left") + count("red, right blue left") == 400
    plain = TextView(tokenizer=WORDS, role="long*", count=2)(
        Sample(key="a", source="s", texts=texts), generator(0), None
    )
    assert plain["texts.main"] == WORDS.encode(["right blue left"] * 2)
    assert form_counts("long*=9,caption=1", [Text(text="red")])[1]("red") == 400


def test_a_starred_form_of_several_roles_keeps_the_order_of_the_sample():
    """So that each answer follows its question."""
    texts = [
        Text(text="red", role="long"),
        Text(text="left", role="question"),
        Text(text="blue", role="answer"),
        Text(text="right", role="question"),
        Text(text="red", role="answer"),
    ]
    form = "long|question|answer*"
    view, count = form_counts(form, texts)
    assert view.reads == ("texts.long", "texts.question", "texts.answer")
    assert count("red left blue right red") == 400
    without = [text for text in texts if text.role != "answer"]
    assert form_counts(f"{form}=9,long*=1", without)[1]("red") == 400


def test_a_sample_takes_part_with_the_forms_that_it_can_give():
    _, count = form_counts("caption+tags=9,caption=1", [Text(text="red")])
    assert count("red") == 400


def test_a_role_may_ask_for_an_attribute():
    texts = [
        Text(text="red"),
        Text(text="left", role="long", attrs={"fact": "place"}),
        Text(text="blue", role="long", attrs={"fact": "colour"}),
        Text(text="right", role="long", attrs={"fact": "place"}),
    ]
    view, count = form_counts("long[fact=place]=3,caption=1", texts)
    assert view.reads == ("texts.long", "texts.caption")
    assert count("left", "right") == pytest.approx(300, abs=40)
    assert count("left") > 100 < count("right")
    assert count("blue") == 0
    assert form_counts("long[fact=place]*", texts)[1]("left right") == 400
    assert form_counts("caption+long[fact=colour]", texts)[1]("red, blue") == 400
    assert form_counts("*[fact=colour]", texts)[1]("blue") == 400
    assert form_counts("long[fact=number],long[fact=colour]=0.001", texts)[1]("blue") == 400
    with pytest.raises(BadSample, match="no-caption"):
        form_counts("long[fact=number]", texts)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="'much' is no number"):
        _ = TextView(tokenizer=WORDS, role="caption=much").reads


@pytest.mark.parametrize("role", ["long[place]", "long[fact=place", "caption,,long", ""])
def test_what_is_no_role_is_refused(role):
    with pytest.raises(InputError, match="is no role; write ROLE=WEIGHT"):
        _ = TextView(tokenizer=WORDS, role=role).reads


# ---- colours


def varied(pixels, seed=0, progress=0.9, **augment):
    """What an image of these pixels becomes, neither cropped nor turned."""
    plain = Augment(crop=(1.0, 1.0), ratio=(1.0, 1.0), **augment)
    view = ImageView(preprocess=Preprocess(size=len(pixels)), augment=plain)
    sample = Sample(key="a", source="s", images={"main": Held(Image.fromarray(pixels))})
    return view(sample, np.random.default_rng(seed), progress)["images.main"][0]


NOISE = np.random.default_rng(0).integers(40, 200, (16, 16, 3), dtype=np.uint8)


def test_one_strength_of_colour_sets_brightness_contrast_and_saturation():
    assert torch.equal(varied(NOISE, colour=0.2), varied(NOISE, colour=(0.2, 0.2, 0.4, 0.0)))
    assert torch.equal(varied(NOISE, colour=0.2), varied(NOISE, colour=[0.2, 0.2, 0.4, 0.0]))
    assert not torch.equal(varied(NOISE, colour=0.2), varied(NOISE))


def test_hue_keeps_greys_and_the_largest_of_the_three_colours():
    grey = np.repeat(NOISE[:, :, :1], 3, axis=2)
    turned = [varied(NOISE, seed, colour=(0.0, 0.0, 0.0, 0.5)) for seed in range(5)]
    assert torch.equal(varied(grey, colour=(0.0, 0.0, 0.0, 0.5)), varied(grey))
    for found in turned:
        assert (found.amax(0).int() - torch.from_numpy(NOISE).amax(2).int()).abs().max() <= 2
    assert len({found.numpy().tobytes() for found in turned}) == 5


def test_a_share_is_recoloured_grey_or_blurred():
    large = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    plain = varied(large)
    for how in ({"colour": 0.3, "recoloured": 0.5}, {"grey": 0.5}, {"blur": 0.5}):
        changed = sum(not torch.equal(varied(large, seed, **how), plain) for seed in range(60))
        assert 15 <= changed <= 45
        assert torch.equal(varied(large, progress=0.0, ramp=(0.1, 0.5), **how), plain)
    grey = varied(NOISE, grey=1.0)
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


def test_a_blur_smooths_and_keeps_the_mean():
    large = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    plain = varied(large).float()
    blurred = [varied(large, seed, blur=1.0).float() for seed in range(4)]
    for found in blurred:
        assert abs(found.mean() - plain.mean()) < 1
    assert min(found.std() for found in blurred) < 0.6 * plain.std()


def test_solarised_values_are_inverted_from_the_middle_on():
    plain = varied(NOISE).int()
    expected = torch.where(plain < 128, plain, 255 - plain)
    assert torch.equal(varied(NOISE, solarise=1.0).int(), expected)
    changed = sum(
        not torch.equal(varied(NOISE, seed, solarise=0.5).int(), plain) for seed in range(60)
    )
    assert 15 <= changed <= 45
    assert torch.equal(varied(NOISE, progress=0.0, solarise=1.0, ramp=(0.1, 0.5)).int(), plain)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_of_randaugment_are_those_of_pillow(operation):
    """Of an image of 64 x 64 at a magnitude of .7."""
    given = np.kron(NOISE[:8, :8], np.ones((8, 8, 1), np.uint8))
    image = Image.fromarray(given)
    slant = 0.3 * 0.7
    about = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128,) * 3}
    moved = lambda *matrix: image.transform(image.size, Image.Transform.AFFINE, matrix, **about)  # noqa: E731
    expected = {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1.36),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1.36),
        "shear_x": lambda: moved(1, slant, 0, 0, 1, 0),
        "shear_y": lambda: moved(1, 0, 0, slant, 1, 0),
        "translate_x": lambda: moved(1, 0, -64 * 7 / 256, 0, 1, 0),
        "translate_y": lambda: moved(1, 0, 0, 0, 1, -64 * 7 / 256),
        "rotate": lambda: image.rotate(-21, **about),
    }[operation]()
    found = changed(torch.from_numpy(given).permute(2, 0, 1), operation, 0.7).permute(1, 2, 0)

    def mean_apart(other):
        return float((found.float() - torch.from_numpy(np.array(other))).abs().mean())

    assert mean_apart(expected) < 2.5
    assert operation == "identity" or mean_apart(given) > 1.5


def test_randaugment_draws_each_operation_and_applies_half_of_them():
    found = {varied(NOISE, seed, randaugment=1).numpy().tobytes() for seed in range(400)}
    assert len(found) == 15  # 10 operations, 5 of them in both directions
    kept = np.mean(
        [torch.equal(varied(NOISE, s, randaugment=1), varied(NOISE)) for s in range(400)]
    )
    assert kept == pytest.approx(0.55, abs=0.08)  # not applied, or the identity
    both = {varied(NOISE, seed, randaugment=2).numpy().tobytes() for seed in range(400)}
    assert len(both) > 60
    assert torch.equal(varied(NOISE, 3, randaugment=2), varied(NOISE, 3, randaugment=2))
    later = {"ramp": (0.1, 0.5), "randaugment": 2}
    assert all(
        torch.equal(varied(NOISE, s, progress=0.0, **later), varied(NOISE)) for s in range(20)
    )
    with pytest.raises(InputError, match="within 0 and 1"):
        Augment(randaugment=2, magnitude=7.0)
    with pytest.raises(InputError, match="no randaugment"):
        ImageView(preprocess=Preprocess(size=32), augment=Augment(randaugment=2), crops=True)


def test_the_second_augmentation_is_that_of_all_views_but_the_first():
    sample = Toy(1, ["images.main"])[0]
    crop = Augment(crop=(1.0, 1.0), ratio=(1.0, 1.0))
    view = ImageView(
        preprocess=Preprocess(size=32),
        augment=crop,
        second=Augment(crop=(0.04, 0.04)),
        count=3,
        crops=True,
    )
    x0, _, x1, _ = view(sample, generator(0), 0.5)["fields.main.crops"].unbind(1)
    assert ((x1 - x0) < 0.4).tolist() == [False, True, True]
    asked = []

    class Large:
        def decode(self, at_least=None):
            asked.append(at_least)
            return Image.new("RGB", (400, 400))

    view(Sample(key="l", source="s", images={"main": Large()}), generator(0), 0.5)
    assert asked == [
        185
    ]  # 32 pixels of the smallest crop, of which the sides are 1/5 and stretched
    with pytest.raises(InputError, match="rotate and shear"):
        replace(view, second=Augment(shear=5.0))
    assert view(sample, generator(0), None)["images.main"].shape == (3, 3, 32, 32)


def test_a_view_like_another_makes_its_choices_again():
    """A teacher's view: the same crop, colours and words, at its own size and by its own
    tokenizer."""
    augment = Augment(crop=(0.2, 0.6), flip=True, colour=(0.4, 0.4, 0.4, 0.1), grey=0.5)
    other = build("bpe:vocab_size=280:context=24", ["something else"])
    images = [
        ImageView(preprocess=Preprocess(size=32), augment=augment),
        ImageView(preprocess=Preprocess(size=32), augment=augment, name="own"),
        ImageView(preprocess=Preprocess(size=32), augment=augment, name="same", like="images.main"),
        ImageView(
            preprocess=Preprocess(size=64), augment=augment, name="large", like="images.main"
        ),
    ]
    words = [TextView(tokenizer=WORDS), TextView(tokenizer=other, name="same", like="texts.main")]
    texts = [
        Text(text=f"a {colour} circle", role="caption")
        for colour in ("red", "green", "blue", "pink", "grey")
    ]
    for position in range(6):
        sample = replace(Toy(8)[position], texts=texts)
        seen = look(sample, [*images, *words], (0, 0, position), 1.0)
        assert torch.equal(seen["images.main"], seen["images.same"])
        assert not torch.equal(seen["images.main"], seen["images.own"])
        shrunk = F.avg_pool2d(seen["images.large"].float(), 2)
        assert (shrunk - seen["images.main"].float()).abs().mean() < 6
        assert other.decode(seen["texts.same"][0]) == WORDS.decode(seen["texts.main"][0])
        assert torch.equal(
            seen["images.main"], look(sample, images[:1], (0, 0, position), 1.0)["images.main"]
        )


def test_without_augmentation_a_training_image_is_as_outside():
    sample = Toy(8)[3]
    plain = ImageView(preprocess=Preprocess(size=24), augment=None)
    varied = ImageView(preprocess=Preprocess(size=24), augment=Augment(crop=(0.3, 0.5)))
    outside = plain(sample, generator(0), None)["images.main"]
    assert torch.equal(outside, varied(sample, generator(0), None)["images.main"])
    assert torch.equal(outside, plain(sample, generator(0), 0.7)["images.main"])
    assert not torch.equal(outside, varied(sample, generator(0), 0.7)["images.main"])


def test_texts_are_joined_by_what_stands_between():
    texts = [Text(text="a red"), Text(text="left")]
    sample = Sample(key="a", source="s", texts=texts)
    view = TextView(tokenizer=WORDS, role="caption+caption", between=" and ")
    assert WORDS.decode(view(sample, generator(0), None)["texts.main"][0]) == "a red and left"


def test_abbreviations_and_numbers_part_no_sentence_and_other_marks_do():
    text = ("Dr. Smith met Mr. Jones at 5 p.m. in the U.S. yesterday! Was it so? Yes. See Fig. 3 e.g. there.\nA lamp "
            "of 3.5 kg.</s>a bus")  # fmt: skip
    assert sentences(text) == [
        "Dr. Smith met Mr. Jones at 5 p.m. in the U.S. yesterday!",
        "Was it so?",
        "Yes",
        "See Fig. 3 e.g. there",
        "A lamp of 3.5 kg",
        "a bus",
    ]
    assert sentences(" \n.</s>") == sentences("...") == []


def dot(x, y, size=65):
    """A white dot of 3 x 3 pixels at an offset from the centre, on black."""
    pixels = np.zeros((size, size, 3), np.uint8)
    column = size // 2 + x
    row = size // 2 + y
    pixels[row - 1 : row + 2, column - 1 : column + 2] = 255
    return pixels


def offset(pixels):
    """The offset of the dot's centre of mass from the centre of the image."""
    mass = np.asarray(pixels, float).sum(0)
    rows, columns = np.indices(mass.shape)
    middle = (mass.shape[0] - 1) / 2
    return (columns * mass).sum() / mass.sum() - middle, (rows * mass).sum() / mass.sum() - middle


def test_an_image_is_rotated_about_its_centre_by_at_most_the_angle():
    angles = []
    for seed in range(40):
        x, y = offset(varied(dot(20, 0), seed, rotate=30.0))
        assert np.hypot(x, y) == pytest.approx(20, abs=0.5)
        angles.append(np.degrees(np.arctan2(y, x)))
    assert -30.5 < min(angles) < -15
    assert 15 < max(angles) < 30.5
    assert (varied(np.full((65, 65, 3), 255, np.uint8), 3, rotate=30.0) == 0).any()


def test_shear_moves_rows_sideways_in_proportion_to_their_height():
    slants = []
    for seed in range(40):
        x, y = offset(varied(dot(0, 20), seed, shear=20.0))
        again, _ = offset(varied(dot(0, 10), seed, shear=20.0))
        assert y == pytest.approx(20, abs=0.5)
        assert again == pytest.approx(x / 2, abs=0.5)
        slants.append(np.degrees(np.arctan(x / 20)))
    assert -20.5 < min(slants) < -10
    assert 10 < max(slants) < 20.5


def test_a_rotated_view_has_no_position_in_its_image():
    with pytest.raises(InputError, match="rotate and shear"):
        ImageView(preprocess=Preprocess(size=32), augment=Augment(rotate=5.0), crops=True)


def test_crops_for_images_of_two_sides_have_their_proportions():
    """A quarter of the area, twice as wide as high."""
    view = ImageView(
        preprocess=Preprocess(size=(16, 32)),
        augment=Augment(crop=(0.25, 0.25), ratio=(1.0, 1.0)),
        crops=True,
    )
    sample = Toy(1, ["images.main"], size=64)[0]
    found = view(sample, generator(0), 0.5)
    assert found["images.main"].shape == (1, 3, 16, 32)
    x0, y0, x1, y1 = found["fields.main.crops"][0].tolist()
    assert (x1 - x0) / (y1 - y0) == pytest.approx(2, rel=0.05)
    assert view(sample, generator(0), None)["images.main"].shape == (1, 3, 16, 32)
    tile = Image.new("RGBA", (20, 20), (255, 0, 0, 255))

    class Tile:
        def decode(self, at_least=None):
            return tile

    placed = Sample(key="t", source="s", images={"main": Tile()})
    with pytest.raises(InputError, match="square images, and this one's are 16 x 32"):
        ImageView(preprocess=Preprocess(size=(16, 32)))(placed, generator(0), 0.5)


def test_a_share_has_a_rectangle_of_random_colours():
    flat = np.full((40, 40, 3), 128, np.uint8)
    plain = varied(flat).int()
    areas = []
    for seed in range(60):
        changed = (varied(flat, seed, erase=1.0).int() != plain).any(0)
        rows = changed.any(1).nonzero()
        columns = changed.any(0).nonzero()
        box = int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        assert int(changed.sum()) >= 0.9 * box  # all but colours that are drawn by chance
        areas.append(box / changed.numel())
    assert 0.01 < min(areas) < 0.1 < max(areas) < 0.36
    some = sum(not torch.equal(varied(flat, seed, erase=0.5).int(), plain) for seed in range(60))
    assert 15 <= some <= 45
    assert torch.equal(varied(flat, progress=0.0, erase=1.0, ramp=(0.1, 0.5)).int(), plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop": (0, 1)},
            r"crop=\(0, 1\) of --method.augment; give the smaller one first, above 0",
        ),
        ({"ratio": (2, 0.5)}, r"ratio=\(2, 0.5\)"),
        ({"ramp": (0.5, 0.2)}, "smaller one first, 0 or more"),
        ({"crop": (0.5, 2)}, "a number from 0 to 1"),
        ({"place": 0.5}, "at least 1"),
        ({"grey": 5}, "a number from 0 to 1"),
    ],
)
def test_ranges_of_augmentation_that_give_no_image_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        augmentation(options)
