"""Prompts of classes as text: matched by name, saved as plain values, embedded by any encoder."""

import json
import logging

import pytest
import torch
from tests.factories import tokenizer

import diptych
from diptych.errors import InputError
from diptych.models.class_prompts import ClassPrompts, cut

UNITS = {"house_cat": (("cat", "it is red."), ("kitten", "")), "Bus": (("bus", ""),)}
FOUND = ClassPrompts(("a {}", "one {}."), UNITS)


def test_units_go_by_the_names_of_the_data_and_templates_fit_any():
    matched = FOUND.for_classes(["bus", "House Cat"])
    assert dict(matched.units) == {"bus": UNITS["Bus"], "House Cat": UNITS["house_cat"]}
    assert matched.of("bus") == ("a bus", "one bus.")
    free = ClassPrompts(("a {}",))
    assert free.for_classes(["anything"]) is free


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["bus"], r"they have house_cat besides, and lack none"),
        (["bus", "house cat", "dog", "key"], r"they have none besides, and lack dog, key"),
        (["bus", "dog"], r"they have house_cat besides, and lack dog; .*:classes=NAME\+NAME"),
    ],
)
def test_other_classes_are_refused_by_name_with_the_remedy(names, said):
    with pytest.raises(InputError, match=said):
        FOUND.for_classes(names)


def test_plain_values_give_the_same_prompts():
    again = ClassPrompts.from_dict(json.loads(json.dumps(FOUND.to_dict())))
    assert again == FOUND
    assert again.digest() == FOUND.digest() != ClassPrompts(FOUND.templates).digest()
    with pytest.raises(InputError, match="must hold {} once"):
        ClassPrompts.from_dict({"templates": ["a cat"], "prompts": {}})


def test_class_embeddings_are_unit_vectors_in_the_order_of_the_names():
    tiny = diptych.load("tiny")
    found = FOUND.features(tiny.encoder, tiny.tokenizer, ["Bus", "house_cat"])
    expected = torch.nn.functional.normalize(tiny.embed_texts(FOUND.of("Bus")).mean(0), dim=0)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert not found.requires_grad


def test_prompts_that_the_context_cuts_are_counted(caplog):
    words = tokenizer()
    assert cut(words, ["red", "red"]) == ""
    long = "red circle " * words.context
    assert cut(words, ["red", long, long]).startswith("1 of 2 prompts are longer")
    tiny = diptych.load("tiny")
    with caplog.at_level(logging.WARNING):
        ClassPrompts(("a {} " + "red " * 80,)).features(tiny.encoder, tiny.tokenizer, ["cat"])
    assert "1 of 1 prompts are longer than the context of 64" in caplog.text
