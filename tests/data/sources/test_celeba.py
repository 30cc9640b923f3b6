"""CelebA's lists, in their published form."""

import pickle

import pytest
from PIL import Image

from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source
from diptych.errors import InputError

ATTRIBUTES = """4
5_o_Clock_Shadow Eyeglasses Wearing_Hat Young
000001.jpg -1  1  1 -1
000002.jpg -1 -1  1 -1
000003.jpg  1 -1 -1  1
000004.jpg -1  1 -1  1
"""
PARTS = "000001.jpg 0\n000002.jpg 0\n000003.jpg 1\n000004.jpg 2\n"


@pytest.fixture(params=["", "original"])
def celeba(tmp_path, request):
    """The lists beside the images, or in the folders of the publication."""
    anno, parts, images = (
        ("Anno", "Eval", "Img/img_align_celeba") if request.param else ("", "", "img_align_celeba")
    )
    for folder in (anno, parts, images):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / anno / "list_attr_celeba.txt").write_text(ATTRIBUTES)
    (tmp_path / parts / "list_eval_partition.txt").write_text(PARTS)
    for number in range(1, 4):  # the fourth is missing
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / images / f"{number:06d}.jpg")
    return tmp_path


def test_each_attribute_is_a_label(celeba):
    source = open_source(f"{celeba}/")
    assert isinstance(source, Source)
    assert list(source.keys()) == [f"{number:06d}.jpg" for number in range(1, 5)]
    assert source[0].labels == {
        "5_o_Clock_Shadow": 0,
        "Eyeglasses": 1,
        "Wearing_Hat": 1,
        "Young": 0,
    }
    assert source.labels("Young").tolist() == [0, 0, 1, 1]
    assert source.schema()["labels.Young"].classes[:2] == ("absent", "present")
    assert "labels.class" not in source.schema()
    assert source[1].images["main"].decode().size == (8, 8)
    with pytest.raises(BadSample, match="missing"):
        source[3].images["main"].decode()
    assert pickle.loads(pickle.dumps(source))[2].labels == source[2].labels


def test_chosen_attributes_have_a_class_and_splits_are_those_of_the_list(celeba):
    source = open_source(f"{celeba}:attributes=Eyeglasses+Wearing_Hat")
    classes = source.schema()["labels.class"].classes
    assert [classes[value] for value in source.labels("class")] == [
        "Eyeglasses|Wearing_Hat",
        "Wearing_Hat",
        "neither",
        "Eyeglasses",
    ]
    assert [
        len(open_source(f"{celeba}:split={name}")) for name in ("train", "val", "train+val")
    ] == [
        2,
        1,
        3,
    ]


def _edit(root, name, old, new):
    path = next(root.rglob(name))
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (("list_attr_celeba.txt", "4\n", "5\n"), "", "announces 5 images with 4 attributes"),
        (("list_attr_celeba.txt", "1 -1\n0", "1\n0"), "", "is no list of attributes"),
        (("list_attr_celeba.txt", "-1  1  1 -1", "-1  2  1 -1"), "", "of -1 or 1"),
        (("list_attr_celeba.txt", "000002", "../../2"), "", "outside of the folder"),
        (("list_eval_partition.txt", " 2\n", "\n"), ":split=test", "is no list of splits"),
        (("list_eval_partition.txt", " 2\n", " 1\n"), ":split=test", "no image is of the split"),
        (None, ":split=tset", "did you mean 'test'"),
        (None, ":attributes=Eyeglases", "did you mean 'Eyeglasses'"),
        (None, ":images=elsewhere", "its first image, 000001.jpg, is not in elsewhere"),
    ],
)
def test_damage_is_told_in_a_line(celeba, edit, options, message):
    if edit:
        _edit(celeba, *edit)
    with pytest.raises(InputError, match=message):
        open_source(f"{celeba}{options}")


def test_splits_need_their_list(celeba):
    next(celeba.rglob("list_eval_partition.txt")).unlink()
    assert len(open_source(str(celeba))) == 4
    with pytest.raises(InputError, match="leave out split="):
        open_source(f"{celeba}:split=train")
