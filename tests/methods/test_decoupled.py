"""The example of docs/add_a_method.md: a method in a file of one's own, found by its entry point
and trained."""

import importlib
import math
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from diptych.methods import registry
from diptych.methods.pretrain.clip import CLIP
from diptych.testing import check_method

HERE = Path(__file__).parent


@pytest.fixture
def decoupled(monkeypatch):
    """The example's module, installed as a third party's entry point would install it."""
    point = EntryPoint("decoupled", "tests.methods.decoupled", "diptych.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.cards.cache_clear()
    yield importlib.import_module("tests.methods.decoupled")
    registry.cards.cache_clear()


def test_entry_point_makes_it_a_method_like_ours(decoupled):
    assert registry.find("decoupled").group == "external"
    assert registry.method_class("decoupled") is decoupled.Decoupled


def test_it_builds_on_what_clip_builds_on(decoupled):
    """So a comparison with clip is of the losses."""
    own, clip = decoupled.Decoupled.presets["small"], CLIP.presets["small"]
    for name in ("image", "text", "tokenizer", "embed_dim", "recipe"):
        assert getattr(own, name) == getattr(clip, name)


def test_loss_equals_the_equation(decoupled):
    class Scaled:
        def logit_scale(self):
            return torch.tensor(3.0)

    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=1)
        for _ in range(2)
    )
    method = decoupled.Decoupled.__new__(decoupled.Decoupled)
    torch.nn.Module.__init__(method)
    object.__setattr__(method, "model", Scaled())
    total = method.terms(x, y)["contrastive"]

    def slow(z):
        return (
            sum(
                -z[i][i] + math.log(sum(math.exp(z[i][j]) for j in range(5) if j != i))
                for i in range(5)
            )
            / 5
        )

    z = (3.0 * x @ y.T).tolist()
    transposed = [list(column) for column in zip(*z, strict=True)]
    assert float(total) == pytest.approx((slow(z) + slow(transposed)) / 2, rel=1e-5)


def test_keeps_the_contract(decoupled, two):
    check_method("decoupled", ranks=two)
