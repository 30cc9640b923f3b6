"""Classifiers by prompt sets: means of unit vectors, saved as text, new names in the templates
alone."""

import json
import logging

import pytest
import torch
from torch.nn.functional import normalize

import diptych
from diptych.errors import InputError
from diptych.methods.adapt.proapo.prompt_sets import PromptSets

UNITS = {"cat": (("cat", "it is red."), ("kitten", ""), ("kitten", "two.")), "bus": (("bus", ""),)}
PROMPTS = {
    "cat": (
        "a cat it is red.",
        "one cat. it is red.",
        "a kitten",
        "one kitten.",
        "a kitten two.",
        "one kitten. two.",
    ),
    "bus": ("a bus", "one bus."),
    "house": ("a house", "one house."),
}


@pytest.fixture(scope="module")
def tiny():
    return diptych.load("tiny")


@pytest.fixture
def sets(tiny):
    made = PromptSets(tiny.encoder, tiny.tokenizer)
    made.choose(["a {}", "one {}."], UNITS)
    return made


def slow(tiny, prompts):
    """One class, one text at a time."""
    each = [tiny.embed_texts(prompt)[0] for prompt in prompts]
    return normalize(sum(vector / vector.norm() for vector in each) / len(each), dim=0)


def test_a_class_embedding_is_the_mean_direction_of_any_number_of_prompts(sets, tiny):
    names = ["bus", "house", "cat"]
    sets.set_classes(names)
    assert [sets.prompts.of(name) for name in names] == [PROMPTS[name] for name in names]
    torch.testing.assert_close(
        sets.text_features(), torch.stack([slow(tiny, PROMPTS[name]) for name in names])
    )
    sets.choose(["one {}.", "a {}"], {"cat": UNITS["cat"][::-1]})
    torch.testing.assert_close(
        sets.text_features()[2], slow(tiny, PROMPTS["cat"])
    )  # their order does not matter


def test_it_is_saved_as_text_and_loaded(sets, tiny):
    sets.set_classes(["bus", "cat"])
    fresh = PromptSets(tiny.encoder, tiny.tokenizer)
    fresh.load_extra_state(json.loads(json.dumps(sets.extra_state())))
    assert fresh.classes == ("bus", "cat")
    assert torch.equal(fresh.text_features(), sets.text_features())
    assert fresh.extra_state() == sets.extra_state()


def test_models_with_other_prompts_or_classes_have_other_identities(tiny):
    def identity(templates, units, classes, renamed=()):
        made = PromptSets(tiny.encoder, tiny.tokenizer)
        made.choose(templates, units)
        made.set_classes(classes)
        model = made.to_model(tiny.tokenizer, tiny.preprocess, "toy")
        if renamed:
            model.set_classes(renamed)
        return model.identity

    given = (["a {}"], UNITS, ["bus", "cat"])
    assert identity(*given) == identity(*given) == identity(*given, renamed=["house"])
    others = {
        identity(["one {}."], UNITS, ["bus", "cat"]),
        identity(["a {}"], {**UNITS, "cat": (("cat", "it is blue."),)}, ["bus", "cat"]),
        identity(["a {}"], UNITS, ["cat", "bus"]),
    }
    assert len(others | {identity(*given), tiny.identity}) == 5


def test_a_warning_names_classes_without_sentences(sets, caplog):
    with caplog.at_level(logging.WARNING):
        sets.set_classes(["cat", "bus"])
        assert not caplog.messages
        sets.set_classes(["cat", "house", "key"])
    [warning] = caplog.messages
    assert (
        warning
        == "no sentences were chosen for house, key (2 of 3 classes): the name stands in the templates alone"
    )
    sets.choose(["a {}"])
    caplog.clear()
    sets.set_classes(["house"])
    assert not caplog.messages  # no class has units of its own


def test_class_embeddings_are_computed_once_and_anew_for_other_classes(sets, monkeypatch):
    sets.set_classes(["cat", "bus"])
    first = sets.text_features()
    assert sets.text_features() is first
    sets.set_classes(["bus", "cat"])
    assert torch.equal(sets.text_features(), first.flip(0))


def test_class_embeddings_from_inference_mode_take_part_in_a_backward_pass(sets):
    sets.set_classes(["cat", "bus"])
    with torch.inference_mode():
        sets.text_features()
    x = torch.randn(1, 192, requires_grad=True)
    (x @ sets.text_features().T).sum().backward()
    assert x.grad is not None


def test_a_name_beyond_the_context_is_refused(sets):
    with pytest.raises(InputError, match="does not fit"):
        sets.set_classes(["very " * 80 + "long"])
