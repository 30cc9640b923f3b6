"""The suite of all weights between two models: its ends, its middle, the model as it was
afterwards."""

import copy

import pytest
import torch

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.wise import _between, wise
from diptych.methods.store import load

SOURCE = "scenes:number=1:styles=seen:seed=7:split=val:count=40:texts=caption"


@pytest.fixture(scope="module")
def models():
    """`tiny`, and one whose image tower went astray."""
    before, after = load("tiny"), load("tiny")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in after.encoder.image.parameters():
            parameter.add_(0.3 * parameter.std(correction=0) * torch.randn_like(parameter))
    return before, after


def test_its_ends_are_the_two_models_and_the_model_is_left_as_it_was(models):
    before, after = models
    source, state = open_source(SOURCE), copy.deepcopy(after.encoder.state_dict())
    ends = [evaluate(model, source, ["zeroshot"])["zeroshot"]["top1"] for model in models]
    found = evaluate(after, source, ["wise"], earlier=[before], alphas=(0.0, 0.5, 1.0))["wise"]
    means = [row["mean"] for row in found["by_alpha"].values()]
    assert [means[0], means[2]] == ends
    assert ends[0] > ends[1]
    assert found["best"] == max(means)
    assert found["alpha"] in (0.0, 0.5)
    assert all(
        torch.equal(value, state[name]) for name, value in after.encoder.state_dict().items()
    )


def test_each_source_has_its_own_column(models):
    two = open_source(
        f"{SOURCE},scenes:number=1:styles=neon:seed=8:split=val:count=30:texts=caption"
    )
    found = wise(models[1], two, earlier=[models[0]], alphas=(0.0, 1.0))
    assert [len(row) for row in found["by_alpha"].values()] == [3, 3]
    for row in found["by_alpha"].values():
        assert row["mean"] == pytest.approx(
            sum(value for name, value in row.items() if name != "mean") / 2
        )


def test_weights_lie_between(models):
    name = "image_projection.weight"
    low, high = (model.encoder.state_dict()[name].clone() for model in models)
    with _between(models[1], models[0]) as mix:
        mix(0.25)
        torch.testing.assert_close(models[1].encoder.state_dict()[name], 0.75 * low + 0.25 * high)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one earlier one, not 0; name it with --earlier"),
        ({"earlier": ["tiny"], "alphas": (2.0,)}, "give shares from 0"),
        ({"earlier": ["tiny"], "measure": "wise.best"}, "unknown suite to measure by 'wise'"),
    ],
)
def test_bad_input_is_named(models, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate(models[1], open_source(SOURCE), ["wise"], **settings)


def test_other_towers_are_refused(models):
    other = load("tiny")
    other.encoder.image_projection = torch.nn.Linear(3, 2)
    with pytest.raises(InputError, match="have other towers"):
        evaluate(models[1], open_source(SOURCE), ["wise"], earlier=[other])
