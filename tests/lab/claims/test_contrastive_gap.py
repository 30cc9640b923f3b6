"""The claim on the gap asks what it says: arms differ in their loss alone, and measures are those
of the model."""

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
        if name not in ("start", "twins"):
            arm(Trial(seed=3, folder=tmp_path, prelude="the/prelude"))
    losses = {
        name: (
            c["mode"],
            c.get("remove_contrastive", False),
            c.get("uniform", 1),
            c.get("align", 1),
        )
        for name, c in ((name, config.config) for name, config in begun.items())
    }
    assert losses == {
        "clip": ("clip", False, 1, 1),
        "cua": ("cua", False, 1, 1),
        "cuaxu": ("cuaxu", False, 1, 1),
        "spread": ("cua", True, 1, 0.0),
        "flipped": ("cua", False, -1.0, 1),
        "narrow": ("clip", False, 1, 1),
        "small_batch": ("clip", False, 1, 1),
    }
    assert begun.pop("narrow").config["reproject"] == 16
    small = begun.pop("small_batch").recipe
    assert small.batch_size / small.epochs == pytest.approx(
        64 / begun["clip"].recipe.epochs
    )  # as many steps
    for config in begun.values():
        assert (config.init, config.options.seed) == ("the/prelude", 3)
        assert (config.recipe, config.data) == (begun["clip"].recipe, begun["clip"].data)
        assert config.recipe.batch_size == 64
        options = method_class("contrastive_gap").configure(config.config)
        assert (options.reproject, options.tau, options.learned, options.distinct) == (
            64,
            0.01,
            False,
            "concept",
        )


def test_what_is_measured_of_a_model_that_knows_nothing(monkeypatch):
    monkeypatch.setattr(gap, "MEASURED", "glyphs:split=test:design=noto")
    found = gap.measure(fresh_model())
    assert set(gap.claim.shown) - {"first", "widest"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert found["r1"] < 0.1
    assert found["linear_separability"] > 0.9  # two towers that never met


@pytest.mark.parametrize("quick", [True, False])
def test_quick_is_less_work(tmp_path, quick):
    config = gap.settings(Trial(seed=0, folder=tmp_path, quick=quick, prelude="x"), {})
    assert config.recipe.epochs == (1 if quick else 6)


def test_twins_begin_without_a_gap_and_training_opens_one(tmp_path):
    found = gap.twins(Trial(seed=100, folder=tmp_path, quick=True))
    assert found["first"] < 0.1 < found["widest"]
    assert found["widest"] >= found["centroid_distance"]
