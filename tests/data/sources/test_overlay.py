"""`overlay:GROUND:pasted=SPEC`: the equation of both blends, labels of both sources, choices by seed and
position, and what does not fit together."""

import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.data.sample import Source, labels_of
from diptych.data.sources import open_source
from diptych.data.sources.overlay import Overlaid
from diptych.data.wrap import Wrapped
from diptych.errors import InputError


@pytest.fixture
def folders(tmp_path):
    """Forty grounds of 40 x 32 pixels in two classes, and six digits of 28 pixels in three."""
    draw = np.random.default_rng(0)
    for name, count, classes, shape in (
        ("grounds", 40, "ab", (32, 40, 3)),
        ("digits", 6, "012", (28, 28)),
    ):
        for at in range(count):
            folder = tmp_path / name / classes[at % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{at}.png")
    return tmp_path


def opened(folders, options="") -> Any:
    spec = f"overlay:{folders}/grounds:pasted={folders}/digits:prefix=digit_{options}"
    return open_source(spec)


def pixels_of(sample):
    return np.asarray(sample.images["main"].decode().convert("RGB"), np.float64)


def test_the_published_overlay_is_half_of_each_image_with_digits_in_the_middle(folders):
    source = opened(folders, ":scale=0.875:place=middle")
    assert isinstance(opened(folders), Source)
    grounds, digits = open_source(f"{folders}/grounds"), open_source(f"{folders}/digits")
    seen = []
    for at, sample in enumerate(source):
        assert sample.key == grounds[at].key
        expected = pixels_of(grounds[at]) / 2
        label, chosen = sample.labels["digit_class"], int(source.chosen[at])
        seen.append(label)
        assert label == (-1 if chosen < 0 else digits[chosen].labels["class"])
        if chosen >= 0:
            expected[2:30, 6:34] += pixels_of(digits[chosen]) / 2  # 28 of 32 x 40 pixels
        assert np.abs(pixels_of(sample) - expected).max() <= 0.5
    assert 8 < sum(label >= 0 for label in seen) < 32
    assert (
        source.labels("digit_class").tolist() == seen == labels_of(source, "digit_class").tolist()
    )
    assert source.labels("class").tolist() == labels_of(grounds, "class").tolist()
    assert source.schema()["labels.digit_class"].classes == ("0", "1", "2")
    assert source.schema()["labels.digit_class"].optional
    assert not opened(folders, ":share=1").schema()["labels.digit_class"].optional


def test_what_is_cut_out_is_laid_over_by_its_alpha():
    grey = open_source([(Image.new("RGB", (64, 64), (100, 100, 100)), 0)])
    disc = Image.new("RGBA", (16, 8), (0, 0, 0, 0))
    disc.paste((200, 40, 0, 128), (0, 0, 8, 8))  # half transparent, and the right half wholly
    ink = open_source([(disc, 5)])
    made = {
        blend: pixels_of(
            Overlaid(grey, ink, share=1, scale=0.25, place="middle", blend=blend, prefix="ink_")[0]
        )
        for blend in ("add", "over")
    }
    alpha = 128 / 255
    colours = np.array([200, 40, 0])
    for blend, ground, inside in (
        ("over", 100, (1 - alpha) * 100 + alpha * colours),
        ("add", 50, 50 + alpha * colours / 2),
    ):
        found = made[blend]
        assert np.abs(found[28:36, 24:32] - inside).max() < 1.5  # colours times alpha are rounded
        rest = np.ones((64, 64), bool)
        rest[28:36, 24:32] = False
        assert (found[rest] == ground).all()


def test_size_and_place_are_drawn_by_the_seed_and_stay_in_the_image(folders):
    white = open_source([(Image.new("L", (30, 15), 255), 0)])
    black = open_source([(Image.new("L", (40, 32), 0), 0)] * 200)
    made = Overlaid(black, white, share=0.75, scale=0.75, min_scale=0.25, prefix="w_", seed=3)
    boxes = []
    for sample in made:
        rows, columns = np.nonzero(pixels_of(sample)[..., 0])
        assert (sample.labels["w_class"] == 0) == bool(len(rows))
        if len(rows):
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    x0, y0, x1, y1 = np.array(boxes).T
    assert abs(len(boxes) / 200 - 0.75) < 0.1
    assert (x1 - x0).min() <= 10
    assert (x1 - x0).max() >= 22
    assert ((x1 - x0 >= 8) & (x1 - x0 <= 24) & (np.abs((x1 - x0) / 2 - (y1 - y0)) <= 0.5)).all()
    assert x0.min() < 4
    assert x1.max() > 36
    assert y1.max() > 28
    same = Overlaid(black, white, share=0.75, scale=0.75, min_scale=0.25, prefix="w_", seed=3)
    other = Overlaid(black, white, share=0.75, scale=0.75, min_scale=0.25, prefix="w_", seed=4)
    assert (same.chosen == made.chosen).all()
    assert (other.chosen != made.chosen).any()
    part = Wrapped(made, np.array([7, 2]))
    assert (
        part[0].images["main"].read() == pickle.loads(pickle.dumps(same))[7].images["main"].read()
    )


def test_missing_numbers_are_nan_and_the_damage_of_both_is_told(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "sizes.csv").write_text("image,size:float\none.png,0.5\n")
    rows = open_source(f"{tmp_path}/sizes.csv:image=image")
    made = Overlaid(open_source([(Image.new("RGB", (8, 8)), 0)] * 30), rows)
    damaged: Any = made.pasted
    name = next(name for name in made.schema() if "size" in name).removeprefix("labels.")
    values = made.labels(name)
    assert set(values[~np.isnan(values)]) == {0.5}
    assert np.isnan(values).any()
    assert [sample.labels[name] for sample in made] == pytest.approx(values.tolist(), nan_ok=True)
    damaged.damage = {"row 9": "columns"}
    assert made.damage == {"row 9": "columns"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("overlay:{0}/grounds", "pasted"),
        ("overlay:{0}/grounds:pasted={0}/digits", "both have labels.class; add prefix=pasted_"),
        ("overlay:{0}/grounds:pasted={0}/none", "none: no such file or folder"),
        ("overlay:{0}/grounds:pasted=wordnet", "images.main"),
        ("overlay:{0}/grounds:pasted={0}/digits:prefix=d_:scale=1.5", "scale"),
        ("overlay:{0}/grounds:pasted={0}/digits:prefix=d_:min_scale=0.9", "is above scale=0.5"),
        ("overlay:{0}/grounds:pasted={0}/digits:prefix=d_:blend=both", "blend"),
    ],
)
def test_what_does_not_fit_is_refused(folders, spec, message):
    if "wordnet" in spec:
        (folders / "lines.txt").write_text("a cat\n")
        spec = spec.replace("wordnet", f"{folders}/lines.txt")
    with pytest.raises(InputError, match=message):
        open_source(spec.format(folders))
