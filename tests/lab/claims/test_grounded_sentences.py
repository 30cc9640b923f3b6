"""The claim on grounded sentences asks what it says: held-out pairs, the same tower, no image for text alone."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.pairs import ORIGIN, by_text
from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import grounded_sentences
from diptych.training.run import build_method


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=grounded_sentences.draw(trial))


def changed(trial, change):
    settings = grounded_sentences.settings_of(trial, 1e-3)
    method, _ = build_method(settings, grounded_sentences.words_of(settings))
    change(method)
    return method


def test_the_floor_is_of_the_arms_that_learn_to_be_similar():
    claim = block(find("grounded_sentences"))
    assert claim.floor.arms == ("grounded", "text_alone")
    assert claim.mechanism == ("permuted",)


def test_train_and_test_share_no_scene(trial):
    keys = {
        spec: set(open_source(spec).keys())
        for spec in (trial.prelude["train"], trial.prelude["tests"][""])
    }
    assert not set.intersection(*keys.values())


def test_permuted_captions_keep_their_number_and_lose_their_images(trial):
    method = changed(trial, grounded_sentences.permute)
    source = by_text(open_source(trial.prelude["train"]), "paraphrase")
    found = method.samples(method.stages()[1], "train", open_source(trial.prelude["train"]))
    assert sorted(found.labels(ORIGIN)) == sorted(source.labels(ORIGIN))
    assert np.mean(found.labels(ORIGIN) == source.labels(ORIGIN)) < 0.1
    assert [found[at].texts[0].text for at in range(5)] == [
        source[at].texts[0].text for at in range(5)
    ]


def test_text_alone_reads_no_image(trial):
    method = changed(trial, grounded_sentences.without_images)
    views = method.views(method.stages()[1])
    assert {name for view in views for name in view.reads} == {"texts.paraphrase"}


def test_untrained_and_bags_need_no_steps(trial):
    found = {"untrained": grounded_sentences.untrained(trial), **grounded_sentences.ngrams(trial)}
    assert all(-1 <= value <= 1 for each in found.values() for value in each.values())
