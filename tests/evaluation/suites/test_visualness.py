"""The suite visualness: the published number, what says which texts are visual, thresholds, and the
protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.data.sample import Field
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.visualness import labelled, report
from diptych.metrics import best_threshold


def test_the_macro_f1_of_the_sheets_table():
    scores = np.concatenate([np.ones(450), np.zeros(67), np.ones(120), np.zeros(808)])
    visual = np.concatenate([np.ones(517), np.zeros(928)])
    found = report(scores, visual, 0.5)
    assert found["macro_f1"] == pytest.approx(0.862125, abs=1e-6)
    assert found["accuracy"] == pytest.approx((450 + 808) / 1445)
    assert found["macro_precision"] == pytest.approx((450 / 570 + 808 / 875) / 2)
    assert found["macro_recall"] == pytest.approx((450 / 517 + 808 / 928) / 2)
    assert found["chance_accuracy"] == pytest.approx(928 / 1445)
    assert set(report(scores, visual)) == {"auroc", "chance_auroc"}


class Nulled(Fake):
    """A model whose NULL image is the dot 9."""

    threshold = None
    null = torch.tensor([9, 0, 0], dtype=torch.uint8).view(3, 1, 1)


def source(label="label"):
    visual = [True, False, True, False, True, False, False, True]
    samples = [
        replace(row(str(at), at, f"text {at}"), labels={label: int(yes)})
        for at, yes in enumerate(visual)
    ]
    samples = [
        one if yes else replace(one, images={}) for one, yes in zip(samples, visual, strict=True)
    ]
    return rows(samples, label), visual


def rows(samples, label="label"):
    return Rows(samples, fields={f"labels.{label}": Field(kind="int")})


def test_scores_are_told_by_the_models_null_image():
    data, visual = source()
    model = Nulled(vectors(0))
    scores = 1 - (model.vectors[:8] @ model.vectors[9]).numpy()
    found = evaluate(model, data, ["visualness"], train=data)["visualness"]
    best = best_threshold(scores, np.array(visual))
    assert found["threshold"] == pytest.approx(best)
    assert found["auroc"] == pytest.approx(report(scores, np.array(visual))["auroc"])
    assert found["macro_f1"] == pytest.approx(report(scores, np.array(visual), best)["macro_f1"])
    assert (found["n"], found["visual"]) == (8, 4)
    model.threshold = float(np.median(scores))
    own = evaluate(model, data, ["visualness"])["visualness"]
    assert own["threshold"] == model.threshold
    assert own["protocol"] != found["protocol"]


def test_without_a_threshold_only_what_needs_none_is_told():
    data, _ = source()
    model = Fake(vectors(0, count=256))  # which has no NULL image of its own
    found = evaluate(model, data, ["visualness"])["visualness"]
    assert "auroc" in found
    assert not {"macro_f1", "threshold", "accuracy"} & set(found)


def test_visual_is_what_a_label_calls_so_or_what_has_a_image():
    data, visual = source()
    assert labelled(data)[1].tolist() == visual
    for label, named in (("visual", None), ("kind", "kind")):
        renamed, _ = source(label)
        assert labelled(renamed, label=named)[1].tolist() == visual
    bare, _ = source("other")
    assert labelled(bare)[1].tolist() == visual  # by the images
    unsure = rows(
        [replace(each, labels={"label": -1}) if each.key == "3" else each for each in data.samples]
    )
    found = evaluate(Nulled(vectors(0)), unsure, ["visualness"])["visualness"]
    assert (found["n"], found["bad"]) == (7, {"no-label": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "labl"}, "did you mean 'label'"),
        ({"role": "web"}, "unknown role"),
        ({"train": Rows([]), "label": "label"}, "unknown label"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_computed(settings, message):
    data, _ = source()
    model = Nulled(vectors(0))
    with pytest.raises(InputError, match=message):
        evaluate(model, data, ["visualness"], **settings)
    assert not model.seen


def test_texts_of_one_kind_are_refused():
    data, _ = source()
    with pytest.raises(InputError, match="4 of 4 texts are visual"):
        evaluate(
            Nulled(vectors(0)),
            rows([each for each in data.samples if each.labels["label"]]),
            ["visualness"],
        )
