"""The contract suite over every card, and two broken methods that it must catch."""

import pickle
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from diptych import collectives
from diptych.errors import InputError
from diptych.methods.base import Losses, Method, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.registry import cards
from diptych.testing import check as suite

GOLDEN = Path(__file__).parent / "golden"
METHODS = [name for name, card in cards().items() if card.kind == "method"]
TRAINED = [*METHODS, *(name for name, card in cards().items() if card.kind == "optimizer")]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_method_keeps_contract(name, check):
    check(suite.Subject.of(name))


@pytest.mark.parametrize("name", TRAINED)
def test_method_trains_on_two_ranks_as_on_one(name, two):
    suite.two_ranks_train_as_one(suite.Subject.of(name), two)


@pytest.mark.parametrize("name", METHODS)
def test_method_repeats_its_golden_losses(name):
    suite.golden_losses(suite.Subject.of(name), GOLDEN / f"{name}.txt")


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
    """Broken: what a refactor may do unseen, a gradient that is 2 % off in one of two
    directions."""

    def loss(self, features, batch, at):
        image = features["image"]
        return super().loss(
            {**features, "image": image + 0.02 * (image.detach() - image)}, batch, at
        )


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


class TwoStages(CLIP):
    """Two stages alike, for methods that break the second."""

    def stages(self):
        return Stage(name="first"), Stage(name="second")


class RankInSecond(TwoStages):
    """Broken: the loss of the second stage depends on the rank."""

    def loss(self, features, batch, at):
        losses = super().loss(features, batch, at)
        times = 1 + collectives.rank() * (at.stage == "second")
        return Losses({name: times * term for name, term in losses.terms.items()})


class DropsInSecond(TwoStages):
    """Broken: the parts of the second stage give texts no gradient."""

    def parts(self):
        return {"all": self.part}

    def part(self, batch, at):
        found = self.encode(batch, at)
        return found | ({"text": found["text"].detach()} if at.stage == "second" else {})


def test_suite_compares_the_gradients_of_each_stage(two):
    suite.cached_gradients_are_the_whole_batchs(suite.Subject(TwoStages))
    suite.two_ranks_train_as_one(suite.Subject(TwoStages), two)
    with pytest.raises(AssertionError, match="encoded in pieces in stage 'second'"):
        suite.cached_gradients_are_the_whole_batchs(suite.Subject(DropsInSecond))
    with pytest.raises(AssertionError, match="of two in stage 'second'"):
        suite.two_ranks_train_as_one(suite.Subject(RankInSecond), two)


class NoNumber(CLIP):
    """Broken: the loss is no number."""

    def terms(self, image, text, **equal):
        return {"contrastive": (0 * image.sum()).log() * 0}


class NoPaper(CLIP):
    """Broken: it lacks a preset."""

    presets: ClassVar = {"small": CLIP.presets["small"]}


class NoPresets(Method):
    """Broken: it has none."""


def test_suite_says_that_a_loss_is_no_number():
    with pytest.raises(
        AssertionError, match="the loss of the first batch is nan, and must be finite"
    ):
        suite.loss_changes_no_state(suite.Subject(NoNumber))


def test_suite_says_which_preset_is_missing():
    with pytest.raises(InputError, match="unknown preset of NoPaper 'paper'"):
        suite.check_method(NoPaper)
    with pytest.raises(InputError, match="NoPresets has no presets; give the class presets"):
        suite.check_method(NoPresets)


def test_suite_tells_each_check_as_it_begins(monkeypatch):
    def nothing(subject, *ranks):
        """Proves nothing."""

    reported = []
    monkeypatch.setattr(suite, "CHECKS", [nothing, nothing])
    monkeypatch.setattr(suite, "two_ranks_train_as_one", nothing)
    suite.check_method(CLIP, ranks="lent", tell=reported.append)
    assert reported == ["check 1 of 3: nothing", "check 2 of 3: nothing", "check 3 of 3: nothing"]


def test_a_method_in_a_file_is_found_again_by_another_process(tmp_path):
    file = shutil.copy(Path(__file__).parent / "methods" / "decoupled.py", tmp_path / "mine.py")
    subject = pickle.loads(pickle.dumps(suite.Subject.of(str(file))))
    assert (subject.name, subject.cls.__name__) == (str(file), "Decoupled")
