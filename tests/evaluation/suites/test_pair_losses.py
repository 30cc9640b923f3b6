"""The losses of pairs that were not trained on: by hand, over batches, and of models that cannot have them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Dot, Fake, Rows

from diptych.data.sample import Sample, Text
from diptych.errors import InputError
from diptych.evaluation import evaluate


class Scaled(Fake):
    """A model with a multiplier, which writes with words of one token."""

    tokenizer = SimpleNamespace(
        lost=lambda text: max(0, len(text.split()) - 3),
        ids=lambda text: text.split(),
        after=("end",),
    )

    def __init__(self, vectors, scale=5.0):
        super().__init__(vectors)
        self.encoder = SimpleNamespace(logit_scale=lambda: torch.tensor(scale))

    def log_prob(self, images, texts, *, batch_size):
        return torch.tensor([-float(len(text.split()) + 1) * 2 for text in texts])


def pairs(count, texts=lambda at: [f"number {at}"]):
    return Rows(
        [
            Sample(key=str(at), source="dots", images={"main": Dot(at)},
                   texts=[Text(text=text) for text in texts(at)])
            for at in range(count)
        ]
    )  # fmt: skip


def run(model, source, **settings):
    return evaluate(model, source, ["pair_losses"], **settings)["pair_losses"]


def test_the_losses_by_hand():
    vectors = np.array([[1.0, 0.2, 0], [0.1, 1, 0], [0, 0.3, 1]], np.float32)
    model = Scaled(vectors)
    found = run(model, pairs(3))
    cosines = (5.0 * model.vectors @ model.vectors.T).double()
    by_hand = 0.0
    for table in (cosines, cosines.T):
        for row in range(3):
            by_hand -= float(table[row, row] - table[row].exp().sum().log()) / 6
    assert found["contrastive"] == pytest.approx(by_hand, rel=1e-5)
    assert found["chance_contrastive"] == pytest.approx(math.log(3), rel=1e-6)
    assert found["caption"] == pytest.approx(2.0)  # by token, ends included
    assert (found["n"], found["n_captions"]) == (3, 3)


def test_batches_have_at_most_64_pairs():
    model = Scaled(np.ones((130, 3), np.float32))
    found = run(model, pairs(130))
    sizes = [44, 43, 43]
    chance = sum(size * math.log(size) for size in sizes) / 130
    assert found["chance_contrastive"] == pytest.approx(chance, rel=1e-6)
    assert found["contrastive"] == pytest.approx(chance, rel=1e-4)  # all vectors are equal
    assert run(model, pairs(130), batch_size=7)["contrastive"] == pytest.approx(chance, rel=1e-4)


def test_a_text_of_each_image_is_drawn_by_the_seed():
    model = Scaled(np.eye(8, dtype=np.float32))
    source = pairs(8, lambda at: [f"number {at}", "number 0"])
    values = {run(model, source, seeds=[seed])["contrastive"] for seed in range(4)}
    assert len(values) > 1
    assert run(model, source, seeds=[1]) == run(model, source, seeds=[1], batch_size=3)


def test_texts_above_the_context_have_no_caption_loss():
    model = Scaled(np.eye(4, dtype=np.float32))
    found = run(model, pairs(4, lambda at: [f"number {at}" + " word" * 2 * (at % 2)]))
    assert (found["n"], found["n_captions"]) == (4, 2)
    assert found["caption"] == pytest.approx(2.0)
    found = run(model, pairs(2, lambda at: [f"a long text of number {at}"]))
    assert "caption" not in found


def test_models_without_a_multiplier():
    with pytest.raises(InputError, match="needs the multiplier of cosines"):
        run(Fake(np.eye(2, dtype=np.float32)), pairs(2))
    with pytest.raises(InputError, match="unknown role"):
        run(Scaled(np.eye(2, dtype=np.float32)), pairs(2), role="long")
