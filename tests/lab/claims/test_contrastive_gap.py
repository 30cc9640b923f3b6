"""The claim on the gap asks what it says: arms differ in their loss alone, and measures are those
of the model."""

from dataclasses import replace

import numpy as np
import pytest
from tests.factories import make_method

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import contrastive_gap as gap
from diptych.methods.registry import method_class
from diptych.models.model import Model


def fresh_model() -> Model:
    method = make_method("contrastive_gap")
    return Model(method.model, method.make.tokenizer, method.model.image.preprocess, name="fresh")


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("contrastive_gap"))
    assert claim.floor.chance == 1 / gap.PAIRS
    assert set(claim.learning) == {"clip", "cua", "cuaxu"}


def test_measured_images_have_different_names_and_an_unseen_design():
    measured, learnt = open_source(gap.MEASURED), open_source(gap.LEARNT)
    assert len(measured) == gap.PAIRS
    assert len({measured[i].captions()[0] for i in range(len(measured))}) == gap.PAIRS
    assert not set(measured.labels("design")) & set(learnt.labels("design"))


def test_arms_differ_in_their_loss_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(gap, "run", lambda config, folder: begun.__setitem__(name, config))
    monkeypatch.setattr(gap, "load", lambda folder: None)
    monkeypatch.setattr(gap, "measure", lambda model: {})
    for name, arm in gap.claim.arms.items():
        if name not in ("start", ("twins_start", "twins")):
            arm(Trial(seed=3, folder=tmp_path, prelude="the/prelude"))
    losses = {
        name: (
            config.config["mode"],
            config.config.get("uniform", 1),
            config.config.get("align", 1),
        )
        for name, config in begun.items()
    }
    assert losses == {
        "clip": ("clip", 1, 1),
        "cua": ("cua", 1, 1),
        "cuaxu": ("cuaxu", 1, 1),
        "align_only": ("cua", 0, 1),
    }
    rates = {name: config.recipe.lr for name, config in begun.items()}
    assert len({rate for name, rate in rates.items() if name != "clip"}) == 1
    for config in begun.values():
        assert (config.init, config.options.seed) == ("the/prelude", 3)
        assert config.data == begun["clip"].data
        assert replace(config.recipe, lr=1.0) == replace(begun["clip"].recipe, lr=1.0)
        assert config.recipe.batch_size == 64
        options = method_class("contrastive_gap").configure(config.config)
        assert (options.reproject, options.tau, options.learned, options.distinct) == (
            64,
            0.01,
            False,
            "concept",
        )


def test_the_drawings_of_actions_are_of_two_subjects_or_more():
    source = gap.Actions(open_source(gap.MEASURED))
    subjects, actions = source.words
    assert subjects == ("man", "person", "woman")
    found = {}
    for at in range(len(source)):
        sample = source[at]
        subject, action = subjects[sample.labels["subject"]], actions[sample.labels["action"]]
        assert sample.captions()[0] in (f"{subject} {action}", f"{subject}: {action}")
        found.setdefault(action, []).append(subject)
    assert set(found) == set(actions)
    assert all(len(set(shown)) == len(shown) > 1 for shown in found.values())
    assert source.schema()["labels.action"].classes == actions


def test_what_is_measured_of_a_model_that_knows_nothing(monkeypatch):
    monkeypatch.setattr(gap, "MEASURED", "glyphs:split=test:design=noto")
    found = gap.measure(fresh_model())
    assert set(gap.claim.shown) - {"widest"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert found["r1"] < 0.1
    assert found["top1"] < 0.1
    assert found["success"] < 0.5  # of the few drawings of this split
    assert found["linear_separability"] > 0.9  # two towers that never met


@pytest.mark.parametrize("quick", [True, False])
def test_quick_is_less_work(tmp_path, quick):
    config = gap.settings(Trial(seed=0, folder=tmp_path, quick=quick, prelude="x"), {})
    assert config.recipe.epochs == (1 if quick else gap.EPOCHS)


def test_twins_begin_without_a_gap_and_training_opens_one(tmp_path):
    found = gap.twins(Trial(seed=100, folder=tmp_path, quick=True))
    assert found["twins_start"]["widest"] < 0.1 < found["twins"]["widest"]
