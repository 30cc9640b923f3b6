"""Scores of texts by the NULL image, and the threshold against all there are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from diptych.data.images import Preprocess, noise_image
from diptych.errors import InputError
from diptych.methods.adapt.visualness.model import VisualnessModel
from diptych.methods.store import load
from diptych.metrics import best_threshold

TEXTS = ["a small red cat on grass", "two blue keys", "nobody knows why", "a matter of principle"]


@given(
    scores=st.lists(st.integers(0, 6), min_size=2, max_size=14),
    flips=st.lists(st.booleans(), min_size=14, max_size=14),
)
def test_no_threshold_is_better_than_the_best(scores, flips):
    values, visual = np.array(scores) / 4, np.array(flips[: len(scores)])
    if visual.all() or not visual.any() or len(set(scores)) == 1:
        with pytest.raises(InputError):
            best_threshold(values, visual)
        return

    def f1(threshold):
        return f1_score(visual, values > threshold, average="macro", zero_division=0)

    found = best_threshold(values, visual)
    assert found not in values
    between = (np.unique(values)[1:] + np.unique(values)[:-1]) / 2
    assert f1(found) == pytest.approx(max(f1(each) for each in between))


def test_a_threshold_on_cosine_is_one_on_the_score():
    """As published: .79 and .83 are cosines of .21 and .17 to the NULL image."""
    cosines = np.array([0.2, 0.22, 0.16, 0.18])
    assert ((1 - cosines > 0.79) == (cosines < 0.21)).all()
    assert ((1 - cosines > 0.83) == (cosines < 0.17)).all()


@pytest.fixture
def model():
    return VisualnessModel.of(load("tiny"))


def test_the_score_is_one_less_the_cosine_to_the_null_image_and_no_length_changes_it(model):
    found = model.score(TEXTS)
    null = model.embed_images(noise_image(model.preprocess)[None])[0]
    torch.testing.assert_close(found, 1 - model.embed_texts(TEXTS) @ null)
    assert bool(((found >= 0) & (found <= 2)).all())
    assert model.score(TEXTS[0]).shape == (1,)
    with torch.no_grad():
        model.encoder.text_projection.weight *= 3  # of the vectors before they are made unit
    torch.testing.assert_close(model.score(TEXTS), found, atol=1e-5, rtol=1e-5)


def test_a_threshold_is_found_kept_or_given(model):
    with pytest.raises(InputError, match="has no threshold"):
        model.is_visual(TEXTS)
    assert model.threshold is None
    scores = model.score(TEXTS)
    assert model.is_visual(TEXTS, threshold=-1).all()
    highest = int(scores.argmax())
    threshold = model.calibrate(TEXTS, [at == highest for at in range(4)])
    assert model.threshold == threshold
    assert model.is_visual(TEXTS).tolist() == [at == highest for at in range(4)]
    with pytest.raises(InputError, match="4 texts and 1 truths"):
        model.calibrate(TEXTS, [True])
    with pytest.raises(InputError, match="0 of the 4 texts"):
        model.calibrate(TEXTS, [False] * 4)


def test_it_embeds_as_the_model_that_it_was_made_of_and_is_another(model):
    tiny = load("tiny")
    torch.testing.assert_close(model.embed_texts(TEXTS), tiny.embed_texts(TEXTS))
    assert model.identity != tiny.identity
    assert VisualnessModel.of(tiny, seed=1).identity != model.identity


def test_the_null_image_is_the_same_everywhere():
    """A model keeps its own, but other machines should give a new model the same one."""
    assert int(noise_image(Preprocess(size=224)).long().sum()) == 19_217_250
