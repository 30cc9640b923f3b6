"""What the engine gives to a loss: rows of texts of unequal lengths, means, and the pixels."""

import pytest
import torch
from tests.factories import IMAGE, TEXT

from diptych import collectives
from diptych.errors import InputError
from diptych.methods.base import Losses, Preset, Recipe
from diptych.methods.pretrain.clip import CLIP
from diptych.objectives import info_nce
from diptych.testing import check as suite
from diptych.testing.subject import Subject
from diptych.training import gradcache


class Small(CLIP):
    """CLIP with towers of one layer."""

    presets = {  # noqa: RUF012
        "small": Preset(
            image=IMAGE,
            text=TEXT,
            tokenizer="bpe:vocab_size=320:context=24",
            recipe=Recipe(lr=1e-3, optimizer="muon"),
        ),
        "paper": CLIP.presets["paper"],
    }

    def parts(self):
        return {"all": self.encode}


class Fine(Small):
    """Compares an image with the ids of a text one by one; texts are as long on a rank as its
    longest."""

    def encode(self, batch, at):
        found = super().encode(batch, at)
        ids, lengths = batch.text.flat
        tokens = self.model.text(ids, lengths).tokens
        return {"image": found["image"], "words": self.model.text_projection(tokens)}

    def loss(self, features, batch, at):
        words = features["words"]
        assert words.shape[:2] == batch.text.ids[:, 0].shape, "texts and features are padded alike"
        real = torch.arange(words.shape[1]) < batch.text.lengths
        means = (words * real[..., None]).sum(1) / batch.text.lengths
        image = torch.nn.functional.normalize(features["image"], dim=-1)
        text = torch.nn.functional.normalize(means, dim=-1)
        return Losses({"contrastive": info_nce(image, text, self.model.logit_scale())})


class Centred(Small):
    """Adds a loss of the mean of all images' features, of which a rank has its own rows alone."""

    averaged = ("centre",)

    def encode(self, batch, at):
        found = super().encode(batch, at)
        return {**found, "centre": found["image"]}

    def loss(self, features, batch, at):
        assert features["centre"].shape == features["image"].shape[1:]
        found = super().loss(features, batch, at)
        return Losses({**found.terms, "centre": features["centre"].square().sum()})


class Universal(Small):
    """Adds a loss of the pixels of all images at once."""

    whole = True

    def loss(self, features, batch, at):
        found = super().loss(features, batch, at)
        pixels = batch.image.pixels.float().mean((0, 1, 3, 4)) / 255
        scale = self.model.logit_scale()
        return Losses({**found.terms, "pixels": 0.01 * scale * pixels.square().sum()})


@pytest.mark.parametrize("cls", [Fine, Centred, Universal])
def test_the_loss_on_two_ranks_is_that_of_one_process(cls, two):
    subject = Subject(cls)
    suite.loss_changes_no_state(subject)
    suite.every_parameter_learns(subject)
    suite.cached_gradients_are_the_whole_batchs(subject)
    suite.resume_is_exact(subject)
    suite.two_ranks_train_as_one(subject, two)


def images_of(whole):
    """The images that a loss gets, on each rank."""
    seen = []

    class Watching(Small):
        def loss(self, features, batch, at):
            seen.append({name: each.pixels.shape for name, each in batch.images.items()})
            return super().loss(features, batch, at)

    Watching.whole = whole
    suite.gradients_of(Subject(Watching))
    return seen


@pytest.mark.parametrize("whole", [False, True])
def test_a_loss_sees_pixels_on_any_number_of_ranks_or_on_none(two, whole):
    expected = [{"main": (8, 1, 3, 32, 32)}] if whole else [{}]
    assert images_of(whole) == expected
    assert two.run(images_of, whole) == [expected] * 2


class Ragged(Small):
    """Features whose third dimension is another on each rank."""

    def encode(self, batch, at):
        found = super().encode(batch, at)
        wide = found["image"][:, None].repeat(1, 1, 1 + collectives.rank())
        return {**found, "wide": wide}


def error_of():
    try:
        suite.gradients_of(Subject(Ragged))
    except InputError as error:
        return str(error)
    return "no error"


def test_features_of_other_shapes_are_refused_on_all_ranks(two):
    for message in two.run(error_of):
        assert "feature 'wide' is torch.float64 (4, 1, 64) on rank 0" in message
        assert "(4, 1, 128) on rank 1" in message


def test_a_method_that_sees_the_whole_batch_cannot_be_chunked():
    with pytest.raises(InputError, match="Universal encodes a batch only as a whole"):
        gradcache.check(Subject(Universal).small())
