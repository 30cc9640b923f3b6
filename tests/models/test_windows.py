"""Windows that slide over an image: they cover it, and their scores are averaged."""

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.data.images import FileImage
from diptych.models.windows import by_windows, starts


def test_windows_cover_a_length():
    assert starts(32, 32, 16) == [0]
    for step in (1, 16, 21, 32):
        for length in range(32, 130):
            places = starts(length, 32, step)
            assert places[-1] + 32 == length
            assert max(np.diff([*places, places[-1]])) <= step
            assert all(place >= 0 for place in places)


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (48, 32), (9, 0, 0)).save(tmp_path / "a.png")
    return FileImage(str(tmp_path / "a.png"))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_of_windows_are_averaged(image, batch_size):
    """Windows of 32 of 48 pixels; class 0 has the scores 1 and 3 in them, class 1 always 1.5."""
    given = iter([1.0, 3.0])

    def scores(windows):
        assert (windows[:, 0] == 9).all()
        first = torch.tensor([next(given) for _ in windows])
        return torch.stack([first, torch.full_like(first, 1.5)], 1)[..., None, None].expand(
            -1, -1, 32, 32
        )

    how = {"side": 32, "step": 16, "ground": (0, 0, 0), "batch_size": batch_size}
    found = by_windows(image, scores, 2, **how)
    assert found.tolist() == [[1] * 16 + [0] * 32] * 32


def test_a_narrow_image_is_filled_up(tmp_path):
    Image.new("RGB", (500, 5)).save(tmp_path / "a.png")
    seen = []

    def scores(windows):
        seen.append(windows.shape)
        return torch.ones(len(windows), 1, 32, 32)

    how = {"side": 32, "step": 32, "ground": (0, 0, 0), "batch_size": 9}
    found = by_windows(FileImage(str(tmp_path / "a.png")), scores, 1, **how)
    assert found.shape == (5, 500)
    assert seen == [(4, 3, 32, 32)]
