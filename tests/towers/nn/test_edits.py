"""Edits of the residual stream."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.towers.nn.edits import Insert, chain, edited


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    how=st.sampled_from(["replace", "before", "after"]),
    n=st.integers(1, 6),
    b=st.integers(1, 3),
)
def test_insert_equals_the_list_it_stands_for(data, how, n, b):
    """Shared or per-sample values, one position or one a sample, counted from either end."""
    batch = 2
    top = n - b if how == "replace" else n - 1
    if top < 0:
        return
    at = [data.draw(st.integers(0, top)) for _ in range(batch)]
    if data.draw(st.booleans()):
        at = [a - n for a in at]
    tokens = torch.arange(batch * n, dtype=torch.float32).view(batch, n, 1)
    values = -1 - torch.arange(batch * b, dtype=torch.float32).view(batch, b, 1)
    expected = []
    for row, value, a in zip(tokens.tolist(), values.tolist(), at, strict=True):
        a = a % n
        start, stop = {"replace": (a, a + b), "before": (a, a), "after": (a + 1, a + 1)}[how]
        expected.append(row[:start] + value + row[stop:])
    assert Insert(values, 0, torch.tensor(at), how)(0, tokens).tolist() == expected
    if at[0] == at[1]:
        assert Insert(values, 0, at[0], how)(0, tokens).tolist() == expected
    assert Insert(values, 1, at[0], how)(0, tokens) is tokens


def test_insert_passes_gradients_to_the_values_and_to_the_tokens_that_stay():
    values, tokens = torch.zeros(1, 2, requires_grad=True), torch.zeros(3, 4, 2, requires_grad=True)
    Insert(values, 0, torch.tensor([1, 2, 3]))(0, tokens).sum().backward()
    assert values.grad.tolist() == [[3.0, 3.0]]
    assert tokens.grad[..., 0].tolist() == [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("at", "how"),
    [(3, "replace"), (5, "before"), (-6, "before"), (torch.tensor([0, 3]), "replace")],
)
def test_insert_refuses_places_that_are_not_there(at, how):
    with pytest.raises(InputError, match="do not fit into the 4 tokens of layer 0"):
        Insert(torch.zeros(2, 1), 0, at, how)(0, torch.zeros(2, 4, 1))


def test_chain_applies_edits_in_order():
    edit = chain(
        Insert(torch.ones(1, 1), 0, 0, "before"), Insert(torch.full((1, 1), 2.0), 0, 0, "before")
    )
    assert edit(0, torch.zeros(1, 1, 1)).flatten().tolist() == [2, 1, 0]


def test_edited_reaches_foreign_layers_and_leaves_them_as_they_were():
    layers = [torch.nn.Identity(), torch.nn.Identity()]
    with edited(layers, lambda layer, x: x + 10**layer):
        assert layers[1](layers[0](torch.zeros(1))).item() == 11
    assert layers[1](layers[0](torch.zeros(1))).item() == 0
