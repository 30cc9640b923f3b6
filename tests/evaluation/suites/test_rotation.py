"""Rotation: what stays where both modalities turn alike, and what does not."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row
from torch.nn.functional import normalize

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.rotation import nearest_rotation, report, self_angle_change
from diptych.metrics import lab


def vectors(count=40, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(2, count, width, generator=generator, dtype=torch.float64), dim=-1)


def turn(width=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def test_nothing_moves_nothing():
    x, y = vectors()
    found = report(x, y, x, y)
    for name, value in found.items():
        expected = {
            "fit_image": 1.0,
            "fit_text": 1.0,
            "pair_angle": None,
            "pair_angle_before": None,
        }.get(name, 0.0)
        assert expected is None or value == pytest.approx(expected, abs=1e-5), name


def test_a_common_rotation_keeps_shape_and_matches():
    x, y = vectors()
    r = turn()
    found = report(x, y, x @ r, y @ r)
    assert found["rotation_image"] > 30
    assert found["rotation_text"] > 30
    for name in ("self_angle_image", "self_angle_text", "pair_angle_change", "deviation"):
        assert found[name] == pytest.approx(0, abs=1e-4), name
    assert found["fit_image"] == pytest.approx(1)


def test_modalities_that_turn_apart_deviate_and_their_matches_move():
    x, y = vectors()
    found = report(x, y, x @ turn(seed=1), y @ turn(seed=2))
    assert found["self_angle_image"] == pytest.approx(0, abs=1e-4)
    assert found["deviation"] > 45
    assert found["pair_angle_change"] > 10


def test_a_known_angle_is_told_in_degrees():
    angle = np.deg2rad(25.0)
    r = torch.tensor(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=torch.float64
    )
    x, y = vectors(width=2)
    found = report(x, y, x @ r, y)
    assert found["rotation_image"] == pytest.approx(25)
    assert found["rotation_text"] == pytest.approx(0, abs=1e-5)
    assert found["deviation"] == pytest.approx(25)


def test_the_map_is_scipys():
    with lab("this test"):
        from scipy.linalg import orthogonal_procrustes
    old, new = vectors()
    expected, _ = orthogonal_procrustes(old.numpy(), new.numpy())
    np.testing.assert_allclose(nearest_rotation(old, new).numpy(), expected, atol=1e-10)


def test_the_change_of_shape_is_that_of_loops(monkeypatch):
    old, new = vectors(count=11)
    angle = lambda a, b: float(torch.rad2deg(torch.arccos((a @ b).clamp(-1, 1))))  # noqa: E731
    changes = [
        abs(angle(old[i], old[j]) - angle(new[i], new[j])) for i in range(11) for j in range(i)
    ]
    monkeypatch.setattr("diptych.evaluation.suites.rotation._STRIP", 4)
    assert self_angle_change(old, new) == pytest.approx(np.mean(changes))


class Turned(Fake):
    """All vectors turned by one map."""

    def __init__(self, r):
        super().__init__((vectors(count=6, width=4)[0] @ r).numpy())


def test_the_suite_compares_two_models():
    source = Rows([row(str(at), at, f"t {at}") for at in range(6)])
    one = torch.eye(4, dtype=torch.float64)
    found = evaluate(Turned(turn(width=4)), source, ["rotation"], earlier=[Turned(one)])["rotation"]
    assert found["n"] == 6
    assert found["deviation"] == pytest.approx(0, abs=0.1)
    assert found["rotation_image"] > 10


@pytest.mark.parametrize("earlier", [[], [1, 2]])
def test_one_earlier_model_is_asked_for(earlier):
    with pytest.raises(InputError, match=f"not {len(earlier)}; name it with --earlier"):
        evaluate(
            Turned(torch.eye(4, dtype=torch.float64)),
            Rows([row("a", 1, "t")]),
            ["rotation"],
            earlier=earlier,
        )


def test_models_of_different_width_are_refused():
    x, y = vectors()
    with pytest.raises(InputError, match="one width"):
        report(x[:, :3], y[:, :3], x, y)
