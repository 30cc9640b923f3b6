"""What the tests of sevlm share."""

import torch
from tests.evaluation.helpers import Rows
from tests.factories import make_method

from diptych.data.emotions import FIELDS
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import Field, Sample, Text
from diptych.data.tokenizers import build
from diptych.methods import store
from diptych.methods.base import At
from diptych.testing import Toy

LM = "text:width=32:depth=2:heads=2"
AT = At(0, 10, 0, 0)
SAID = (
    ("awe", "the golden skies look majestic"),
    ("something else", "it is odd because of the red"),
    ("fear", "the dark storm"),
    ("awe", "wide and calm"),
)
"""Emotions and explanations, the second of them of two words and with another joint."""


def words(context=40):
    """A tokenizer whose tokens are the words of SAID."""
    texts = [f"the emotion is {emotion} because {text}" for emotion, text in SAID]
    return build(f"bpe:vocab_size=2000:context={context}", texts * 2)


def felt(count=4):
    """Samples with two emotions each, or three."""
    rows = []
    for at in range(count):
        texts = []
        for number in range(2 + at % 2):
            emotion, text = SAID[(at + number) % 4]
            texts += [Text(text=emotion, role="emotion"), Text(text=text, role="explanation")]
        image = Toy(count)[at].images["main"]
        rows.append(Sample(key=f"{at}", source="", images={"main": image}, texts=texts))
    return Rows(rows, fields={name: Field(kind="text") for name in FIELDS})


def made(seed=0, **config):
    """A method in float64 that drops nothing out."""
    method = make_method("sevlm", seed, words=words(), **{"lm": LM, **config})
    return method.double().eval()


def lively(method):
    """The method with parameters far from their start, so that no part of it is near zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * noise)
    return method


def batch(method, source):
    """All samples of a source in one batch, as outside of training."""
    [stage] = method.stages()
    [found] = Loader(source, method.views(stage), InOrder(), len(source)).epoch(0)
    return found


def saved(method, folder):
    """The model of a method, saved and loaded."""
    options = {name: value for name, value in vars(method.config).items() if value is not None}
    preprocess = method.model.image.preprocess
    description = store.describe("sevlm", options, method.model, method.make.tokenizer, preprocess)
    store.save_model(folder, description, method.model.state_dict())
    return store.load(str(folder))
