"""In-context learning, on a stub that knows or ignores the examples, and captions behind examples."""

import copy
from dataclasses import replace

import pytest
import torch

from diptych.data.sample import Text
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.testing import Toy


class Stub:
    """Answers by the nearest image among its examples, or at random, and counts how it was called."""

    name = "stub"
    identity = "stub"

    def __init__(self, preprocess, reads=True):
        self.preprocess = preprocess
        self.reads = reads
        self.examples = None

    def few_shot(self, images, texts):
        other = copy.copy(self)
        other.examples = images.float().flatten(1), list(texts)
        return other

    def _nearest(self, images):
        assert self.examples is not None
        shown, texts = self.examples
        if not self.reads:
            return [""] * len(images)
        return [
            texts[at] for at in torch.cdist(images.float().flatten(1), shown).argmin(1).tolist()
        ]

    def log_prob(self, images, texts, prompts=None, *, batch_size=64):
        words = self._nearest(images)
        return torch.tensor(
            [
                -float(text.split()[0] not in near.split())
                for text, near in zip(texts, words, strict=True)
            ]
        )

    def generate(self, images, prompts=None, *, batch_size=64):
        return self._nearest(images)


class Words(Wrapped):
    """Documents of two pages that show one drawing, with a word of its own."""

    def __init__(self, count=24):
        super().__init__(Toy(count, ["images.main", "images.page2", "texts.document"]))

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        word = f"wug{index}"
        texts = [
            Text(
                text=f"a {word} is a shape.",
                role="document",
                attrs={"image": "main", "defines": word},
            ),
            Text(
                text=f"next comes a {word} at the left.", role="document", attrs={"image": "page2"}
            ),
        ]
        return replace(sample, texts=texts)


@pytest.fixture(scope="module")
def preprocess():
    from diptych.towers.build import image_tower

    return image_tower("vit:image_size=32:patch=16:width=32:depth=1").preprocess


def test_a_new_word_is_found_by_the_page_that_defines_it(preprocess):
    source = Words()
    seen = Stub(preprocess)
    found = evaluate(seen, source, ["in_context"], shots=3, seeds=(0, 1))["in_context"]
    assert found["n"] == 24
    assert found["chance_chosen"] == pytest.approx(1 / 3)
    assert found["chosen"] == 1.0
    blind = evaluate(Stub(preprocess, reads=False), source, ["in_context"], shots=3)["in_context"]
    assert blind["chosen"] == 0  # ties count as wrong
    with pytest.raises(InputError, match="give --shots 2 or more"):
        evaluate(seen, source, ["in_context"], shots=1)
    with pytest.raises(InputError, match="24 documents.* 25 are shown"):
        evaluate(seen, source, ["in_context"], shots=25)


def test_classes_are_told_by_examples_of_them(preprocess):
    source = Toy(32, ["images.main", "labels.colour", "texts.caption"])
    model = Stub(preprocess)
    found = evaluate(model, source, ["in_context"], train=source, shots=[32])["in_context"]
    assert (found["chosen"], found["exact"]) == (1.0, 1.0)  # every image is among its examples
    few = evaluate(model, source, ["in_context"], train=source, shots=2)["in_context"]
    assert few["chosen"] < 0.5
    with pytest.raises(InputError, match="number of shots and their source together"):
        evaluate(model, source, ["in_context"], shots=2)
    captions = evaluate(model, source, ["captions"], train=source, shots=32)["captions"]
    assert captions["accuracy"] == 1.0
    assert "shots=32" in captions["options"]
