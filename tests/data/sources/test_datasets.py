"""Hugging Face `datasets` as a source, on a tiny dataset that the library itself wrote."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image

from diptych.data.sample import BadSample
from diptych.data.sources import open_source
from diptych.data.sources.datasets import DatasetRows
from diptych.data.sources.table import Table
from diptych.errors import InputError

COUNT = 6


def image(number: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    )


def made(count: int = COUNT) -> datasets.Dataset:
    features = datasets.Features(
        {
            "pic": datasets.Image(),
            "caption": datasets.Value("string"),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "score": datasets.Value("float32"),
            "album": datasets.Sequence(datasets.Image()),
        }
    )
    rows = {
        "pic": [image(i) for i in range(count)],
        "caption": [f"caption {i}" for i in range(count)],
        "kind": [i % 2 if i else None for i in range(count)],
        "score": [i / 2 for i in range(count)],
        "album": [[image(9)]] * count,
    }
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    made().save_to_disk(root / "one")
    datasets.DatasetDict(train=made(), test=made(2)).save_to_disk(root / "splits")
    (root / "parquet").mkdir()
    for split, count in (("train", COUNT), ("test", 2)):
        made(count).to_parquet(root / "parquet" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    "path",
    [
        "one",
        "splits:split=train",
        "one/data-00000-of-00001.arrow",
        "parquet:split=train",
        "parquet/train-00000-of-00001.parquet",
    ],
)
def test_rows_are_those_that_the_library_gives(saved: Path, path: str):
    source = open_source(f"datasets:{saved / path}")
    assert len(source) == COUNT
    assert len(set(source.keys())) == COUNT
    for at, row in enumerate(made()):
        sample = source[at]
        assert sample.captions() == [row["caption"]]
        assert sample.labels["kind"] == (-1 if row["kind"] is None else row["kind"])
        assert sample.labels["score"] == row["score"]
        assert set(sample.images) == {"main"}
        assert np.array_equal(np.asarray(sample.images["main"].decode()), np.asarray(row["pic"]))
    assert source.schema()["labels.kind"].classes == ("cat", "dog")
    assert source.labels("kind").tolist() == [-1, 1, 0, 1, 0, 1]
    again = pickle.loads(pickle.dumps(source))
    assert again[3].captions() == ["caption 3"]
    assert again[3].images["main"].read() == source[3].images["main"].read()


def test_the_other_split(saved: Path):
    assert len(open_source(f"datasets:{saved / 'splits'}:split=test")) == 2
    joined = open_source(f"datasets:{saved / 'splits'}:split=test,datasets:{saved / 'one'}")
    assert len(joined) == 2 + COUNT
    assert joined[2].key == "1/0"


def test_images_come_undecoded_and_damaged_ones_are_told_by_our_decoder(tmp_path: Path):
    whole = image(0)
    whole.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    rows = {
        "image": [
            {"bytes": data[:60], "path": None},
            {"bytes": None, "path": str(tmp_path / "a.png")},
            {"bytes": b"<html>", "path": "x.jpg"},
            None,
        ]
    }
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    source = open_source(f"datasets:{tmp_path / 'd'}")
    assert np.array_equal(np.asarray(source[1].images["main"].decode()), np.asarray(whole))
    for at, reason in ((0, "truncated"), (2, "html")):
        with pytest.raises(BadSample, match=reason):
            source[at].images["main"].decode()
    assert source[3].images == {}


def test_images_named_by_path_with_several_captions_are_one_sample(tmp_path: Path):
    image(0).save(tmp_path / "a.png")
    rows = {"image": [str(tmp_path / "a.png")] * 2, "text": ["one", "two"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    source = Table(
        "datasets:d", DatasetRows("datasets:d", dataset)
    )  # save_to_disk would put the bytes in
    assert len(source) == 1
    assert source[0].captions() == ["one", "two"]
    assert source[0].images["main"].read() == (tmp_path / "a.png").read_bytes()


def test_columns_can_be_chosen(saved: Path):
    source = open_source(f"datasets:{saved / 'one'}:image=pic:text=caption:label=kind:key=score")
    assert source.keys()[:2] == ["0.0", "0.5"]
    with pytest.raises(InputError, match="unknown column of .* 'captoin'; did you mean 'caption'"):
        open_source(f"datasets:{saved / 'one'}:text=captoin")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("splits", "it has the splits train, test; choose one"),
        ("splits:split=tran", "did you mean 'train'"),
        ("one:split=train", "it is one split; leave out :split=train"),
        ("one:spilt=train", "did you mean 'split'"),
        ("nothing/here", "no such file or folder"),
        ("one/state.json", "files are .arrow or .parquet"),
        ("broken.arrow", "datasets cannot read it"),
    ],
)
def test_what_is_not_there_is_one_line(saved: Path, path: str, words: str):
    (saved / "broken.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(InputError) as caught:
        open_source(f"datasets:{saved / path}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_is_looked_up_on_the_hub(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(name: str) -> datasets.DatasetDict:
        asked.append(name)
        if name == "someone/pairs":
            return datasets.DatasetDict(train=made())
        if name == "someone/nothing":
            return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": []}))
        raise ConnectionError("Couldn't reach the Hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(open_source("datasets:someone/pairs")) == COUNT
    with pytest.raises(InputError, match="the dataset has no rows"):
        open_source("datasets:someone/nothing")
    with pytest.raises(
        InputError,
        match=r"the hub gives no such dataset \(Couldn't reach the Hub at all\); fetch it",
    ):
        open_source("datasets:nobody/nothing")
    assert asked == ["someone/pairs", "someone/nothing", "nobody/nothing"]


def test_bars_and_reports_of_the_library_come_back(saved: Path, capfd: pytest.CaptureFixture):
    before = datasets.are_progress_bars_disabled()
    open_source(f"datasets:{saved / 'parquet'}:split=test")
    assert datasets.are_progress_bars_disabled() == before
    assert capfd.readouterr().err == ""


def test_a_row_that_does_not_read_is_counted_and_the_others_stay(tmp_path):
    times = pyarrow.array(
        [2**62, 0, 5], pyarrow.timestamp("us")
    )  # the first is beyond any calendar
    table = pyarrow.table({"text": ["a", "b", "c"], "when": times})
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    source = open_source(f"datasets:{tmp_path / 'saved'}")
    assert list(source.damage.values()) == ["columns"]
    assert [sample.captions() for sample in source] == [["b"], ["c"]]
