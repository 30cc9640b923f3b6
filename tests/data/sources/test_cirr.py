"""CIRR, on a fixture of the true form."""

import copy
import json

import pytest
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError

NAMES = [f"dev-{number}-0-img{number % 2}" for number in range(9)]
SPLIT = {name: f"./dev/{name}.png" for name in NAMES}


def entry(pair, reference, target, caption, group, members):
    return {
        "pairid": pair,
        "reference": NAMES[reference],
        "target_hard": NAMES[target],
        "target_soft": {NAMES[target]: 1.0},
        "caption": caption,
        "img_set": {
            "id": group,
            "members": [NAMES[at] for at in members],
            "reference_rank": 3,
            "target_rank": 4,
        },
    }


CAP = [
    entry(12060, 0, 1, "same breed but sitting", 7, range(6)),
    entry(12063, 1, 2, "Remove one of the dogs.", 7, range(6)),
    entry(12071, 3, 6, "same dog on the beach", 9, (3, 4, 5, 6, 7, 8)),
]


@pytest.fixture
def cirr(tmp_path):
    """`cirr(cap, split)` writes the two files and the images in CIRR's layout."""

    def write(cap=CAP, split=SPLIT, name="cap.rc2.val.json"):
        for number, each in enumerate(SPLIT.values()):
            (tmp_path / "img_raw" / each).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "img_raw" / each)
        for folder, file, data in (
            ("captions", name, cap),
            ("image_splits", name.replace("cap", "split"), split),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            text = data if isinstance(data, str) else json.dumps(data)
            (tmp_path / folder / file).write_text(text)
        return tmp_path / "captions" / name

    return write


def test_triples_have_both_images_the_instruction_and_their_group(cirr):
    source = open_source(str(cirr()))
    assert isinstance(source, Source)
    first, second, third = (source[at] for at in range(3))
    assert [each.key for each in (first, second, third)] == ["12060", "12063", "12071"]
    shown = {role: image.decode().getpixel((0, 0))[0] for role, image in second.images.items()}
    assert shown == {"main": 2, "reference": 1}
    assert second.captions("instruction") == ["Remove one of the dogs."]
    assert [each.labels["group"] for each in (first, second, third)] == [7, 7, 9]
    assert source.labels("group").tolist() == [sample.labels["group"] for sample in source]
    assert {name: field.optional for name, field in source.schema().items()} == {
        "images.main": False,
        "images.reference": True,
        "texts.instruction": True,
        "labels.group": False,
    }


def test_every_image_is_in_the_gallery_and_in_each_of_its_groups(cirr):
    source = open_source(str(cirr()))
    assert len(set(source.keys())) == len(source)
    assert list(source.keys()) == [sample.key for sample in source]
    shown, groups = set(), {}
    for sample in source:
        mine = {int(image.decode().getpixel((0, 0))[0]) for image in sample.images.values()}
        shown |= mine
        groups.setdefault(sample.labels["group"], set()).update(mine)
        assert ("reference" in sample.images) == bool(sample.captions("instruction"))
    assert shown == set(range(9))
    assert groups == {7: set(range(6)), 9: {3, 4, 5, 6, 7, 8}}


def test_a_image_of_no_group_is_in_the_gallery_alone(cirr):
    source = open_source(str(cirr(CAP[:2])))
    assert [(sample.key, sample.labels["group"]) for sample in source][-3:] == [
        (name, -1) for name in NAMES[6:]
    ]


def test_list_and_images_are_found_or_named(cirr, tmp_path):
    path = cirr()
    moved = tmp_path / "elsewhere.json"
    (tmp_path / "image_splits" / "split.rc2.val.json").rename(moved)
    with pytest.raises(
        InputError, match=r"its list of images, split\.rc2\.val\.json, is not there; name it with"
    ):
        open_source(str(path))
    assert len(open_source(f"{path}:image_list={moved}")) == len(
        open_source(f"{path}:image_list={moved}")
    )
    (tmp_path / "img_raw").rename(tmp_path / "photos")
    with pytest.raises(
        InputError, match=r"its first image, \./dev/dev-0-0-img0\.png, is not near it"
    ):
        open_source(f"{path}:image_list={moved}")
    found = open_source(f"{path}:image_list={moved}:images={tmp_path / 'photos'}")
    assert found[0].images["main"].decode().size == (4, 4)
    with pytest.raises(InputError, match="is not in /nowhere"):
        open_source(f"{path}:image_list={moved}:images=/nowhere")


def test_a_triple_of_images_that_are_not_listed_is_counted(cirr):
    cap = [*CAP, {**CAP[0], "pairid": 1, "target_hard": "dev-99-0-img0"}]
    source = open_source(str(cirr(cap)))
    assert source.damage == {"1": "missing"}
    assert "1" not in list(source.keys())
    with pytest.raises(InputError, match="none of its 1 triples is of listed images"):
        open_source(str(cirr(cap[-1:])))


def changed(**fields):
    data = copy.deepcopy(CAP)
    data[1] |= fields
    return data


@pytest.mark.parametrize(
    ("cap", "split", "message"),
    [
        (
            [{k: v for k, v in each.items() if "target" not in k} for each in CAP],
            SPLIT,
            "measure on cap.rc2.val.json",
        ),
        (changed(target_hard=None), SPLIT, "triple 2 has no target_hard of the right kind"),
        (
            changed(caption=3, pairid="x"),
            SPLIT,
            "triple 2 has no pairid and no caption of the right kind",
        ),
        (changed(img_set={"id": 3}), SPLIT, "img_set of triple 2 has no id with members"),
        ([3], SPLIT, "triple 1 has no pairid"),
        ([], SPLIT, "no list of triples"),
        ({"a": 1}, SPLIT, "no list of triples"),
        ("{", SPLIT, "not JSON"),
        (CAP, [], "no paths by name"),
        (CAP, {"a": 3}, "no paths by name"),
        (CAP, {**SPLIT, "x": "../x.png"}, r"the image \.\./x\.png leaves the folder"),
        (CAP, {**SPLIT, "x": "/x.png"}, r"the image /x\.png leaves the folder"),
    ],
)
def test_damage_is_told(cirr, cap, split, message):
    with pytest.raises(InputError, match=message):
        open_source(str(cirr(cap, split)))


def test_no_such_file_and_unknown_options_are_told(cirr, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "cap.rc2.test.json"))
    with pytest.raises(InputError, match="unknown option of source"):
        open_source(f"{cirr()}:root=x")
