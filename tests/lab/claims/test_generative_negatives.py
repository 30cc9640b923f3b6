"""The claim on variations asks what it says: four of a scene that differ in its thing, arms as
named."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import generative_negatives as mined


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mined, "run", lambda settings, out: None)
        patch.setattr(mined, "MEASURED", 160)
        return mined.draw(Trial(seed=5, folder=folder, quick=True))


@pytest.mark.parametrize("name", ["variations", "siblings"])
def test_four_of_a_scene_differ_in_the_thing_and_its_name(drawn, name):
    samples = list(open_source(drawn[name]))
    for start in range(0, 16, 4):
        four = samples[start : start + 4]
        assert len({s.labels["scene"] for s in four}) == 1
        words = [s.captions()[0].split() for s in four]
        assert len({len(each) for each in words}) == 1
        different = {
            at
            for each in words
            for at, (a, b) in enumerate(zip(words[0], each, strict=True))
            if a != b
        }
        assert 1 <= len(different) <= 2  # the name, and a or an
        assert len({s.images["main"].read() for s in four}) == 4


def test_ordinary_and_held_out_scenes_are_others(drawn):
    keys = {name: set(open_source(drawn[name]).keys()) for name in ("pairs", "retrieved")}
    assert not keys["pairs"] & keys["retrieved"]
    captions = {
        name: {s.captions()[0] for s in open_source(drawn[name])}
        for name in ("variations", "siblings")
    }
    assert len(captions["variations"] & captions["siblings"]) < 0.1 * len(captions["siblings"])


def test_arms_differ_in_what_meets_in_a_batch_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(mined, "run", run)
    made = {name: arm for name, arm in mined.claim.arms.items() if name != "start"}
    for name, arm in made.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude={**drawn, "start": "tiny"}))
    options = {name: c.config for name, c in begun.items()}
    assert {
        name: (c["group"], c["variations"], c.get("edited", "both")) for name, c in options.items()
    } == {
        "allinone": ("", 4, "both"),
        "item": ("scene", 4, "both"),
        "text_only": ("scene", 4, "texts"),
        "two": ("scene", 2, "both"),
    }
    same = {str(replace(c, config={}, recipe=replace(c.recipe, lr=1.0))) for c in begun.values()}
    assert len(same) == 1
