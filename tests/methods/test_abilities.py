"""Abilities: what a model lacks is said with the methods that bring it."""

import re

import pytest

from diptych import evaluation
from diptych.errors import InputError
from diptych.methods.abilities import ABILITIES, able_methods, require
from diptych.methods.registry import cards


class Blind:
    def embed_texts(self):
        """It embeds texts alone."""


@pytest.mark.parametrize(
    ("ability", "remedy"),
    [
        ("detect", "train one with `diptych train cones --preset detect`"),
        ("generate", "train one with .*close` or .*language_model`"),
        ("embed_regions", "train one with `diptych train clim --init MODEL`"),
        (
            "predict",
            "train one with `diptych fit MODEL SOURCE --target LABEL --out RUN` or .*survival",
        ),
        ("unheard_of", "name another model"),
    ],
)
def test_a_missing_ability_names_the_methods_that_have_it(ability, remedy):
    with pytest.raises(
        InputError, match=f"^a search needs a model with {ability}, which Blind has not; .*"
    ):
        require(Blind(), ability, "a search")
    with pytest.raises(InputError, match="which runs/one has not"):
        require(Blind(), ability, "a search", "runs/one")
    assert re.search(remedy, able_methods(ability))


def test_a_model_with_the_ability_passes():
    require(Blind(), "embed_texts", "a search")


def test_abilities_of_cards_are_known():
    notes = [*(card.notes for card in cards().values()), *evaluation.cards().values()]
    given = {ability for note in notes for ability in note.get("abilities", ())}
    assert given - {"preprocess", "tokenizer"} <= ABILITIES  # which are parts of a model
