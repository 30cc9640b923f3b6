"""Affect: a model whose values are known."""

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.methods.fuse.sevlm_helpers import made, saved

from diptych.data.emotions import DIMENSIONS
from diptych.data.sample import Field, Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate

FIELDS = {
    "texts.caption": Field(kind="text"),
    **{f"labels.{name}": Field(kind="float") for name in DIMENSIONS},
}
RATED = {
    "golden skies": (4.0, 3.0, 3.5),
    "the dark storm": (1.5, 4.5, 2.0),
    "wide and calm": (4.2, 1.5, 3.1),
    "it is odd": (2.5, 3.0, 2.9),
    "because of the red": (3.1, 3.5, 3.0),
}


def source(rated=RATED):
    rows = [
        Sample(
            key=text,
            source="",
            texts=[Text(text=text)],
            labels=dict(zip(DIMENSIONS, ratings, strict=True)),
        )
        for text, ratings in rated.items()
    ]
    return Rows(rows, fields=FIELDS)


class Known:
    """Gives texts the values of a table, in batches of any size."""

    name = "known"
    precision = "float32"

    def __init__(self, values):
        self.values = values

    def affect(self, texts):
        return torch.tensor([self.values.get(text, (np.nan,) * 3) for text in texts])


def judged(values, **settings):
    return evaluate(Known(values), source(), ["affect"], **settings)["affect"]


def test_peoples_own_values_on_another_scale_correlate_fully():
    found = judged({text: [(v - 3) / 2 for v in row] for text, row in RATED.items()}, batch_size=2)
    assert (found["n"], found["known"]) == (5, 1.0)
    assert found["mean_r"] == pytest.approx(1, abs=1e-6)
    assert found["chance_mean_r"] == 0
    turned = judged({text: [-v for v in row] for text, row in RATED.items()})
    assert turned["by_dimension"]["arousal"]["r"] == pytest.approx(-1, abs=1e-6)


def test_texts_without_values_are_left_out_and_counted():
    values = {"golden skies": (1, 0, 0), "the dark storm": (0, 1, 0), "it is odd": (0, 0, 1)}
    values |= {"wide and calm": (0.5, 0, 1)}
    found = judged(values)
    assert found["known"] == 0.8
    people = np.array([RATED[text] for text in values])
    for column, name in enumerate(DIMENSIONS):
        given = [row[column] for row in values.values()]
        r = np.corrcoef(given, people[:, column])[0, 1]
        row = found["by_dimension"][name]
        assert row["r"] == pytest.approx(r)
        assert row["low"] < row["r"] < row["high"]
    with pytest.raises(InputError, match="gives affect to 1 of 5 texts"):
        judged({"golden skies": (1, 0, 0)})


def test_a_trained_model_gives_texts_the_means_of_their_words(tmp_path):
    method = made().float()
    model = saved(method, tmp_path / "run")
    lexicon = method.model.lm.lexicon
    words = ["golden", "calm", "dark"]
    ids = [method.model.phrasing.ids(word) for word in words]
    assert all(len(row) == 1 for row in ids)
    golden, calm, dark = (lexicon[row[0]].double() for row in ids)
    texts = ["golden because calm", "dark", "if", "", "calm " * 60]
    found = model.affect(texts)
    assert torch.allclose(found[0], (golden + calm) / 2)
    assert torch.allclose(found[1], dark)
    assert found[2:4].isnan().all()
    assert torch.allclose(found[4], calm)
    assert model.affect([]).shape == (0, 3)
    assert evaluate(model, source(), ["affect"])["affect"]["known"] > 0.5


def test_models_without_affect_are_refused():
    with pytest.raises(InputError, match="affect needs a model with affect"):
        evaluate(object(), source(), ["affect"])
    method = made(lexicon=None)
    model = method.model.to_model(method.make.tokenizer, method.model.image.preprocess, "m")
    with pytest.raises(InputError, match="was trained without a lexicon"):
        model.affect(["calm"])
