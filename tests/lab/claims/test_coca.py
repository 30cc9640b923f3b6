"""The claim on contrast and captions in one model asks what it says: scenes of two things whose smaller
one has a label, arms that differ in the weights of the losses and in the queries that captions read."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.draw import FACTORS
from diptych.data.worlds.scenes.words import COLOURS
from diptych.lab.claim import Trial
from diptych.lab.claims import coca


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coca, "PARTS", {"train": 240, "probe": 320, "measured": 160})
        return coca.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("coca"), quick=True))


def test_the_label_is_the_colour_of_the_smaller_thing_and_the_caption_states_it(drawn):
    names = tuple(COLOURS)
    written = open_source(drawn["measured"])
    scenes = open_source(f"{coca.SCENES}:seed=5:split=val:start=32:count=16")
    assert len(written) == len(scenes)
    for at in range(len(scenes)):
        sample = written[at]
        scene = scenes[at]
        assert sample.key == scene.key
        size, colour = (scene.arrays["factors"][:, FACTORS.index(of)] for of in ("size", "colour"))
        assert sample.labels["second"] == colour[size.argmin()] != scene.labels["colour"]
        assert names[int(sample.labels["second"])] in sample.captions()[0]


def test_scenes_of_parts_are_others(drawn):
    keys = [set(open_source(spec).keys()) for spec in drawn.values()]
    assert [len(each) for each in keys] == [24, 32, 16]
    assert len(set.union(*keys)) == 24 + 32 + 16


def test_arms_differ_in_weights_and_queries_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(coca, "run", run)
    for name, arm in coca.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    said = {
        name: (c.config.get("contrastive", 1.0), c.config.get("caption", 2.0), c.config["pooler"])
        for name, c in begun.items()
    }
    assert said == {
        "con": (1.0, 0.0, coca.POOLER),
        "cap": (0.0, 2.0, coca.POOLER),
        "both": (1.0, 2.0, coca.POOLER),
        "one_query": (1.0, 2.0, coca.ONE),
    }
    same = {str(replace(c, config={}, recipe=replace(c.recipe, lr=1.0))) for c in begun.values()}
    assert len(same) == 1


def test_arms_measure_what_they_are_judged_by(tmp_path, brief, drawn):
    brief(coca)
    trial = Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn)
    found = coca.claim.arms["both"](trial)
    for name in ("con", "cap", "both"):
        assert coca.claim.needs(name) <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert set(coca.claim.table) == set(found)
