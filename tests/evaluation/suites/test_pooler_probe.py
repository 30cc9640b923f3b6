"""A pooler on frozen tokens: what it finds that no mean has, and what is refused."""

import numpy as np
import pytest
import torch

from diptych.errors import InputError
from diptych.evaluation.suites._pooler_probe import pooler
from diptych.evaluation.suites.probe import probe
from diptych.linear import hits
from diptych.methods.store import load
from diptych.testing import Toy


def marked(count, seed):
    """Tokens of noise, two of which are marked at random places; the class is what follows the first
    mark less what the other tokens say in sum, which hides it from their mean."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0, 0.1, (count, 6, 8)).astype(np.float32)
    for row, right in enumerate(y):
        place = rng.integers(6)
        x[row, place, 0] = 4
        x[row, :, 1] -= (2 * right - 1) / 5
        x[row, place, 1] = 2 * right - 1
    return x, y


def test_a_query_finds_the_token_that_tells_the_class_and_a_mean_does_not():
    (x, y), (val_x, val_y), (test_x, test_y) = (marked(300, seed) for seed in range(3))
    found = pooler(x, y, val_x, val_y, lr=5e-3, epochs=20)
    assert hits(found, test_x, test_y).mean() > 0.95
    assert np.abs(x.mean(1)[:, 1]).max() < 0.2
    again = pooler(x, y, val_x, val_y, lr=5e-3, epochs=20)
    np.testing.assert_array_equal(again.decision_function(test_x), found.decision_function(test_x))
    with pytest.raises(InputError, match="of one class"):
        pooler(x, y * 0, val_x, val_y)


def test_the_suite_reads_the_tokens_of_a_model():
    model = load("tiny")
    source = Toy(64, ["images.main", "texts.caption", "labels.class"])
    state = torch.get_rng_state()
    found = probe(model, source, fit="pooler", k=3, bootstrap=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert {
        "pooler_top1",
        "pooler_top1_std",
        "chance_pooler_top3",
        "epoch",
        "knn_top1",
    } <= found.keys()
    assert "linear_top1" not in found
    assert found["pooler_top1"] > found["chance_pooler_top1"]
    for options, message in (
        ({"shots": (1,)}, "leave out shots"),
        ({"features": "text"}, "leave out features=text"),
        ({"fit": "pool"}, "did you mean 'pooler'"),
    ):
        with pytest.raises(InputError, match=message):
            probe(model, source, **{"fit": "pooler", **options})
