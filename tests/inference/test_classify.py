"""Naming images: the likeliest classes in order, by any model that has class_logits."""

from collections import Counter

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.errors import InputError
from diptych.inference.classify import counts, likeliest, name_images


class Judge(Fake):
    """Class c gets the c-th number of an image's vector."""

    classes = ("ash", "birch", "cedar", "elm", "fir", "oak")

    def class_logits(self, images, *, batch_size):
        return 3 * self.vectors[self.numbers(images)]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_classes_are_those_of_the_largest_logits(batch_size):
    source = Rows([row(f"k{i}", i, f"t {i}", damage="cut" if i == 2 else "") for i in range(7)])
    model = Judge(vectors(0))
    found, bad = name_images(model, source, k=2, batch_size=batch_size)
    assert bad == Counter(cut=1)
    assert [each.key for each in found] == [f"k{i}" for i in range(7) if i != 2]
    for each in found:
        logits = 3 * model.vectors[int(each.key[1:])].numpy().astype(np.float64)
        share = np.exp(logits) / np.exp(logits).sum()
        order = np.argsort(-share)[:2]
        assert [name for name, _ in each.classes] == [model.classes[at] for at in order]
        assert [value for _, value in each.classes] == pytest.approx(
            share[order].tolist(), abs=1e-5
        )
    assert counts(found) == dict(Counter(each.classes[0][0] for each in found))


def test_no_more_classes_are_told_than_there_are():
    assert likeliest(torch.zeros(1, 2), ("a", "b"), 5) == [(("a", 0.5), ("b", 0.5))]


class Guide(Judge):
    """Routes each image by the sign of its first number."""

    def route(self, images, *, batch_size):
        return [
            (("up" if self.vectors[at][0] > 0 else "down", 1.0),) for at in self.numbers(images)
        ]


def test_groups_are_told_where_they_are_asked_for():
    source = Rows([row(f"k{i}", i, f"t {i}", damage="cut" if i == 1 else "") for i in range(5)])
    model = Guide(vectors(0))
    found, _ = name_images(model, source, route=True, batch_size=2)
    assert [each.groups[0][0] for each in found] == [
        "up" if model.vectors[int(each.key[1:])][0] > 0 else "down" for each in found
    ]
    assert len({each.groups[0][0] for each in found}) == 2
    assert all(each.groups == () for each in name_images(model, source)[0])
    with pytest.raises(InputError, match="groups of prompts needs a model with route"):
        name_images(Judge(vectors(0)), source, route=True)


def test_a_model_that_names_nothing_is_refused():
    with pytest.raises(InputError, match="class_logits"):
        name_images(Fake(vectors(0)), Rows([row("a", 1, "t")]))
