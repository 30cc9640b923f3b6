"""The base of methods on sentences: the loss of several views against loops, and changed specs."""

import math

import pytest
import torch
from tests.factories import TEXT, make_method

from diptych.errors import InputError
from diptych.methods.families.sentences import anchored, with_options
from diptych.methods.make import NO_TOWER

SECOND = torch.tensor([[1.0, 1], [0, 1]], dtype=torch.float64)
THIRD = torch.tensor([[1.0, 0], [1, 1]], dtype=torch.float64)
VIEWS = torch.stack([torch.eye(2, dtype=torch.float64), SECOND, THIRD], 1)


@pytest.mark.parametrize(("tau", "term"), [(0.05, 0.001426993), (1.0, 0.479109645)])
def test_two_others_have_the_published_losses(tau, term):
    assert anchored(VIEWS[:, :2], 1 / tau).item() == pytest.approx(term, abs=5e-10)
    assert anchored(VIEWS[:, [0, 2]], 1 / tau).item() == pytest.approx(term, abs=5e-10)
    assert anchored(VIEWS, 1 / tau).item() == pytest.approx(2 * term, abs=5e-10)
    mean = anchored(VIEWS, 1 / tau, reduction="mean")
    assert mean.item() == pytest.approx(term, abs=5e-10)


def loops(views, tau, symmetric=False):
    count, V, _ = views.shape
    total = 0.0
    for v in range(1, V):
        for a, b in ((0, v), (v, 0)) if symmetric else ((0, v),):
            for i in range(count):
                scores = [
                    math.exp(torch.cosine_similarity(views[i, a], views[j, b], dim=0) / tau)
                    for j in range(count)
                ]
                total -= math.log(scores[i] / sum(scores)) / count / (2 if symmetric else 1)
    return total


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_equals_loops(symmetric):
    views = torch.randn(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = anchored(views, 10.0, symmetric=symmetric)
    assert found.item() == pytest.approx(loops(views, 0.1, symmetric), abs=1e-12)
    views = views[:3, :3, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: anchored(x, 5.0, symmetric=symmetric), views)


def test_equal_views_of_all_sentences_know_nothing():
    views = torch.ones(7, 3, 4, dtype=torch.float64)
    assert anchored(views, 20.0).item() == pytest.approx(2 * math.log(7), abs=1e-12)


def test_lengths_of_vectors_do_not_matter():
    lengths = torch.tensor([1.0, 3, 0.1], dtype=torch.float64)[None, :, None]
    assert anchored(VIEWS * lengths, 20.0).item() == pytest.approx(anchored(VIEWS, 20.0).item())


def test_the_head_is_of_training_alone():
    method = make_method("simcse", image=NO_TOWER, text=TEXT, embed_dim=32)
    assert sum(p.numel() for p in method.head.parameters()) == 32 * 32 + 32
    assert not any("head" in name for name in method.deliver().state_dict())
    bare = make_method("simcse", image=NO_TOWER, text=TEXT, embed_dim=32, head=False)
    assert not list(bare.head.parameters())


def test_a_spec_takes_other_options():
    own = {"name": "text", "width": 8, "pooling": "eot"}
    assert with_options(own, pooling="mean") == {**own, "pooling": "mean"}
    assert with_options(own, pooling=None, dropout=0.2) == {**own, "dropout": 0.2}
    bert = {"name": "hf", "config": {"model_type": "bert", "hidden_dropout_prob": 0.1}}
    found = with_options(bert, dropout=0.3, pooling="first")
    assert found["config"]["hidden_dropout_prob"] == 0.3
    assert "dropout" not in found
    with pytest.raises(InputError, match=r"\(gpt\) names no dropout in its config"):
        with_options({"name": "hf", "config": {"model_type": "gpt"}}, dropout=0.3)
