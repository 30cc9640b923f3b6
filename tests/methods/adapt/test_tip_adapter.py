"""Tip-Adapter: the cache's votes against loops, names without votes, what is kept, and the tuned
form."""

import math

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import filled, learnt, method

from diptych.errors import InputError
from diptych.methods.adapt.tip_adapter import ALPHAS, BETAS


def test_votes_are_those_of_a_loop():
    made, _ = filled(alpha=2.0, beta=3.0)
    model, classes = made.model, len(made.model.classes)
    with torch.no_grad():
        found = model(random_images()).double()
        images, texts = (
            model.encoder.embed_images(random_images()).double(),
            model.text_features().double(),
        )
        keys = model.keys.double()
    for row, image in enumerate(images):
        for c in range(classes):
            votes = sum(
                math.exp(-3.0 * (1 - float(image @ key)))
                for i, key in enumerate(keys)
                if int(model.owners[i]) == c
            )
            expected = float(model.encoder.logit_scale()) * float(image @ texts[c]) + 2.0 * votes
            assert float(found[row, c]) == pytest.approx(expected, abs=1e-3)


def test_the_cache_holds_the_vectors_of_the_images_in_order():
    made, source = filled()
    view = made.views(made.stages()[0])[0]
    with torch.no_grad():
        for at in (0, 4):
            pixels = next(iter(view(source[at], None, None).values()))
            pixels = torch.as_tensor(
                pixels.pixels if hasattr(pixels, "pixels") else pixels
            ).reshape(1, 3, 32, 32)
            torch.testing.assert_close(
                made.model.keys[at], made.model.encoder.embed_images(pixels)[0]
            )


def test_names_that_were_not_trained_have_no_votes():
    made, _ = filled()
    trained = made.model.classes
    with torch.no_grad():
        before = made.model(random_images())
        made.model.set_classes([trained[2], "violin"])
        after = made.model(random_images())
        plain = (
            made.model.encoder.logit_scale()
            * made.model.encoder.embed_images(random_images())
            @ made.model.text_features().T
        )
    torch.testing.assert_close(after[:, 0], before[:, 2])
    torch.testing.assert_close(after[:, 1], plain[:, 1])


def test_no_weight_on_the_votes_is_zero_shot():
    made, _ = filled(alpha=0.0)
    with torch.no_grad():
        plain = (
            made.model.encoder.logit_scale()
            * made.model.encoder.embed_images(random_images())
            @ made.model.text_features().T
        )
        torch.testing.assert_close(made.model(random_images()), plain)


def test_a_image_does_not_vote_for_itself_when_the_cache_is_judged():
    made, _ = filled(count=5, alpha=50.0)
    loss, _ = made.without_itself()
    model, losses = made.model, []
    with torch.no_grad():
        texts = model.text_features()
        for i in range(5):
            logits = model.encoder.logit_scale() * texts @ model.keys[i]
            for k in range(5):
                if k != i:
                    logits[model.owners[k]] += 50.0 * torch.exp(
                        -5.5 * (1 - model.keys[i] @ model.keys[k])
                    )
            losses.append(-float(logits.log_softmax(0)[model.owners[i]]))
    assert loss == pytest.approx(sum(losses) / 5, rel=1e-4)


def test_none_is_the_pair_that_classifies_most_cached_images_without_their_own_votes():
    made, _ = filled(count=9, alpha=None, beta=None)
    model = made.model
    chosen = (model.alpha, model.beta)
    hits = {}
    for beta in BETAS:
        for alpha in ALPHAS:
            model.alpha = alpha
            model.beta = beta
            hits[alpha, beta] = made.without_itself()[1]
    best = max(hits.values())
    assert hits[chosen] == best > min(hits.values())
    assert chosen == next(pair for pair, value in hits.items() if value == best)
    half, _ = filled(count=9, alpha=None, beta=10.0)
    assert half.model.beta == 10.0
    model.alpha, model.beta = chosen
    fresh = method("tip_adapter", classes=("other",), alpha=None, beta=None)
    fresh.model.load_extra_state(model.extra_state())
    assert (fresh.model.alpha, fresh.model.beta) == chosen


def test_the_cache_alone_is_trained_and_only_where_it_is_tuned():
    assert learnt(filled()[0]) == 0
    made, _ = filled(count=7, tune=True)
    assert learnt(made) == 7 * 32
    assert [stage.name for stage in made.stages()] == ["cache", "tune"]


def test_a_cache_is_made_again_from_what_is_remembered():
    made, _ = filled()
    fresh = method("tip_adapter", classes=("other",))
    fresh.model.load_extra_state(made.model.extra_state())
    fresh.model.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.model(random_images()), made.model(random_images()))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="3 has no class; take it out"):
        filled(lost=(3,))
    with pytest.raises(InputError, match="'beta' of method TipAdapter is -1.0"):
        method("tip_adapter", beta=-1.0)
