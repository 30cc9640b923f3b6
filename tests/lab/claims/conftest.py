"""What the tests of claims share."""

import pytest

from diptych.training.config import resolve


@pytest.fixture
def brief(monkeypatch):
    """`brief(claim)` has a claim's runs take 3 steps of 16 samples: what its arms are made of does
    not hang on more."""

    def shorten(module):
        def short(*args, recipe, **options):
            return resolve(
                *args, recipe={**recipe, "epochs": 1, "steps": 3, "batch_size": 16}, **options
            )

        monkeypatch.setattr(module, "resolve", short)

    return shorten
