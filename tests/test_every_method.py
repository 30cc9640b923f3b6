"""The contract suite over every card, and two broken methods that it must catch."""

from pathlib import Path

import pytest
import torch

from diptych.methods.base import Losses
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.registry import cards
from diptych.testing import check as suite

GOLDEN = Path(__file__).parent / "golden"
METHODS = [name for name, card in cards().items() if card.kind == "method"]
TRAINED = [*METHODS, *(name for name, card in cards().items() if card.kind == "optimizer")]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_method_keeps_contract(name, check):
    check(suite.Subject(suite.method_class(name), name))


@pytest.mark.parametrize("name", TRAINED)
def test_method_trains_on_two_ranks_as_on_one(name, two):
    suite.two_ranks_train_as_one(suite.Subject(suite.method_class(name), name), two)


@pytest.mark.parametrize("name", METHODS)
def test_method_repeats_its_golden_losses(name):
    suite.golden_losses(suite.Subject(suite.method_class(name), name), GOLDEN / f"{name}.txt")


class ChangesState(CLIP):
    """Broken: counts steps in loss."""

    def __init__(self, config, make):
        super().__init__(config, make)
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, features, batch, at):
        self.seen += 1
        return super().loss(features, batch, at)


class KeepsHiddenState(CLIP):
    """Broken: state outside buffers, which no snapshot sees."""

    calls = 0

    def loss(self, features, batch, at):
        type(self).calls += 1
        losses = super().loss(features, batch, at)
        return Losses({name: term * self.calls for name, term in losses.terms.items()})


class MixesSamples(CLIP):
    """Broken: centres the features over the batch in encode."""

    def encode(self, batch, at):
        features = super().encode(batch, at)
        return {name: value - value.mean(0) for name, value in features.items()}


class Moved(CLIP):
    """Broken: what a refactor may do unseen, a gradient that is 2 % off in one of two directions."""

    def loss(self, features, batch, at):
        image = features["image"]
        return super().loss({**features, "image": image + 0.02 * (image.detach() - image)}, batch, at)


def test_10_golden_losses_tell_a_gradient_that_is_a_little_off():
    with pytest.raises(AssertionError, match=r"at step \d+ the loss is .*, stored is .*clip\.txt"):
        suite.golden_losses(suite.Subject(Moved, "clip"), GOLDEN / "clip.txt")


@pytest.mark.parametrize("broken", [ChangesState, KeepsHiddenState])
def test_suite_catches_a_loss_that_changes_state(broken):
    with pytest.raises(AssertionError, match="state"):
        suite.check_method(broken)


def test_suite_catches_an_encode_that_mixes_samples():
    with pytest.raises(AssertionError, match="who else is in the batch"):
        suite.check_method(MixesSamples)
