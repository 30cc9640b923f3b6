"""The comparisons of S-VCO against the published figures, and what they do not change with."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.methods.fuse.s_vco.losses import CONDITIONS, terms_of

BETAS = (0.1, 0.1, 0.1, 0.1)
POLICY = [-10.0, -14.0, -15.0, -11.0, -12.0, -13.0]
REFERENCE = [-12.0, -12.5, -13.0, -12.5, -11.5, -12.0]
EXCHANGED = [3, 2, 1, 0, 5, 4]
"""The conditions where the members of a pair are exchanged."""


def loss(ratios, objective="svco", betas=BETAS):
    rows = torch.as_tensor(ratios, dtype=torch.float64).view(-1, 6)
    return sum(term.loss(rows).mean() for term in terms_of(objective, betas))


def drawn(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 9 * torch.randn(count, 6, generator=generator, dtype=torch.float64)


def gradient(policy, reference):
    policy = torch.tensor([policy], dtype=torch.float64, requires_grad=True)
    loss(policy - torch.tensor([reference], dtype=torch.float64)).backward()
    return policy.grad[0].tolist()


def test_the_policy_that_is_the_reference_has_the_published_loss_and_gradients():
    assert float(loss([0.0] * 6)) == pytest.approx(2.772589, abs=1e-6)
    expected = [-0.05, 0.05, 0.05, -0.05, 0.0, 0.0]
    assert gradient(REFERENCE, REFERENCE) == pytest.approx(expected, abs=1e-15)


def test_the_published_example():
    ratios = torch.tensor([POLICY], dtype=torch.float64) - torch.tensor([REFERENCE])
    found = {term.name: float(term.loss(ratios)) for term in terms_of("svco", BETAS)}
    assert found == pytest.approx(
        {"attend_w": 0.575939, "reject_w": 0.644397, "attend_l": 0.575939, "reject_l": 0.644397},
        abs=1e-6,
    )
    assert sum(found.values()) == pytest.approx(2.440672, abs=2e-6)
    expected = [-0.0438, 0.0475, 0.0475, -0.0438, -0.0037, -0.0037]
    assert gradient(POLICY, REFERENCE) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("x", "expected"), [(0, 0.693147), (1, 0.644397), (10, 0.313262), (-10, 1.313262)]
)
def test_a_term_is_the_published_function_of_its_margin(x, expected):
    [attend, *_] = terms_of("svco", BETAS)
    ratios = torch.tensor([[x + 2.0, 0, 0, 0, 2, 0]], dtype=torch.float64)
    assert float(attend.loss(ratios)) == pytest.approx(expected, abs=1e-6)
    slow = -math.log(1 / (1 + math.exp(-0.1 * x)))
    assert float(attend.loss(ratios)) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    ("attend", "reject", "expected"), [(1, 1, 1.288793), (-3, 5, 1.328432), (0, 2, 1.291286)]
)
def test_attend_and_reject_are_least_where_no_image_is_the_midpoint(attend, reject, expected):
    ratios = [attend, -reject, 0, 0, 0, 0]
    assert float(loss(ratios, "vco")) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_attend_and_reject_are_bounded_by_their_common_margin(values):
    own, other, none = values
    bound = 2 * math.log1p(math.exp(-0.05 * (own - other)))
    assert float(loss([own, other, 0, 0, none, 0], "vco")) >= bound - 1e-12
    middle = (own + other) / 2
    assert float(loss([own, other, 0, 0, middle, 0], "vco")) == pytest.approx(bound, abs=1e-12)


def test_exchanging_the_members_of_a_pair_changes_vco_alone():
    ratios = drawn()
    assert float(loss(ratios)) == pytest.approx(float(loss(ratios[:, EXCHANGED])), abs=1e-12)
    assert abs(float(loss(ratios, "vco") - loss(ratios[:, EXCHANGED], "vco"))) > 1e-3
    uneven = (0.1, 0.2, 0.3, 0.4)
    assert abs(float(loss(ratios, betas=uneven) - loss(ratios[:, EXCHANGED], betas=uneven))) > 1e-3


def test_of_equal_images_the_loss_is_least_where_no_image_equals_them():
    ratios = drawn()
    ratios[:, 1] = ratios[:, 0]
    assert bool((torch.stack([loss(row, "vco") for row in ratios]) >= 2 * math.log(2)).all())
    ratios[:, 4] = ratios[:, 0]
    assert float(loss(ratios, "vco")) == pytest.approx(2 * math.log(2), abs=1e-12)


def test_a_constant_on_all_log_probabilities_of_one_response_changes_nothing():
    ratios = drawn()
    shifted = ratios.clone()
    shifted[:, [CONDITIONS.index(name) for name in ("ww", "wl", "w")]] += 3.7
    assert float(loss(shifted)) == pytest.approx(float(loss(ratios)), abs=1e-12)
    # the responses of dpo differ
    assert abs(float(loss(shifted, "dpo") - loss(ratios, "dpo"))) > 1e-3


def test_dpo_compares_the_responses_to_one_image():
    ratios = drawn(1)
    slow = math.log1p(math.exp(-0.3 * float(ratios[0, 0] - ratios[0, 2])))
    found = loss(ratios, "dpo", (0.3, 0.0, 0.0, 0.0))
    assert float(found) == pytest.approx(slow, abs=1e-12)


def test_an_objective_whose_betas_are_all_0_is_refused():
    with pytest.raises(InputError, match="all betas that vco reads are 0"):
        terms_of("vco", (0.0, 0.0, 0.1, 0.1))
    assert terms_of("sft", (0.0, 0.0, 0.0, 0.0)) == ()
