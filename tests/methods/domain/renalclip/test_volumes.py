"""Views of volumes: random crops, affine changes, intensities, and one phase for all."""

import numpy as np
import pytest
import torch

from diptych.data.sample import BadSample, Sample
from diptych.data.volumes import ArrayVolume, VolumePreprocess
from diptych.methods.domain.renalclip.volumes import VolumeAugment, VolumeView, drawn_phase
from diptych.rng import generator

STILL = VolumeAugment(turn=0, shift=0, scale=0, intensity=0, gamma=1)


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
