"""The recipe of the tiny model: its scores are measured, its card is written, chance and luck are
told apart."""

import pytest
import torch

from diptych.data.tokenizers import train_bpe
from diptych.lab import tiny
from diptych.models.model import Model
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = train_bpe(["a red cat on grass", "two blue keys in the top left"] * 5, 300, 32)
    image = image_tower("vit:image_size=64:patch=16:width=32:depth=1:heads=1")
    text = text_tower(
        "text:width=32:depth=1:heads=1",
        vocab_size=tokenizer.vocab_size,
        context=tokenizer.context,
        pad=tokenizer.pad,
        eot=tokenizer.eot,
    )
    return Model(DualEncoder(image, text, 16), tokenizer, image.preprocess, name="untrained")


def test_every_score_has_its_bar_and_the_card_tells_all_of_it(model):
    found = tiny.scores(model, "val", train=120, count=80)
    assert set(found) == set(tiny.BARS) == set(tiny.CHANCE)
    for name, (probe, zero_shot) in tiny.BARS.items():
        assert ("probe" in found[name]) == (probe is not None)
        assert 0 <= found[name]["zero_shot"] < max(zero_shot, 0.75), f"{name} of an untrained model"
        assert found[name]["n"] > 0
    trainings = [
        {"steps": 3, "seed": 0, "data": {"train": data}, "recipe": dict(tiny.RECIPE)}
        for data, *_ in tiny.STAGES.values()
    ]
    card = tiny.card(model, found, trainings, 60.0)
    assert "{" not in card
    for reported in (
        *(data for data, *_ in tiny.STAGES.values()),
        "twemoji",
        "rabbit",
        "neon",
        "| cat |",
        f"{found['pair']['zero_shot']:.3f}",
    ):
        assert reported in card
    assert all(line.count("|") == 6 for line in tiny.table(found).splitlines())


def test_the_towers_are_transformers_of_six_blocks_that_fit_in_six_megabytes(tmp_path):
    config = tiny.config(next(iter(tiny.STAGES)), words=tmp_path / "tokenizer.json")
    image = image_tower(config.image_tower)
    text = text_tower(
        config.text_tower, vocab_size=tiny.VOCABULARY, context=tiny.CONTEXT, pad=0, eot=2
    )
    encoder = DualEncoder(image, text, config.embed_dim)
    assert image.config.depth >= 6
    assert text.config.depth >= 6
    assert 2 * sum(parameter.numel() for parameter in encoder.parameters()) <= 6e6
