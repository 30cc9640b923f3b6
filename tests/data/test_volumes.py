"""The preprocessing of volumes, and the model that reads them."""

import numpy as np
import pytest
import torch
from tests.data.nifti import nifti

from diptych.data.sample import Sample
from diptych.data.views import ImageView
from diptych.data.volumes import ArrayVolume, VolumePreprocess, preprocess_from
from diptych.errors import InputError
from diptych.models.model import Model
from diptych.towers.build import image_tower
from diptych.towers.dual import DualEncoder


def test_the_window_is_that_of_the_published_code():
    """Level 50, width 500: -200 is 0, 50 a half, 300 is 1, and clamped outside."""
    prepare = VolumePreprocess(size=5, slices=1)
    row = np.array([-1000.0, -200.0, 50.0, 300.0, 2000.0])
    found = prepare(np.broadcast_to(row, (1, 5, 5)))
    assert found[0, 0, 2].tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_a_volume_is_scaled_linearly_and_its_centre_cropped():
    """By loops: positions of voxel centres, values linear between them."""
    prepare = VolumePreprocess(size=2, slices=2, scaled=(4, 4), window=(0, 1))
    volume = np.random.default_rng(0).random((2, 8, 3))
    found = prepare(volume)

    def at(n: int, m: int, i: int) -> tuple[int, int, float]:
        place = max((i + 0.5) * n / m - 0.5, 0)
        low = int(place)
        return low, min(low + 1, n - 1), place - low

    for d in range(2):
        for h in range(2):
            for w in range(2):
                value = 0.0
                z, y, x = at(2, 4, d + 1), at(8, 4, h + 1), at(3, 4, w + 1)
                for k, kw in ((z[0], 1 - z[2]), (z[1], z[2])):
                    for j, jw in ((y[0], 1 - y[2]), (y[1], y[2])):
                        for i, iw in ((x[0], 1 - x[2]), (x[1], x[2])):
                            value += kw * jw * iw * volume[k, j, i]
                assert float(found[0, d, h, w]) == pytest.approx(value, abs=1e-6)


def test_plain_values_build_the_same_preprocessing():
    prepare = VolumePreprocess(size=4, slices=2, scaled=(3, 6), window=(-100, 200))
    assert preprocess_from(prepare.to_dict()) == prepare
    with pytest.raises(InputError, match="cannot be cropped"):
        VolumePreprocess(size=4, slices=2, scaled=(2, 3))
    with pytest.raises(InputError, match="window"):
        VolumePreprocess(size=4, slices=2, window=(1, 1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tower = image_tower("resnet3d:image_size=16:slices=8:widths=(4,8):depths=(1,1):stem=3")
    encoder = DualEncoder(tower, None, 6)
    return Model(encoder, None, tower.preprocess, name="volumes")


def test_a_model_of_volumes_reads_files_arrays_and_prepared_tensors(model, tmp_path):
    volumes = [np.random.default_rng(s).integers(-200, 300, (9, 20, 20)) for s in range(2)]
    (tmp_path / "a.nii.gz").write_bytes(
        nifti(volumes[0].transpose(2, 1, 0).astype(np.int16), packed=True)
    )
    np.save(tmp_path / "b.npy", volumes[1])
    expected = model.embed_images(torch.stack([model.preprocess(each) for each in volumes]))
    assert expected.shape == (2, 6)
    torch.testing.assert_close(model.embed_images(volumes), expected)
    torch.testing.assert_close(model.embed_images(volumes[0]), expected[:1])
    files = [tmp_path / "a.nii.gz", str(tmp_path / "b.npy")]
    torch.testing.assert_close(model.embed_images(files), expected)


def test_what_is_no_volume_is_refused_in_one_line(model, tmp_path):
    with pytest.raises(InputError, match=r"axes.*four|axes.*\(2, 3\)"):
        model.embed_images([np.zeros((2, 3))])
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"a.png cannot be embedded .* give .npy, .nii or .nii.gz"):
        model.embed_images([tmp_path / "a.png"])
    with pytest.raises(InputError, match=r"float \(N, 1, 8, 16, 16\)"):
        model.embed_images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="give a path, an array"):
        model.embed_images([3])


def test_methods_on_pairs_read_volumes_as_they_are(model):
    volume = np.random.default_rng(3).integers(-200, 300, (9, 20, 20))
    sample = Sample(key="a", source="", images={"main": ArrayVolume(volume)})
    view = ImageView(preprocess=model.preprocess, augment=None, count=2)
    found = view(sample, np.random.default_rng(0), 0.5)["images.main"]
    assert found.shape == (2, 1, 8, 16, 16)
    torch.testing.assert_close(found[1], model.preprocess(volume))
    with pytest.raises(InputError, match="--method.augment null"):
        ImageView(preprocess=model.preprocess)
