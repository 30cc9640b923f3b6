"""The log-probability of tokens against torch's cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from diptych.objectives.tokens import token_log_probs, unit_mean


@pytest.mark.parametrize("scale", [1.0, 300.0])  # at 300 most shares are 0
def test_values_and_gradients_are_those_of_cross_entropy(scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(7, 11, dtype=torch.float64)).requires_grad_()
    ids = torch.randint(0, 11, (7,))
    weight = torch.randn(7, dtype=torch.float64)
    found = token_log_probs(logits, ids)
    expected = -F.cross_entropy(logits, ids, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    (ours,) = torch.autograd.grad(found @ weight, logits)
    (theirs,) = torch.autograd.grad(expected @ weight, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)
    with torch.no_grad():
        assert torch.equal(token_log_probs(logits, ids), expected.detach())


def test_the_gradient_is_that_of_differences():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([4, 0, 2])
    assert torch.autograd.gradcheck(lambda x: token_log_probs(x, ids), logits)
    empty = token_log_probs(logits[:0], ids[:0])
    assert empty.shape == (0,)
    empty.sum().backward()


def test_a_mean_of_unit_vectors_is_of_those_that_count_and_not_normalised_again():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    counted = torch.tensor([[True, False, True, False], [False, False, False, False]])
    found = unit_mean(tokens, counted)
    units = [tokens[0, at] / tokens[0, at].norm() for at in (0, 2)]
    assert torch.allclose(found[0], (units[0] + units[1]) / 2)
    assert found[1].tolist() == [0, 0, 0]
    assert torch.allclose(unit_mean(tokens), unit_mean(tokens, torch.ones(2, 4)))
    assert unit_mean(tokens.half()).dtype == torch.float32
    assert torch.autograd.gradcheck(
        lambda x: unit_mean(x, counted), tokens.clone().requires_grad_()
    )
