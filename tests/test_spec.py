"""Options against the annotations of their dataclass: types, choices and bounds, from Python and
the command line."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import InputError
from diptych.methods.base import Method, Recipe
from diptych.methods.registry import cards, method_class
from diptych.spec import Above, AtLeast, AtMost, Below, annotations, choices, configure, fits
from diptych.training.options import Options


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: Annotated[float, Above(0), Below(1)] = 0.5
    count: Annotated[int, AtLeast(1), AtMost(9)] | None = None
    way: Literal["mean", "sum"] = "mean"
    betas: tuple[float, Annotated[float, Below(1)]] = (0.9, 0.9)
    words: tuple[str, ...] = ()
    table: Any = None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "'rate' of it is 0.0; it must be a number above 0 and below 1"),
        ({"rate": 1}, "'rate' of it is 1"),
        ({"rate": float("nan")}, "'rate' of it is nan"),
        ({"rate": True}, "'rate' of it is True"),
        ({"count": 0}, "'count' of it is 0; it must be a whole number from 1 to 9 or null"),
        ({"count": 10}, "'count' of it is 10"),
        ({"count": 2.0}, "'count' of it is 2.0"),
        (
            {"way": "medain"},
            "'way' of it is 'medain'; it must be mean or sum; did you mean 'mean'?",
        ),
        ({"way": ["mean"]}, "must be mean or sum"),
        ({"betas": (0.9,)}, r"must be \[a number, a number below 1\]"),
        ({"betas": 0.9}, "'betas' of it is 0.9"),
        ({"betas": [0.9, 1.0]}, "'betas' of it is"),
        ({"words": "pet"}, "'words' of it is 'pet'"),
        ({"cuont": 1}, "did you mean 'count'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_bound(options, message):
    with pytest.raises(InputError, match=message):
        configure(Config, options, "it")


def test_what_fits_is_taken():
    given = {
        "rate": 0.1,
        "count": None,
        "way": "sum",
        "betas": [0.9, 0.5],
        "words": ["a"],
        "table": object(),
    }
    assert configure(Config, given, "it").way == "sum"


@given(
    value=st.floats() | st.integers() | st.text() | st.none() | st.lists(st.integers(), max_size=2)
)
def test_any_value_is_taken_or_refused(value):
    assert fits(value, annotations(Config)["rate"]) in (True, False)
    assert fits(value, annotations(Config)["betas"]) in (True, False)


def test_numbers_beyond_a_float_are_refused():
    assert not fits(10**400, float)
    assert fits(10**400, int)


def _methods() -> list[str]:
    return [
        name
        for name, card in cards().items()
        if card.kind == "method" and issubclass(method_class(name), Method)
    ]


def _words() -> list[tuple[str, str]]:
    """All options of all methods that take one of a few words."""
    return [
        (name, field)
        for name in _methods()
        for field, hint in annotations(method_class(name).Config).items()
        if choices(hint)
    ]


@pytest.mark.parametrize(("name", "field"), _words())
def test_a_word_that_no_method_knows_is_refused_from_python(name, field):
    with pytest.raises(InputError, match=f"'{field}' of method .* is 'nonsense'; it must be "):
        method_class(name).configure({field: "nonsense"})


def test_presets_keep_the_bounds_of_their_methods():
    for name in _methods():
        for preset in method_class(name).presets.values():
            if name != "distill_clip":  # which needs a teacher
                method_class(name).configure(preset.config)


RECIPE = {
    "lr": 0.0,
    "betas": (0.9, 1.0),
    "eps": -1e-9,
    "weight_decay": -0.1,
    "warmup": -0.1,
    "min_lr": -0.1,
    "epochs": 0.0,
    "steps": 0,
    "batch_size": 0,
    "clip": -1.0,
    "ema": 1.0,
    "precision": "float16",
    "chunk": 0,
    "patience": 0,
    "keep": "first",
}
OPTIONS = {"workers": -1, "max_bad": -0.1, "save_every": 0, "nonfinite": "go on", "spike": 1.0, "forget": -0.1,
           "tracker": "mlflow"}  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [(Recipe, *item) for item in RECIPE.items()] + [(Options, *item) for item in OPTIONS.items()],
)
def test_recipes_and_options_are_checked_however_they_are_made(cls, field, value):
    message = f"'{field}' of .* is .*; it must be "
    with pytest.raises(InputError, match=message):
        cls(**{field: value})
    with pytest.raises(InputError, match=message):
        configure(cls, {field: value}, "the run")


def test_every_number_of_the_recipe_has_a_bound():
    free = {"optimizer", "schedule", "select"}
    assert {item.name for item in fields(Recipe)} == RECIPE.keys() | free
    assert {item.name for item in fields(Options)} == OPTIONS.keys() | {"seed", "shard", "quiet"}
