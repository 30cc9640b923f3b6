"""Concepts that are detected: rows and scores, regions of cells, other names."""

import pytest
import torch
from tests.factories import random_images
from tests.methods.adapt.helpers import method

from diptych.errors import InputError
from diptych.methods.adapt.cones.bank import TextSide
from diptych.methods.adapt.cones.detect import ConceptDetector, concept_scores
from diptych.models.detection import HeadConfig

NAMES = ("red circle", "blue square")


def grounding(names=NAMES, **how):
    made = method("coop")
    torch.manual_seed(0)
    encoder, tokenizer = made.model.encoder.eval(), made.model.tokenizer
    model = ConceptDetector(
        encoder, tokenizer, "a photo of a {}.", head=HeadConfig(width=32), **how
    ).eval()
    side = TextSide(model.encoder, model.tokenizer, model.template)
    if names:
        model.learn(side.concepts(names, "name", model.count))
    return model


def detector(**how):
    model = grounding(**how)
    return model.to_model(None, model.image.preprocess, "a detector")


def test_equal_rows_score_as_one():
    one, four = grounding(count=1), grounding(count=4)
    four.head.load_state_dict(one.head.state_dict())
    with torch.no_grad():
        one.bank.vectors.normal_(generator=torch.Generator().manual_seed(3))
        four.bank.vectors.copy_(one.bank.vectors.repeat_interleave(4, 0))
        vectors = one(random_images()).vectors
        (few, own), (many, owners) = one.logits(vectors), four.logits(vectors)
    assert many.shape[-1] == 4 * few.shape[-1] == 8
    torch.testing.assert_close(concept_scores(many, owners, 2), concept_scores(few, own, 2))


def test_scores_are_means_over_a_concepts_rows():
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    scores = concept_scores(logits, torch.tensor([0, 1, 1, 1]), 2)
    torch.testing.assert_close(scores[..., 0], logits[..., 0].sigmoid())
    torch.testing.assert_close(scores[..., 1], logits[..., 1:].sigmoid().mean(-1))


def test_gradients_reach_the_rows_and_nothing_of_the_text_tower():
    model = grounding()
    logits, _ = model.logits(model(random_images()).vectors)
    logits.square().sum().backward()
    assert model.bank.vectors.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.encoder.text.parameters())


def test_images_are_squashed_and_regions_told_for_each_cell():
    model = detector()
    assert model.preprocess.resize == "squash"
    regions = model.embed_regions(random_images())
    assert regions.boxes.shape == (4, 4, 4)
    assert regions.scores.shape == (4, 4, 2)
    assert regions.vectors.shape == (4, 4, 32)
    assert 0 <= regions.boxes.min() <= regions.boxes.max() <= 1
    found = model.detect(random_images(), score_threshold=0.0, nms_threshold=1.0)
    assert len(found) == 4
    assert all(len(each.scores) == 8 and bool((each.scores.diff() <= 0).all()) for each in found)


def test_other_names_are_found_by_the_text_tower_as_long_as_it_is_there():
    model = detector()
    learnt = model.embed_regions(random_images()).scores
    model.set_classes(["bar", "blue square"])
    mixed = model.embed_regions(random_images()).scores
    torch.testing.assert_close(mixed[..., 1], learnt[..., 1])
    model.delivered.leave_text()
    with pytest.raises(InputError, match="'bar' is no concept"):
        model.set_classes(["bar"])
    with pytest.raises(InputError, match="leave the templates out"):
        model.set_classes(["blue square"], ["a {}"])
    with pytest.raises(InputError, match="use detect"):
        model.class_logits(random_images())


def test_a_detector_without_classes_is_refused():
    with pytest.raises(InputError, match="knows no classes"):
        detector(names=()).embed_regions(random_images())
