import numpy as np
import pytest
import torch
from tests.viewer.helpers import SCRIPT, Parts

from diptych.data.images import Preprocess
from diptych.data.sample import Field, Sample, Text
from diptych.models.adapted import TrainedClassesModel
from diptych.testing import Toy
from diptych.viewer.file import page
from diptych.viewer.subject import Subject
from diptych.viewer.trained import lost_texts, mistakes, wrong_classes


class Matching:
    """Embeds images by their mean colour and texts by their letters."""

    name = SCRIPT

    def __init__(self):
        self.preprocess = Preprocess(size=8)
        generator = torch.Generator().manual_seed(0)
        self.by_pixels = torch.randn(3 * 64, 6, generator=generator)
        self.by_letters = torch.randn(128, 6, generator=generator)

    def embed_images(self, pixels, batch_size=64):
        return torch.nn.functional.normalize(pixels.flatten(1).float() @ self.by_pixels, dim=1)

    def embed_texts(self, texts):
        rows = [self.by_letters[[ord(letter) % 128 for letter in text]].sum(0) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def reference(model, source):
    """The rank of each image's best own text, and the text that is ranked first if it is wrong."""
    captions = {}
    for sample in map(source.__getitem__, range(len(source))):
        for caption in sample.captions():
            captions.setdefault(caption.strip().lower(), caption)
    texts = list(captions.values())
    found = {}
    for sample in map(source.__getitem__, range(len(source))):
        pixels = model.preprocess.read(sample.images["main"], exact=False)[None]
        image = model.embed_images(pixels)[0].double()
        own = {caption.strip().lower() for caption in sample.captions()}
        scores = {text: float(image @ model.embed_texts([text])[0].double()) for text in texts}
        best = max(scores[text] for text in texts if text.strip().lower() in own)
        above = {
            text: score
            for text, score in scores.items()
            if text.strip().lower() not in own and score >= best
        }
        first = max(above, key=lambda text: above[text]) if above else None
        found[sample.key] = (1 + len(above), first, best)
    return found


def test_lost_texts_are_those_that_rank_lowest():
    model = Matching()
    source = Toy(24)
    found, rank = lost_texts(model, source, max_mistakes=10)
    wanted = reference(model, source)
    assert sorted(rank.tolist()) == sorted(number for number, _, _ in wanted.values())
    worst = sorted((number for number, _, _ in wanted.values() if number > 1), reverse=True)
    assert [each.rank for each in found] == worst[:10]
    for each in found:
        number, first, best = wanted[each.key]
        assert (each.rank, each.first) == (number, first)
        assert each.own_score == pytest.approx(best, abs=1e-5)
        assert each.first_score >= each.own_score
        owner = source[list(source.keys()).index(each.first_key)]
        assert each.first in owner.captions()


def test_the_section_leads_to_the_cards_and_is_escaped():
    source = Toy(12)
    section = mistakes(Matching(), source)
    subject = Subject(title="a", lead="", sources=[source], sections=[section])
    found = Parts(page(subject, count=1))
    assert "script" not in found.tags
    assert {link[1:] for link in found.links} <= found.ids
    assert "own text ranked first" in found.text


class Classifier(TrainedClassesModel):
    """Names every image after its mean brightness."""

    name = "classifier"

    def __init__(self):
        self.classes = ("dark", "light")
        self.label = "shade"
        self.preprocess = Preprocess(size=8)

    def set_classes(self, names, templates=()):
        assert tuple(names) == self.classes

    def class_logits(self, pixels, batch_size=64, exact=False):
        light = pixels.float().flatten(1).mean(1) / 32
        return torch.stack([torch.zeros_like(light), light - 4], dim=1)


class Shades(Toy):
    """Samples whose class is right for even ones, and missing for the last."""

    def schema(self):
        shade = Field(kind="int", classes=("dark", "light"))
        return {**super().schema(), "labels.shade": shade}

    def labels(self, name):
        return np.array([self[at].labels[name] for at in range(len(self))])

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        image = np.asarray(sample.images["main"].decode()).astype(float).mean()
        right = int(image / 32 > 4)
        shade = -1 if index == len(self) - 1 else right if index % 2 == 0 else 1 - right
        return Sample(key=sample.key, source="", images=sample.images, labels={"shade": shade},
                      texts=[Text(text="x")])  # fmt: skip


def test_wrong_classes_are_ordered_by_confidence():
    source = Shades(9)
    model = Classifier()
    found, total = wrong_classes(model, source, "shade")
    assert total == 8
    assert {each.key for each in found} == {source[at].key for at in (1, 3, 5, 7)}
    assert [each.share for each in found] == sorted((each.share for each in found), reverse=True)
    assert all(each.share >= 0.5 and each.own != each.said for each in found)
    section = mistakes(model, source)
    subject = Subject(title="a", lead="", sources=[source], sections=[section])
    said = Parts(page(subject, count=1)).text
    assert "50.0%" in said
    assert "Classes that are confused" in said


def test_classes_that_the_model_does_not_know_are_no_mistakes():
    model = Classifier()
    model.classes = ("cat", "dog")
    assert wrong_classes(model, Shades(4), "shade") == ([], 0)
    assert "No image has a class" in mistakes(model, Shades(4)).note


def test_a_model_that_can_do_neither_has_no_mistakes_to_show():
    assert "diptych evaluate" in mistakes(object(), Toy(2)).note
