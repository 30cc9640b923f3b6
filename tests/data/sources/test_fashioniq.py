"""FashionIQ, on a fixture of the true form."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.factories import tokenizer

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.methods.adapt.sprc import BOTH, InstructionView
from diptych.rng import generator

NAMES = ["B008BHCT58", "B003FGW7MK", "B007DJ33FM", "B00AKQQ5WK"]
CAP = [
    {
        "target": NAMES[0],
        "candidate": NAMES[1],
        "captions": ["is solid black with no sleeves", "is black with straps"],
    },
    {"target": NAMES[2], "candidate": NAMES[0], "captions": ["is longer", "has a belt"]},
]


@pytest.fixture
def fashion(tmp_path):
    """`fashion(cap, split)` writes the two files and the images in the published layout."""

    def write(cap=CAP, split=NAMES, name="cap.dress.val.json", ending="png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        for number, each in enumerate(NAMES):
            Image.new("RGB", (4, 4), (50 * number, 0, 0)).save(
                tmp_path / "images" / f"{each}.{ending}"
            )
        for folder, file, data in (
            ("captions", name, cap),
            ("image_splits", name.replace("cap", "split"), split),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / file).write_text(
                data if isinstance(data, str) else json.dumps(data)
            )
        return tmp_path / "captions" / name

    return write


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_triples_bring_both_captions_and_the_rest_is_gallery(fashion, ending):
    source = open_source(str(fashion(ending=ending)))
    assert isinstance(source, Source)
    assert list(source.keys()) == ["00000", "00001", NAMES[3]]
    assert source[0].captions("instruction") == CAP[0]["captions"]
    shown = {
        role: round(image.decode().getpixel((0, 0))[0] / 50)
        for role, image in source[0].images.items()
    }
    assert shown == {"main": 0, "reference": 1}
    assert set(source[2].images) == {"main"}
    assert "labels.group" not in source.schema()
    assert source.schema()["images.reference"].optional


def test_in_training_the_captions_come_in_four_forms_and_outside_in_order(fashion):
    """As published: a quarter each of "c1 and c2", "c2 and c1", c1, c2."""
    sample = open_source(str(fashion()))[1]
    words = tokenizer()
    view = InstructionView(tokenizer=words, role=BOTH)
    drawn = [
        words.decode(view(sample, generator(0, at), 0.5)["texts.main"][0]) for at in range(800)
    ]
    forms, counts = np.unique(drawn, return_counts=True)
    assert set(forms) == {
        "is longer",
        "has a belt",
        "is longer and has a belt",
        "has a belt and is longer",
    }
    assert abs(counts / 800 - 0.25).max() < 0.05
    assert (
        words.decode(view(sample, generator(0), None)["texts.main"][0])
        == "is longer and has a belt"
    )


@pytest.mark.parametrize(
    ("cap", "split", "message"),
    [
        (
            [{k: v for k, v in each.items() if k != "target"} for each in CAP],
            NAMES,
            "measure on the split val",
        ),
        ([CAP[0], {**CAP[1], "target": 5}], NAMES, "triple 2 has no target of the right kind"),
        (
            [CAP[0], {**CAP[1], "captions": "longer"}],
            NAMES,
            "triple 2 has no captions of the right kind",
        ),
        ([{**CAP[0], "captions": []}], NAMES, r"captions of triple 1 are \[\], no texts"),
        ([{**CAP[0], "captions": ["a", 3]}], NAMES, "captions of triple 1 are"),
        ("[", NAMES, "not JSON"),
        (CAP, {}, "no list of images' names"),
        (CAP, [1], "no list of images' names"),
        (CAP, [NAMES[0], "../x"], r"the image \.\./x\.png leaves the folder"),
        (CAP, ["B000000000", *NAMES], r"its first image, B000000000\.png, is not near it"),
    ],
)
def test_damage_is_told(fashion, cap, split, message):
    with pytest.raises(InputError, match=message):
        open_source(str(fashion(cap, split)))


def test_a_image_that_is_not_listed_is_counted(fashion):
    assert open_source(str(fashion(split=NAMES[:2]))).damage == {"00001": "missing"}


def test_both_readers_leave_other_names_to_coco(fashion, tmp_path):
    path = fashion()
    (tmp_path / "captions" / "dress.json").write_text(path.read_text())
    with pytest.raises(InputError, match="no list 'images' as COCO's"):
        open_source(str(tmp_path / "captions" / "dress.json"))
