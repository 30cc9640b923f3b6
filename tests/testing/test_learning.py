"""What the checks of learning tell of methods that do not learn, or learn from what they should not
see."""

from typing import Any, ClassVar

import numpy as np
import pytest

from diptych.data.plan import OneGroup
from diptych.methods.adapt.cones import ConES
from diptych.methods.base import Losses, Stage
from diptych.methods.pretrain.clip import CLIP
from diptych.methods.pretrain.simclr import SimCLR
from diptych.models.delivered import Validation
from diptych.models.model import Model
from diptych.testing import Toy, learning
from diptych.testing.subject import Subject


class Uphill(CLIP):
    """Broken: the loss has the wrong sign."""

    def terms(self, image, text, **equal):
        return {name: -term for name, term in super().terms(image, text, **equal).items()}


class Shifted(CLIP):
    """Broken: each image meets its neighbour's text."""

    def terms(self, image, text, **equal):
        return super().terms(image, text.roll(1, 0), **equal)


class Detached(SimCLR):
    """Broken: no gradient reaches the tower, only a batch norm behind it."""

    def encode(self, batch, at):
        self.model.image.requires_grad_(False)
        return super().encode(batch, at)

    def loss(self, features, batch, at):
        return Losses({"nt_xent": 0.0 * super().loss(features, batch, at).total})


class OtherClass(ConES):
    """Broken: labels are one off."""

    def loss(self, features, batch, at):
        fields = {**batch.fields, "class": (batch.fields["class"] + 1) % 8}
        return super().loss(
            features, type(batch)(images=batch.images, fields=fields, keys=batch.keys), at
        )


class Knows(CLIP):
    """Broken: it has each image's own text, whatever the data say."""

    def samples(self, stage, stream, source: Any):
        return learning.Picked(source.toy, source.rows.tolist())


class Halved(CLIP):
    """Its `prepare` makes two groups, of which its plan gives no batch of all samples."""

    sizes: ClassVar[set[int]] = set()

    def stages(self):
        return (Stage(prepare=self.group, plan=OneGroup("group")),)

    def group(self, run):
        run.store("train", {"group": np.arange(len(run.sources["train"])) % 2})

    def encode(self, batch, at):
        self.sizes.add(len(batch))
        return super().encode(batch, at)


@pytest.mark.parametrize("broken", [Uphill, Shifted, Detached, OtherClass])
def test_a_method_that_does_not_learn_is_told_its_scores(broken, monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 40)
    with pytest.raises(
        AssertionError, match=r"the score goes 0\.\d\d -> .*, and should reach 0\.\d\d"
    ):
        learning.learns_its_own_signal(Subject(broken))


def test_knowledge_from_beside_the_pairs_is_told():
    with pytest.raises(
        AssertionError,
        match=r"of 96 new pairs comes \d+\.\dth on average, where chance reaches 39\.8",
    ):
        learning.shuffled_texts_teach_nothing(Subject(Knows))


def test_a_batch_is_as_large_as_the_plan_gives(monkeypatch):
    monkeypatch.setattr(learning, "STEPS", 1)
    learning.trained(Subject(Halved))
    assert Halved.sizes == {16}


def test_where_toys_cannot_be_scored_the_loss_must_fall(monkeypatch):
    monkeypatch.setattr(Model, "validation", Validation("detection", ("ap50",)))
    learning.learns_its_own_signal(Subject(CLIP))
    monkeypatch.setattr(learning, "STEPS", 40)
    with pytest.raises(AssertionError, match="the score goes"):
        learning.learns_its_own_signal(Subject(Uphill))


def test_shuffled_texts_are_those_of_other_samples():
    toy = Toy(8, ["texts.caption", "boxes", "edits"])
    right, wrong = (
        learning.Picked(toy, range(0, 128, 4), shuffled=shuffled) for shuffled in (False, True)
    )
    for texts_of in (
        lambda sample: sample.captions(),
        lambda sample: [box.text for box in sample.boxes],
        lambda sample: [edit.captions()[0] for edit in sample.edits],
    ):
        own, others = (
            [texts_of(source[i]) for i in range(len(source))] for source in (right, wrong)
        )
        assert sorted(own) == sorted(others)
    captions = [[source[i].captions() for i in range(len(source))] for source in (right, wrong)]
    assert all(a != b for a, b in zip(*captions, strict=True))
