"""MedMNIST's .npz files, in their published form."""

import pickle

import numpy as np
import pytest

from diptych.data.sample import BadSample, Source
from diptych.data.sources import open_source
from diptych.errors import InputError


@pytest.fixture
def medmnist(tmp_path):
    """`medmnist(name, channels, findings)` writes three splits of random images."""

    def write(name="bloodmnist.npz", channels=3, findings=1, size=28, **replaced):
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", 6), ("val", 2), ("test", 4)):
            shape = (count, size, size) if channels == 1 else (count, size, size, channels)
            arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
            labels = np.arange(count * findings).reshape(count, findings) % (
                8 if findings == 1 else 2
            )
            arrays[f"{split}_labels"] = labels.astype(np.uint8)
        np.savez_compressed(tmp_path / name, **{**arrays, **replaced})
        return str(tmp_path / name), arrays

    return write


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_of_a_split_is_a_sample(medmnist, channels):
    path, arrays = medmnist(channels=channels)
    source = open_source(f"{path}:split=test")
    assert isinstance(source, Source)
    assert list(source.keys()) == ["0", "1", "2", "3"]
    assert source.schema()["labels.class"].classes[0] == "basophil"
    assert source.labels("class").tolist() == [0, 1, 2, 3]
    for at, sample in enumerate(source):
        pixels = np.asarray(sample.images["main"].decode())
        expected = arrays["test_images"][at]
        assert (pixels == (expected[..., None] if channels == 1 else expected)).all()
        assert sample.images["main"].read().startswith(b"\x89PNG")
    assert len(open_source(path)) == 6
    assert pickle.loads(pickle.dumps(source))[3].labels == {"class": 3}


def test_findings_are_labels_and_their_combination_is_the_class(medmnist):
    path, _ = medmnist(
        "chestmnist_64.npz", channels=1, findings=14, train_labels=np.eye(6, 14, 1, int)
    )
    source = open_source(path)
    assert source[0].labels["cardiomegaly"] == 1
    assert source[0].labels["atelectasis"] == 0
    classes = source.schema()["labels.class"].classes
    assert [classes[value] for value in source.labels("class")][:2] == ["cardiomegaly", "effusion"]
    path, _ = medmnist(
        "chestmnist.npz", channels=1, findings=14, train_labels=np.zeros((6, 14), int)
    )
    assert open_source(path).schema()["labels.class"].classes == ("no finding",)


def test_other_files_are_refused(medmnist, tmp_path):
    path, _ = medmnist(train_images=np.zeros((6, 28, 28, 28), np.uint8))
    with pytest.raises(InputError, match="volumes are not read"):
        open_source(path)
    path, _ = medmnist(train_labels=np.zeros((5, 1), np.uint8))
    with pytest.raises(InputError, match=r"shape \(5, 1\) for 6 images"):
        open_source(path)
    path, _ = medmnist("pneumoniamnist.npz")
    with pytest.raises(InputError, match="class 5, where 2 are published"):
        open_source(path)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match="no MedMNIST file of train_images"):
        open_source(str(tmp_path / "cut.npz"))
    with pytest.raises(InputError, match="no such file"):
        open_source(str(tmp_path / "gone.npz"))


def test_a_file_that_is_gone_is_a_damaged_sample(medmnist, tmp_path):
    path, _ = medmnist("octmnist.npz", train_labels=np.zeros((6, 1), np.uint8))
    source = open_source(path)
    (tmp_path / "octmnist.npz").unlink()
    with pytest.raises(BadSample, match="missing"):
        source[0].images["main"].decode()
