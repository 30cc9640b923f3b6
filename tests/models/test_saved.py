"""`save` and `repr` of models."""

import numpy as np
import pytest
import torch

import diptych
from diptych.data.tokenizers import train_bpe
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.model import Model
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder


class Classes(list):
    """Images with a class each, and the names of the classes, as torchvision's data sets."""

    classes = ("cat", "dog")


WORDS = ["a red cat", "clock"]


def test_a_changed_model_is_saved_and_loads_as_it_is(tmp_path):
    model = load("tiny")
    with torch.no_grad():
        for parameter in model.encoder.text_projection.parameters():
            parameter.mul_(1.5)
            parameter[0] += 0.1
    folder = model.save(tmp_path / "mine")
    again = load(folder)
    assert torch.equal(again.embed_texts(WORDS), model.embed_texts(WORDS))
    assert not torch.equal(again.embed_texts(WORDS), load("tiny").embed_texts(WORDS))
    with pytest.raises(InputError, match="exists already; name a new folder"):
        model.save(folder)


def test_a_language_model_is_saved(tmp_path):
    model = load("tiny-lm")
    again = load(model.save(tmp_path / "lm"))
    assert torch.equal(again.log_prob(WORDS), model.log_prob(WORDS))


def test_a_run_with_parts_of_its_own_is_saved(tmp_path):
    data = Classes((np.full((20, 20, 3), 20 * n, np.uint8), n % 2) for n in range(8))
    run = diptych.train("linear_probe", data, tmp_path / "run", init="tiny", quiet=True)
    again = load(run.model.save(tmp_path / "again"))
    assert again.identity == load(run.folder).identity
    assert again.classes == run.model.classes


def test_what_cannot_be_saved_is_refused_with_the_remedy(tmp_path):
    half = load("tiny", precision="bfloat16")
    with pytest.raises(InputError, match="is in bfloat16; load it in float32"):
        half.save(tmp_path / "half")
    image = image_tower("vit:image_size=32:patch=16:width=32:depth=1:heads=2")
    words = train_bpe(WORDS, 280, 8)
    text = text_tower(
        "text:width=32:depth=1:heads=2",
        vocab_size=words.vocab_size,
        context=8,
        pad=words.pad,
        eot=words.eot,
    )
    own = Model(DualEncoder(image, text, 16), words, image.preprocess, name="mine")
    with pytest.raises(InputError, match="made by hand"):
        own.save(tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_a_model_shows_what_it_is():
    shown = repr(diptych.load("tiny", device="cpu"))
    assert shown.startswith("Model('tiny': vit and text, ")
    assert shown.endswith(" parameters, embeddings of 192, float32 on cpu)")
    shown = repr(diptych.load("tiny-lm", device="cpu"))
    assert shown.startswith("LanguageModel('tiny-lm': ")


def test_a_model_that_was_tuned_by_adapters_is_saved(tmp_path):
    run = diptych.train(
        "lora",
        "scenes:count=16:number=1",
        tmp_path / "run",
        preset="tune",
        init="tiny",
        steps=1,
        batch_size=8,
        quiet=True,
    )
    again = load(run.model.save(tmp_path / "mine"))
    assert torch.equal(again.embed_texts(WORDS), run.model.embed_texts(WORDS))
