"""The loss of Hydra: published figures, loops written from the paper, and what must not change it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.pretrain.hydra.helpers import slow
from torch.nn.functional import cross_entropy, normalize

from diptych.methods.pretrain.hydra.gate import PairGate, bernoulli_entropy
from diptych.methods.pretrain.hydra.loss import draw_partners, gated_contrast, similarities

FORMS = ("filtered", "fast", "raw")


def det(n, d, k):
    """Vectors (n, d), float64, without a draw, not normalised."""
    m = np.arange(n * d).reshape(n, d)
    return torch.from_numpy(np.sin(1.7 * m + k) + 0.3 * np.cos(0.9 * m * (k + 1)))


Z, KEYS, GATE = det(4, 3, 0), det(4, 3, 1), det(4, 3, 2).sigmoid()
Y, P = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 0, 0, 1])


@pytest.mark.parametrize(
    ("form", "figure"),
    [("filtered", 11.9800969093), ("fast", 3.5523837899), ("raw", 1.2895068943)],
)
def test_published_figures_of_each_form(form, figure):
    found = gated_contrast(similarities(Z, KEYS, GATE, 10.0, form), Y, P)
    assert found.item() == pytest.approx(figure, abs=1e-9)
    assert slow(Z, KEYS, GATE, Y.tolist(), P.tolist(), 0.1, form)[0] == pytest.approx(figure)


def test_the_mean_is_over_all_positives_and_not_one_of_means():
    whole, of_means = slow(Z, KEYS, GATE, Y.tolist(), P.tolist(), 0.1)
    assert of_means == pytest.approx(10.2912826377, abs=1e-9)
    found = gated_contrast(similarities(Z, KEYS, GATE, 10.0), Y, P).item()
    assert found == pytest.approx(whole) != pytest.approx(of_means)


def test_an_open_gate_gives_cosines_and_infonce():
    cosines = similarities(Z, KEYS, torch.ones(4, 3, dtype=torch.float64), 10.0)
    expected = 10 * normalize(Z, dim=1) @ normalize(KEYS, dim=1).T
    torch.testing.assert_close(cosines, expected, rtol=1e-13, atol=1e-14)
    own = torch.arange(4)
    found = gated_contrast(cosines, own, own)
    assert found.item() == pytest.approx(4.7150694228, abs=1e-9)
    torch.testing.assert_close(found, cross_entropy(expected, own))


def test_equal_logits_and_two_negatives_give_log_3():
    y, p = torch.arange(4), torch.tensor([1, 0, 3, 2])
    assert gated_contrast(torch.full((4, 4), 7.0), y, p).item() == pytest.approx(math.log(3))


def test_the_size_of_a_gate_does_not_count_and_one_dimension_gives_signs():
    scaled = GATE * torch.tensor([[0.1], [1.0], [3.0], [20.0]], dtype=torch.float64)
    torch.testing.assert_close(
        similarities(Z, KEYS, scaled, 10.0), similarities(Z, KEYS, GATE, 10.0)
    )
    one = torch.zeros(4, 3, dtype=torch.float64)
    one[:, 1] = 1
    signs = (Z[:, 1:2] * KEYS[:, 1]).sign()
    torch.testing.assert_close(similarities(Z, KEYS, one, 1.0), signs)


def test_a_shift_of_a_row_changes_neither_loss_nor_gradient():
    logits = similarities(Z, KEYS, GATE, 10.0).requires_grad_()
    for shifted in (
        logits,
        logits - logits.mean(1, keepdim=True),
        logits - logits.mean(1, keepdim=True).detach(),
    ):
        loss = gated_contrast(shifted, Y, P)
        (grad,) = torch.autograd.grad(loss, logits)
        expected = torch.autograd.grad(gated_contrast(logits, Y, P), logits)[0]
        assert loss.item() == pytest.approx(11.9800969093, abs=1e-9)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(
    b=st.integers(2, 6),
    n=st.integers(1, 7),
    k=st.integers(1, 5),
    classes=st.integers(2, 4),
    tau=st.floats(0.1, 2),
    seed=st.integers(0, 2**20),
)
def test_equals_loops(form, b, n, k, classes, tau, seed):
    rng = np.random.default_rng(seed)
    z, keys = (torch.from_numpy(rng.normal(size=(size, k))) for size in (b, n))
    gate = torch.from_numpy(rng.uniform(0.05, 1, size=(b, k)))
    y, p, key_y = (torch.from_numpy(rng.integers(classes, size=size)) for size in (b, b, n))
    found = gated_contrast(similarities(z, keys, gate, 1 / tau, form), y, p, key_y)
    assert found.item() == pytest.approx(
        slow(z, keys, gate, y.tolist(), p.tolist(), tau, form, key_y.tolist())[0], abs=1e-9
    )


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_differences(form):
    def loss(z, keys, gate, scale):
        return gated_contrast(similarities(z, keys, gate, scale, form), Y, P)

    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=form != "raw")
    given_ = [x.clone().requires_grad_() for x in (Z, KEYS, GATE)]
    assert torch.autograd.gradcheck(loss, (*given_, scale))


def test_anchors_without_negatives_or_positives_add_nothing_and_have_finite_gradients():
    logits = torch.tensor([[3.0, -2.0], [1.0, 5.0]], requires_grad=True)
    y = torch.tensor([0, 1])
    nothing = gated_contrast(
        logits, y, y.flip(0)
    )  # each key is of the anchor's or its partner's class
    assert nothing.item() == 0
    nothing.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))
    strangers = gated_contrast(logits, y, torch.tensor([2, 2]))  # no key is of the partner's class
    assert strangers.item() == 0
    # the second anchor has no negative, but its positive is in the mean
    half = gated_contrast(logits, y, torch.tensor([0, 0]))
    assert half.item() == pytest.approx(math.log1p(math.exp(-5)) / 2)


def test_keys_of_length_0_and_extreme_logits_stay_finite():
    z = torch.zeros(2, 3, requires_grad=True)
    y = torch.tensor([0, 1])
    gate = torch.ones(2, 3)
    loss = gated_contrast(similarities(z, z, gate, 10.0), y, y)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert z.grad.isfinite().all()
    far = gated_contrast(torch.tensor([[-1e4, 1e4], [1e4, -1e4]]), y, y)
    assert far.item() == pytest.approx(2e4)


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=30),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_partners_are_drawn_as_they_are_called(labels, seed):
    y = torch.tensor(labels)
    torch.manual_seed(seed)
    arbitrary = draw_partners(y, "arbitrary", 5)
    assert sorted(arbitrary.tolist()) == sorted(labels)
    distinct = draw_partners(y, "distinct", 5)
    assert (distinct != y).all()
    assert ((distinct >= 0) & (distinct < 5)).all()
    assert torch.equal(draw_partners(y, "identical", 5), y)


def test_distinct_partners_are_any_of_the_other_classes():
    torch.manual_seed(0)
    counts = torch.bincount(draw_partners(torch.full((4000,), 1), "distinct", 4))
    assert counts[1] == 0
    assert (counts[[0, 2, 3]] / 4000 - 1 / 3).abs().max() < 0.03


def slow_gate(gate, a, b):
    """The gate in evaluation mode, class by class."""

    def layer(x, norm, line):
        x = np.maximum(x, 0)
        mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
        x = (x - mean) / np.sqrt(var + 1e-5) * norm.weight.numpy() + norm.bias.numpy()
        return line.weight.numpy() @ x + line.bias.numpy()

    def of(e):
        hidden = layer(e, gate.net[1], gate.net[2])
        return 1 / (1 + np.exp(-layer(hidden, gate.net[4], gate.net[5])))

    e, f = (gate.table.weight.numpy()[each] for each in (a, b))
    return of((e + f) / 2) if gate.fuse else of(e) * of(f)


def drawn_gate(**options):
    torch.manual_seed(0)
    gate = PairGate(5, 4, width=6, hidden=7, **options).double()
    for _ in range(3):  # statistics of their own
        gate(torch.randint(5, (9,)), torch.randint(5, (9,)))
    return gate


@pytest.mark.parametrize("fuse", [True, False])
@torch.no_grad()
def test_the_gate_equals_its_equation_and_is_symmetric(fuse):
    gate = drawn_gate(fuse=fuse)
    a, b = torch.tensor([0, 1, 4, 2]), torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(gate(a, b), gate(b, a), rtol=0, atol=1e-14)  # training mode too
    gate.eval()
    for row, one, other in zip(gate(a, b), a, b, strict=True):
        np.testing.assert_allclose(row, slow_gate(gate, int(one), int(other)), rtol=1e-12)


@pytest.mark.parametrize("form", ["soft", "gumbel", "hard"])
def test_no_gradient_reaches_the_rows_of_absent_classes(form):
    gate = drawn_gate(form=form)
    y, p = torch.tensor([0, 0, 1, 3]), torch.tensor([1, 0, 0, 1])
    gated_contrast(similarities(det(4, 4, 0), det(4, 4, 1), gate(y, p), 10.0), y, p).backward()
    reached = gate.table.weight.grad.abs().sum(1) > 0
    assert reached.tolist() == [True, True, False, True, False]


def test_drawn_gates_have_the_soft_gate_as_mean_and_are_not_drawn_in_evaluation():
    gates = {form: drawn_gate(form=form) for form in ("soft", "gumbel", "hard")}
    a, b = torch.arange(5).repeat(4000), torch.tensor([1, 0, 2, 2, 3]).repeat(4000)
    torch.manual_seed(1)
    with torch.no_grad():
        soft, gumbel, hard = (gates[form](a, b) for form in ("soft", "gumbel", "hard"))
        assert set(hard.unique().tolist()) == {0.0, 1.0}
        mean = hard.view(4000, 5, 4).mean(0)
        torch.testing.assert_close(mean, soft[:5], atol=0.03, rtol=0)
        above = (gumbel > 0.5).double().view(4000, 5, 4).mean(0)  # as often as the hard one is 1
        torch.testing.assert_close(above, soft[:5], atol=0.03, rtol=0)
        at_rest = {form: gate.eval()(a[:5], b[:5]) for form, gate in gates.items()}
    torch.testing.assert_close(at_rest["gumbel"], gates["gumbel"](a[:5], b[:5]))
    assert torch.equal(at_rest["hard"], (at_rest["hard"] > 0.5).double())


def test_the_entropy_of_gates():
    p = torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    found = bernoulli_entropy(p)
    expected = [math.log(2), -0.25 * math.log(0.25) - 0.75 * math.log(0.75), 0, 0]
    assert found.tolist() == pytest.approx(expected, abs=2e-5)
    found.sum().backward()
    assert p.grad.isfinite().all()
