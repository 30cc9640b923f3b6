"""Data of a Python program as a source: lists, torch Datasets, pandas and `datasets` tables."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from diptych.data.sample import BadSample, Sample, labels_of
from diptych.data.sources import open_source
from diptych.errors import InputError

GREY = np.full((5, 7, 3), 90, np.uint8)


class Set(torch.utils.data.Dataset):
    """Some items as a torch Dataset."""

    classes = ("cat", "dog")

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_list_of_pairs_takes_images_of_every_form(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(GREY).save(path)
    tensor = torch.from_numpy(GREY).permute(2, 0, 1)
    images = [path, str(path), path.read_bytes(), Image.fromarray(GREY), GREY, tensor]
    source = open_source([(image, f"grey {at}") for at, image in enumerate(images)])
    assert list(source.keys()) == ["0", "1", "2", "3", "4", "5"]
    assert {name: field.kind for name, field in source.schema().items()} == {
        "images.main": "image",
        "texts.caption": "text",
    }
    for at, sample in enumerate(pickle.loads(pickle.dumps(source))[i] for i in range(6)):
        assert np.array_equal(np.asarray(sample.images["main"].decode()), GREY)
        assert sample.images["main"].read()
        assert sample.captions() == [f"grey {at}"]


def test_a_dataset_gives_captions_or_classes():
    source = open_source(Set((GREY, ["a", "b"]), (GREY, "c")))
    assert [source[at].captions() for at in range(2)] == [["a", "b"], ["c"]]
    source = open_source(Set((GREY, 1), (GREY, torch.tensor(0)), (GREY, np.int64(1))))
    assert source.schema()["labels.class"].classes == ("cat", "dog")
    assert labels_of(source, "class").tolist() == [1, 0, 1]


def test_targets_of_torchvision_spare_the_images():
    items = Set((GREY, 1), None)
    items.targets = [1, 0]
    assert labels_of(open_source(items), "class").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"image": GREY, "text": "a"}, ("is a dict", "give (image, text)")),
        ((GREY, "a", 1), ("is a tuple of 3",)),
        ("a.png", ("is a str",)),
        ((GREY, None), ("has a NoneType beside its image",)),
        ((GREY, [1, 2]), ("has a list of 2 beside its image",)),
        (
            (torch.rand(3, 4, 4), "a"),
            ("tensor (3, 4, 4) of torch.float32", "without the transform"),
        ),
        ((GREY / 255, "a"), ("array (5, 7, 3) of float64", "uint8")),
        ((GREY[None], "a"), ("array (1, 5, 7, 3)",)),
        ((7, "a"), ("a int is no image", "a PIL image")),
    ],
)
def test_a_dataset_that_returns_the_wrong_thing_is_refused_or_counted(item, words):
    with pytest.raises(InputError) as caught:
        open_source(Set(item))
    for word in ("item 0 of Set of 1 pairs", *words):
        assert word in str(caught.value)
    later = open_source(Set((GREY, "a"), item))
    with pytest.raises(BadSample, match="wrong-type: item 1 of Set"):
        later[1]


def test_captions_among_classes_count_as_damage():
    with pytest.raises(BadSample, match="unlike the first one"):
        open_source(Set((GREY, "a"), (GREY, 1)))[1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], ("list of 0 pairs", "empty")),
        (iter([]), ("list_iterator is no data", "a list of (image, text)")),
        ({"a": [(GREY, "a")]}, ("dict holds several data sets (a)",)),
        (pandas.DataFrame({"image": []}), ("pandas table of 0 rows", "empty")),
        (pandas.DataFrame({"a": [1]}), ("no column of images or texts", "rename them to image")),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), ("two columns have one name",)),
        ([Sample(key="a", source="mine")], ("list of Samples has no name and no keys and",)),
        ("python:list of 2 pairs", ("given by a Python program", "from Python")),
    ],
)
def test_what_is_no_data_is_refused_with_the_remedy(data, words):
    with pytest.raises(InputError) as caught:
        open_source(data)
    for word in words:
        assert word in str(caught.value)


def test_a_pandas_table_is_read_like_a_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GREY).save("grey.png")
    frame = pandas.DataFrame(
        {
            "image": [Path("grey.png"), "grey.png", Image.fromarray(GREY), GREY, None],
            "caption": ["a", "b", "c", None, "e"],
            "class": ["cat", "dog", "cat", "cat", None],
            "price": [1.5, 2, 3, 4, np.nan],
        }
    )
    source = open_source(frame)
    assert len(source) == 4  # one image has two captions
    assert [source[at].captions() for at in range(4)] == [["a", "b"], ["c"], [], ["e"]]
    assert source.schema()["labels.class"].classes == ("cat", "dog")
    assert source[0].labels == {"class": 0, "price": 1.5}
    assert [bool(source[at].images) for at in range(4)] == [True, True, True, False]
    assert np.array_equal(np.asarray(source[2].images["main"].decode()), GREY)


def test_a_datasets_table_is_read_as_the_folder_that_it_saves(tmp_path):
    table = datasets.Dataset.from_dict({"image": [Image.fromarray(GREY)] * 2, "text": ["a", "b"]})
    table.save_to_disk(tmp_path / "saved")
    given = open_source(table)
    saved = open_source(f"datasets:{tmp_path / 'saved'}")
    assert [given[at].captions() for at in range(2)] == [["a"], ["b"]]
    assert given.schema() == saved.schema()
    assert given[1].images["main"].read() == saved[1].images["main"].read()
    with pytest.raises(InputError, match="holds several data sets"):
        open_source(datasets.DatasetDict({"train": table}))


def test_a_source_stays_as_it_is_and_paths_are_specs(tmp_path):
    (tmp_path / "a.txt").write_text("a text\n")
    source = open_source(tmp_path / "a.txt")
    assert source[0].captions() == ["a text"]
    assert open_source(source) is source
