"""Inference by a linear head on embeddings whose answer is known."""

import pytest
import torch

from diptych.data.sample import Field, Sample, Text
from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate

CLASSES = ("entailment", "neutral", "contradiction")


class Pairs:
    """Premise and hypothesis are numbers, which are equal, far apart or opposite."""

    name = "pairs"

    def __init__(self, start=0, classes=CLASSES):
        self.start = start
        self.classes = classes

    def __len__(self):
        return 45

    def __getitem__(self, index):
        label = index % 3
        number = self.start + index
        other = (f"{number}", f"{number + 500}", f"-{number}")[label]
        texts = [Text(text=f"{number}"), Text(text=other, role="question")]
        return Sample(key=str(index), source="", texts=texts, labels={"entailment": label})

    def keys(self):
        return [str(at) for at in range(45)]

    def schema(self):
        texts = {f"texts.{role}": Field(kind="text") for role in ("caption", "question")}
        return {**texts, "labels.entailment": Field(kind="int", classes=self.classes)}


class Numbers:
    name = "numbers"

    def embed_texts(self, texts):
        angles = torch.tensor([0.3 + abs(float(text)) / 1000 for text in texts])
        signs = torch.tensor([-1.0 if text.startswith("-") else 1.0 for text in texts])
        return torch.stack([angles.cos() * signs, angles.sin()], 1)


def test_a_head_tells_how_pairs_are_related():
    found = evaluate(Numbers(), Pairs(100), ["nli"], train=Pairs())["nli"]
    assert found["top1"] > 0.9
    assert found["chance_top1"] == pytest.approx(1 / 3)
    assert (found["n"], found["n_train"]) == (45, 45)
    alone = evaluate(Numbers(), Pairs(), ["nli"])["nli"]
    assert (alone["n"], alone["n_train"]) == (9, 36)


def test_reports_have_pairs():
    source = open_source("reports:inference=true:count=30")
    found = evaluate(Words(), source, ["nli"])["nli"]
    assert found["n"] == 6


class Words:
    """Embeds by length."""

    name = "words"

    def embed_texts(self, texts):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_other_classes_are_refused():
    with pytest.raises(InputError, match="has the classes"):
        evaluate(Numbers(), Pairs(), ["nli"], train=Pairs(classes=("yes", "maybe", "no")))
