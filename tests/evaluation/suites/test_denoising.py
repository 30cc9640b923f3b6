"""How well noise is predicted: errors with own and with other texts."""

import pytest
import torch
from tests.evaluation.helpers import Fake, Rows, row, vectors

from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.denoising import others


class Predictor(Fake):
    """Errs by a quarter of the difference of the numbers that image and text have."""

    def noise_error(self, images, texts, *, batch_size):
        said = torch.tensor([int(text.split()[-1]) for text in texts])
        return (self.numbers(images) - said).abs() / 4


def test_errors_with_own_and_other_texts():
    source = Rows([row(f"k{number}", number, f"number {number}") for number in range(4)])
    found = evaluate(Predictor(vectors(4)), source, ["denoising"])["denoising"]
    assert (found["error"], found["explained"], found["chance_explained"]) == (0.0, 1.0, 0.0)
    assert found["other_error"] == pytest.approx((1 + 1 + 1 + 3) / 16)
    assert (found["n"], found["bad"]) == (4, {})


def test_the_other_text_is_the_next_that_differs():
    assert others(["a", "b", "b", "c", "a"]) == {"a": "b", "b": "c", "c": "a"}
    assert others(["a", "a"]) == {"a": "a"}


def test_what_is_returned_does_not_hang_on_the_batch():
    source = Rows([row(f"k{number}", number, f"number {number % 3}") for number in range(5)])
    model = Predictor(vectors(5))
    whole, parts = (
        evaluate(model, source, ["denoising"], batch_size=size)["denoising"] for size in (5, 2)
    )
    assert whole["other_error"] == parts["other_error"] == pytest.approx((1 + 1 + 2 + 2 + 2) / 20)
    assert whole["n"] == parts["n"] == 5


def test_a_model_that_predicts_no_noise_is_refused():
    source = Rows([row("k", 0, "number 0")])
    with pytest.raises(InputError, match="needs a model with noise_error.*diptych train denoise"):
        evaluate(Fake(vectors(1)), source, ["denoising"])
