"""Dense and depth probes: cells and alignment against loops, mIoU against scikit-learn, and images
that tell all."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import confusion_matrix
from tests.evaluation.helpers import Fake, Plane, Rows, vectors

from diptych.data.images import Preprocess
from diptych.data.sample import Field, Sample
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites._patches import cell_classes, cell_means, laid_under
from diptych.evaluation.suites.dense import dense, ious, segmentation
from diptych.evaluation.suites.depth import depth
from diptych.linear import classifier

COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250]], np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    size=st.integers(1, 24),
    resize=st.sampled_from(["shortest", "squash", "longest"]),
    crop=st.sampled_from(["round", "floor"]),
    seed=st.integers(0, 99),
)
def test_a_plane_lies_as_the_pixels_do(width, height, size, resize, crop, seed):
    """The nearest pixel of each scaled one, by whole numbers, then cropped or padded as the
    preprocessing does it."""
    plane = np.random.default_rng(seed).integers(1, 200, (height, width)).astype(np.uint8)
    preprocess = Preprocess(size=size, resize=resize, crop=crop, fill=(255, 255, 255))
    wide, high = preprocess.scaled(width, height)
    scaled = np.array(
        [
            [
                plane[(2 * y + 1) * height // (2 * high), (2 * x + 1) * width // (2 * wide)]
                for x in range(wide)
            ]
            for y in range(high)
        ]
    )
    expected = preprocess._fitted(torch.from_numpy(scaled).expand(3, -1, -1))[0].numpy()
    assert np.array_equal(laid_under(plane, preprocess, 255), expected)
    floats = laid_under(plane.astype(float), preprocess, np.nan)
    assert np.array_equal(np.nan_to_num(floats, nan=255), expected)


def test_a_plane_lies_where_the_image_of_it_lies():
    """An image of two halves, wide and tall: its scaled pixels and its mask change sides at the
    same places."""
    for shape in ((40, 100), (100, 40)):
        plane = np.zeros(shape, np.uint8)
        plane[: shape[0] // 2, :] = 200
        plane[:, : shape[1] // 2] += 50
        for resize in ("shortest", "squash"):
            preprocess = Preprocess(size=20, resize=resize)
            pixels = preprocess(Image.fromarray(plane).convert("RGB"))[0].numpy()
            near = laid_under(plane, preprocess, 0)
            assert (np.abs(pixels.astype(int) - near) < 60).mean() > 0.9


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(1, 12),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    void=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_cells_equal_loops_over_pixels(side, h, w, void, seed):
    h, w = min(h, side), min(w, side)
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, 3, (side, side))
    values = np.where(rng.random((side, side)) < 0.4 * void, np.nan, rng.normal(size=(side, side)))
    pixels: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(side):
        for x in range(side):
            pixels.setdefault((y * h // side, x * w // side), []).append((y, x))
    common, means = [], []
    for row in range(h):
        for column in range(w):
            inside = pixels[row, column]
            counts = Counter(int(plane[at]) for at in inside)
            common.append(
                min(value for value, count in counts.items() if count == max(counts.values()))
            )
            finite = [values[at] for at in inside if np.isfinite(values[at])]
            means.append(np.mean(finite) if 2 * len(finite) > len(inside) else np.nan)
    assert cell_classes(plane, (h, w), 255).tolist() == common
    assert np.allclose(cell_means(values, (h, w)), means, equal_nan=True)


@pytest.mark.filterwarnings("ignore:A single label was found")  # by scikit-learn's matrix
@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 30), classes=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_iou_equals_the_confusion_matrix(n, classes, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    labels = np.union1d(truth, predicted)
    matrix = confusion_matrix(truth, predicted, labels=labels)
    expected = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert ious(truth, predicted) == pytest.approx(
        dict(zip(labels.tolist(), expected, strict=True))
    )


def test_segmentation_equals_the_classifiers_predictions():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    x = np.eye(3)[y] + rng.normal(size=(400, 3))
    found, by_class = segmentation(x[:200], y[:200], x[200:], y[200:])
    predicted = classifier(x[:200], y[:200])[0].predict(x[200:])
    assert by_class == ious(y[200:], predicted)
    assert found["miou"] == pytest.approx(np.mean(list(by_class.values())))
    assert found["accuracy"] == pytest.approx((predicted == y[200:]).mean())
    common = np.bincount(y[:200]).argmax()
    assert found["chance_accuracy"] == pytest.approx((y[200:] == common).mean())
    assert found["chance_miou"] == pytest.approx((y[200:] == common).mean() / 3)
    assert found["chance_miou"] < found["miou"] < 1


# ---- the suites


def quarters(count: int, tells: bool = True) -> Rows:
    """Images of four quarters, each of one of three classes; the colour tells which, and how far it
    is."""
    samples = []
    for number in range(count):
        classes = np.random.default_rng(number).integers(0, 3, (2, 2))
        shown = COLOURS[
            classes if tells else np.random.default_rng(number + 1000).integers(0, 3, (2, 2))
        ]
        image = shown.repeat(4, 0).repeat(4, 1)
        mask = classes.repeat(4, 0).repeat(4, 1).astype(np.uint8)
        mask[0, 0] = 255  # a void pixel does not make a void cell
        samples.append(
            Sample(
                key=str(number),
                source="rows",
                images={"main": Plane(image)},
                masks={"class": Plane(mask)},
                arrays={"depth": np.where(mask == 255, np.nan, 2.0 * mask + 1)},
            )
        )
    fields = {
        "masks.class": Field(kind="mask", classes=("sky", "sea", "sand")),
        "arrays.depth": Field(kind="array"),
    }
    return Rows(samples, fields=fields)


def test_a_probe_of_images_that_tell_all_reads_every_position():
    model = Fake(vectors(0), size=8)
    result = dense(model, quarters(20), train=quarters(30), batch_size=7)
    assert result["miou"] == result["accuracy"] == 1.0
    assert (result["n"], result["n_train"]) == (80, 120)
    assert result["by_class"] == {name: {"iou": 1.0} for name in ("sky", "sea", "sand")}
    found = depth(model, quarters(20), train=quarters(30), batch_size=7)
    assert found["r2"] > 0.999
    assert found["rmse"] < 0.05 < 1 < found["chance_rmse"]
    assert (found["n"], found["n_train"]) == (80, 120)


def test_a_feature_map_of_the_tower_is_probed():
    """The second map is of noise; its number is part of the protocol."""

    class Maps(Fake):
        def represent(self, images, *, batch_size, level=None):
            found = super().represent(images, batch_size=batch_size)
            noise = torch.rand(len(images), 2, 4, 4, generator=torch.Generator().manual_seed(0))
            own = found.patches.mT.unflatten(2, (2, 2))
            found = replace(found, levels=(own, noise))
            return found if level is None else found.of_level(level)

    model = Maps(vectors(0), size=8)
    first, second = (
        dense(model, quarters(20), train=quarters(30), batch_size=7, level=level)
        for level in (0, 1)
    )
    assert first["miou"] == 1.0
    assert (second["n"], second["miou"] < 0.7) == (320, True)
    assert (
        first["protocol"]
        != second["protocol"]
        != dense(model, quarters(20), train=quarters(30))["protocol"]
    )
    assert depth(model, quarters(20), train=quarters(30), level=1)["r2"] < 0.5
    with pytest.raises(InputError, match="no feature map 2, but 2 of them"):
        dense(model, quarters(4), train=quarters(4), level=2)


def test_classes_of_training_are_those_of_the_same_name():
    train = quarters(30)
    for sample in train.samples:
        plane = sample.masks["class"].pixels
        sample.masks["class"] = Plane(np.where(plane == 255, 255, 2 - plane).astype(np.uint8))
    train.fields["masks.class"] = Field(kind="mask", classes=("sand", "sea", "sky"))
    result = dense(Fake(vectors(0), size=8), quarters(20), train=train)
    assert result["miou"] == 1.0
    assert list(result["by_class"]) == ["sky", "sea", "sand"]


def test_a_mask_of_objects_is_refused():
    source = quarters(20)
    source.fields["masks.class"] = Field(kind="mask")
    with pytest.raises(
        InputError, match="'class' of rows has numbers without class names.*name them"
    ):
        dense(Fake(vectors(0), size=8), source)
    source.fields["masks.sort"] = Field(kind="mask", classes=("sky", "sea"))
    with pytest.raises(InputError, match="choose 'sort'"):
        dense(Fake(vectors(0), size=8), source, mask="class")


def test_images_that_tell_nothing_give_about_chance():
    result = dense(Fake(vectors(0), size=8), quarters(60, tells=False))
    assert result["accuracy"] < 0.6
    assert depth(Fake(vectors(0), size=8), quarters(60, tells=False))["r2"] < 0.2


def test_void_cells_are_left_out_and_a_sample_without_a_mask_is_told():
    source = quarters(12)
    for sample in source.samples[:3]:
        sample.masks["class"].pixels[:4, :4] = 255
        sample.arrays["depth"][:4, :4] = np.nan
    source.samples[5] = Sample(key="bare", source="rows", images=source.samples[5].images)
    for suite, reason in ((dense, "no-mask"), (depth, "no-depth")):
        result = suite(Fake(vectors(0), size=8), source, train=quarters(20))
        assert result["n"] == 4 * 11 - 3
        assert result["bad"] == {reason: 1}


def test_a_probe_learns_from_no_more_positions_than_asked():
    few, all_of_them = (
        dense(Fake(vectors(0), size=8), quarters(20), train=quarters(30), max_positions=m)
        for m in (60, 9999)
    )
    assert (few["n_train"], all_of_them["n_train"]) == (60, 120)
    assert few["n"] == all_of_them["n"] == 80
    assert few["protocol"] != all_of_them["protocol"]


def test_what_a_model_or_source_lacks_is_told_before_anything_is_computed():
    class NoGrid(Fake):
        represent = property()

    with pytest.raises(
        InputError, match="dense needs a model with represent, which NoGrid has not"
    ):
        evaluate(NoGrid(vectors(0)), quarters(4), ["dense"])
    with pytest.raises(InputError, match="mask of source 'rows' 'clas'; did you mean 'class'"):
        evaluate(Fake(vectors(0)), quarters(4), ["dense"], mask="clas")
    with pytest.raises(
        InputError, match=r"depth needs arrays.depth, which source 'rows' does not give"
    ):
        evaluate(Fake(vectors(0)), Rows(quarters(4).samples), ["depth"])
