"""The preprocessing of volumes, their views, and the model that reads them."""

import numpy as np
import pytest
import torch
from tests.data.nifti import nifti

from diptych.data.sample import BadSample, Sample
from diptych.data.views.volumes import VolumeAugment, VolumeView, drawn_phase
from diptych.data.volumes import ArrayVolume, VolumePreprocess, preprocess_from
from diptych.errors import InputError
from diptych.models.model import Model
from diptych.rng import generator
from diptych.towers.build import image_tower
from diptych.towers.dual import DualEncoder

STILL = VolumeAugment(turn=0, shift=0, scale=0, intensity=0, gamma=1)


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


def sample(**volumes) -> Sample:
    images = {name: ArrayVolume(np.asarray(value)) for name, value in volumes.items()}
    return Sample(key="a", source="", images=images)


def test_training_crops_vary_and_evaluation_takes_the_centre():
    volume = np.random.default_rng(0).random((4, 6, 6)).astype(np.float32)
    prepare = VolumePreprocess(size=4, slices=2, scaled=(4, 6), window=(0, 1))
    view = VolumeView(preprocess=prepare, augment=STILL)
    seen = set()
    for seed in range(40):
        found = view(sample(main=volume), generator(seed, "view"), 0.5)["images.main"]
        assert found.shape == (1, 1, 2, 4, 4)
        places = [
            (top, row, column)
            for top in range(3)
            for row in range(3)
            for column in range(3)
            if np.allclose(found[0, 0], volume[top : top + 2, row : row + 4, column : column + 4])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 15
    still = view(sample(main=volume), generator(0, "view"), None)["images.main"]
    torch.testing.assert_close(still[0], prepare(volume))


def test_slices_turn_together_by_at_most_the_angle():
    """A bar that runs through all slices stays the same in all of them, and a mirrored one is on
    the other side."""
    volume = torch.zeros(1, 3, 21, 21)
    volume[:, :, 10, 14:18] = 1
    turn = VolumeAugment(turn=10, shift=0, scale=0, intensity=0, gamma=1)
    for seed in range(5):
        found = turn(volume, np.random.default_rng(seed))[0]
        assert torch.equal(found[0], found[1])
        rows, columns = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="ij")
        mass = found[0] / found[0].sum()
        angle = torch.atan2((mass * rows).sum() - 10, (mass * columns).sum() - 10)
        assert abs(float(angle.rad2deg())) < 10.5
    flipped = VolumeAugment(turn=0, shift=0, scale=0, intensity=0, gamma=1, flip=True)
    sides = {bool(flipped(volume, np.random.default_rng(s))[0, 0, :, :10].any()) for s in range(8)}
    assert sides == {True, False}


def test_intensities_stay_in_range_and_half_have_no_gamma():
    x = torch.full((1, 1, 2, 2), 0.5)
    gamma = VolumeAugment(turn=0, shift=0, scale=0, intensity=0, gamma=2)
    values = [float(gamma(x, np.random.default_rng(s))[0, 0, 0, 0]) for s in range(300)]
    assert 0.25 <= min(values) < 0.3
    assert 0.65 < max(values) <= 0.5**0.5
    assert 0.4 < sum(value == 0.5 for value in values) / 300 < 0.6
    bright = VolumeAugment(turn=0, shift=0, scale=0, intensity=0.1, gamma=1)
    values = [float(bright(x, np.random.default_rng(s))[0, 0, 0, 0]) for s in range(100)]
    assert 0.34 < min(values) < 0.41
    assert 0.59 < max(values) < 0.66


def test_one_phase_is_drawn_among_those_that_all_have():
    one = sample(main=np.zeros((1, 1, 1)), A=np.zeros((1, 1, 1)), V=np.zeros((1, 1, 1)))
    two = sample(main=np.zeros((1, 1, 1)), N=np.zeros((1, 1, 1)), V=np.zeros((1, 1, 1)))
    rng = np.random.default_rng(0)
    assert {drawn_phase([one, two], ("N", "A", "V"), rng) for _ in range(20)} == {"V"}
    assert {drawn_phase([one], ("N", "A", "V"), rng) for _ in range(20)} == {"A", "V"}
    assert drawn_phase([one, two], ("D",), rng) is None
    view = VolumeView(preprocess=VolumePreprocess(size=1, slices=1), role="D")
    with pytest.raises(BadSample, match="no volume 'D'"):
        view(one, rng, 0.0)


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
