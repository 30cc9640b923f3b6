"""CoOp's splits, on a fixture of their true form."""

import copy
import json

import pytest
from PIL import Image

from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.errors import InputError

PETS = {
    "train": [
        ["Abyssinian_100.jpg", 0, "abyssinian"],
        ["american_bulldog_26.jpg", 1, "american_bulldog"],
        ["beagle_55.jpg", 4, "beagle"],
        ["american_bulldog_7.jpg", 1, "american_bulldog"],
    ],
    "val": [["Abyssinian_3.jpg", 0, "abyssinian"]],
    "test": [["beagle_1.jpg", 4, "beagle"], ["Abyssinian_9.jpg", 0, "abyssinian"]],
}


@pytest.fixture
def pets(tmp_path):
    """`pets(data, folder)` writes the file, and its images into the folder."""

    def write(data=PETS, folder="images"):
        for name in (entry[0] for entries in PETS.values() for entry in entries):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(tmp_path / folder / name)
        path = tmp_path / "split_zhou_OxfordPets.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


def test_splits_give_images_and_named_classes(pets):
    source = open_source(f"{pets()}:split=train")
    assert isinstance(source, Source)
    assert (
        list(source.keys())
        == [sample.key for sample in source]
        == [name for name, _, _ in PETS["train"]]
    )
    assert source.schema()["labels.class"].classes == ("abyssinian", "american_bulldog", "beagle")
    assert (
        source.labels("class").tolist()
        == [sample.labels["class"] for sample in source]
        == [0, 1, 2, 1]
    )
    assert source[-1].images["main"].decode().size == (4, 4)


def test_a_class_has_one_number_in_every_split_and_splits_join(pets):
    path = pets()
    test = open_source(f"{path}:split=test")
    assert test.labels("class").tolist() == [2, 0]
    assert test.schema() == open_source(f"{path}:split=train").schema()
    assert len(open_source(f"{path}:split=train+val")) == 5
    assert list(
        open_source(f"{path}:split=train:classes=american_bulldog:shots=1").labels("class")
    ) == [0]


@pytest.mark.parametrize("folder", ["images", ".", "photos/jpg"])
def test_the_root_is_beside_the_file_or_named(pets, tmp_path, folder):
    path = pets(folder=folder)
    root = f":root={tmp_path / folder}/" if folder == "photos/jpg" else ""
    assert open_source(f"{path}:split=val{root}")[0].images["main"].decode().size == (4, 4)


def changed(split, at, entry):
    data = copy.deepcopy(PETS)
    data[split][at : at + 1] = [entry]
    return data


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (PETS, "", r"holds the splits train, val, test; choose one, such as :split=train"),
        (PETS, ":split=tset", r"unknown split of .*Pets\.json 'tset'; did you mean 'test'"),
        (
            PETS,
            ":split=test:root=/nowhere",
            r"its first image, beagle_1\.jpg, is not in /nowhere; name the folder",
        ),
        (PETS, ":split=test:images=x", r"unknown option of source .* 'images'"),
        ({**PETS, "val": []}, ":split=val", r"split val is empty; choose from train, test"),
        (
            changed("test", 0, ["beagle_1.jpg", 4, "bagle"]),
            ":split=val",
            r"label 4 has two names, 'beagle' and",
        ),
        (
            changed("test", 0, ["beagle_1.jpg", 5, "beagle"]),
            ":split=val",
            r"class 'beagle' has two labels, 4 and 5",
        ),
        (
            changed("val", 0, ["../a.jpg", 0, "abyssinian"]),
            ":split=val",
            r"entry 1 of val, \.\./a\.jpg, leaves the",
        ),
        (
            changed("val", 0, ["a/../../b.jpg", 0, "abyssinian"]),
            ":split=val",
            r"leaves the root; write paths below it",
        ),
        (changed("val", 0, ["/etc/a.jpg", 0, "abyssinian"]), ":split=train", r"leaves the root"),
        (
            changed("val", 0, ["a.jpg", "0", "abyssinian"]),
            ":split=val",
            r"entry 1 of val is \['a\.jpg', '0', .*, not",
        ),
        (
            changed("val", 0, ["a.jpg", True, "abyssinian"]),
            ":split=val",
            r"not \[path, label, class name\]",
        ),
        (
            changed("val", 0, ["a.jpg", -1, "abyssinian"]),
            ":split=val",
            r"not \[path, label, class name\]",
        ),
        (
            changed("val", 0, ["Abyssinian_100.jpg", 0, "abyssinian"]),
            ":split=train+val",
            r"_100\.jpg is listed twice",
        ),
        ("[]", ":split=val", r"no lists by split"),
        ("{}", ":split=val", r"no lists by split"),
        ('{"train": 1}', ":split=train", r"no lists by split"),
        ("{", ":split=val", r"not JSON"),
    ],
)
def test_what_is_no_such_file_is_told(pets, data, options, message):
    with pytest.raises(InputError, match=message):
        open_source(f"{pets(data)}{options}")


def test_names_that_only_begin_with_dots_stay(pets):
    data = changed("val", 0, ["..odd/Abyssinian_3.jpg", 0, "abyssinian"])
    assert len(open_source(f"{pets(data)}:split=train")) == 4


def test_a_file_of_that_form_under_another_name_is_pointed_to_it(pets, tmp_path):
    path = pets().rename(tmp_path / "pets.json")
    with pytest.raises(InputError, match=r"call CoOp's splits split_zhou_NAME\.json"):
        open_source(f"{path}:split=train")
    with pytest.raises(InputError, match="no such file"):
        open_source(f"{tmp_path}/split_zhou_none.json")
