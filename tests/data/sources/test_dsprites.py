"""dSprites' .npz file, in its published form."""

import pickle
import zipfile

import numpy as np
import pytest

from diptych.data.sample import BadSample, Source
from diptych.data.sources import dsprites, open_source
from diptych.errors import InputError


@pytest.fixture
def sprites(tmp_path):
    """`sprites(**replaced)` writes nine images with a pickled metadata object, as published."""

    def write(**replaced):
        rng = np.random.default_rng(0)
        classes = np.zeros((9, 6), np.int64)
        classes[:, 1] = np.arange(9) % 3
        values = rng.random((9, 6))
        values[:, 1] = classes[:, 1] + 1
        arrays = {
            "metadata": np.array({"author": "someone"}, dtype=object),
            "imgs": rng.integers(0, 2, (9, 64, 64), dtype=np.uint8),
            "latents_classes": classes,
            "latents_values": values,
        }
        arrays |= replaced
        path = tmp_path / "dsprites.npz"
        np.savez_compressed(path, allow_pickle=True, **arrays)
        dsprites._bits.cache_clear()
        return str(path), arrays

    return write


def test_each_image_is_a_sample_with_its_factors(sprites, monkeypatch):
    monkeypatch.setattr(dsprites, "_AT_ONCE", 4 * 64 * 64)  # in parts of four images
    path, arrays = sprites()
    source = open_source(path)
    assert isinstance(source, Source)
    assert len(source) == 9
    assert source.schema()["labels.shape"].classes == dsprites.SHAPES
    for at, sample in enumerate(source):
        pixels = np.asarray(sample.images["main"].decode())
        assert (pixels == 255 * arrays["imgs"][at][..., None]).all()
        _, shape, scale, orientation, x, y = arrays["latents_values"][at]
        numbers = {"scale": scale, "orientation": orientation, "x": x, "y": y}
        assert sample.labels == {"shape": shape - 1, **numbers}
    assert source[0].images["main"].read().startswith(b"\x89PNG")
    assert source.labels("x").tolist() == arrays["latents_values"][:, 4].tolist()
    assert pickle.loads(pickle.dumps(source))[3].key == "3"


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"imgs": np.zeros((9, 64, 64), np.float32)}, "float32 of shape"),
        ({"imgs": np.zeros((9, 64, 61), np.uint8)}, "not bytes"),
        ({"latents_values": np.zeros((8, 6))}, r"not \(9, 6\)"),
        ({"latents_classes": np.full((9, 6), 3)}, "numbered other than 0 to 2"),
        ({"latents_values": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_other_contents_are_refused(sprites, replaced, message):
    path, _ = sprites(**replaced)
    with pytest.raises(InputError, match=message):
        open_source(path)


def test_a_file_that_is_damaged_later_is_told_with_the_sample(sprites, tmp_path):
    path, _ = sprites()
    source = open_source(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("imgs.npy").header_offset
    data = bytearray((tmp_path / "dsprites.npz").read_bytes())
    data[offset + 400 : offset + 500] = b"\x00" * 100
    (tmp_path / "dsprites.npz").write_bytes(data)
    with pytest.raises(BadSample, match="unreadable"):
        source[0].images["main"].decode()
    (tmp_path / "dsprites.npz").unlink()
    with pytest.raises(BadSample, match="missing"):
        source[0].images["main"].decode()
