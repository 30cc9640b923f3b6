"""The claim on the improved recipe asks what it says: arms as named, scenes that none of them
saw."""

import re
from dataclasses import replace

from diptych.data.sources import open_source
from diptych.data.views import VariedTextView
from diptych.lab.claim import Trial, best
from diptych.lab.claims import cliprocket


def test_scenes_are_measured_that_no_arm_learnt(tmp_path):
    drawn = cliprocket.draw(Trial(seed=5, folder=tmp_path, quick=True))
    learnt, measured = (
        {sample.images["main"].read() for sample in open_source(drawn[name])}
        for name in ("learnt", "measured")
    )
    assert len(learnt) == cliprocket.LEARNT // 10
    assert not learnt & measured
    labels = open_source(drawn["measured"]).schema()["labels.object"].classes
    assert len(labels) == cliprocket.THINGS


def test_photographs_have_texts_of_the_web_that_name_their_class(tmp_path, data_pack, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(data_pack("cifar10-subset").parent))
    drawn = cliprocket.photographs(Trial(seed=5, folder=tmp_path, quick=True))
    learnt = open_source(drawn["learnt"])
    names = learnt.schema()["labels.class"].classes
    assert len(learnt) == cliprocket.PHOTOGRAPHS // 10
    for at in range(10):
        [text] = [text for text in learnt[at].texts if text.role == "web"]
        assert re.fullmatch(rf"{names[learnt[at].labels['class']]} \| photo no\. \d+", text.text)
    measured = open_source(drawn["measured"])
    assert "test" in measured[0].source


def test_arms_are_what_their_names_say(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change
        raise StopIteration

    monkeypatch.setattr(cliprocket, "run", run)
    prelude = {"learnt": "scenes:count=8", "measured": "scenes:count=8"}
    for name, arm in cliprocket.claim.arms.items():  # noqa: B007  (the patched run reads it)
        try:
            arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
        except StopIteration:
            continue
    reported = {
        name: (
            c.config.get("local", 2),
            c.config.get("extra", "none"),
            c.config["strong"] == cliprocket.WEAK,
            changes[name] is not None,
        )
        for name, c in begun.items()
    }
    assert reported == {
        "clip": (0, "none", False, False),
        "longer": (0, "none", False, False),
        "siamlip": (0, "siamlip", False, False),
        "improved": (2, "none", False, False),
        "improved_siamlip": (2, "siamlip", False, False),
        "plain": (2, "none", True, True),
    }
    passes = {name: c.recipe.epochs for name, c in begun.items()}
    assert passes.pop("longer") == 3 * cliprocket.EPOCHS  # as many images as three views
    assert set(passes.values()) == {cliprocket.EPOCHS}
    one_view = {name for name, c in begun.items() if c.config.get("local") == 0}
    assert {begun[name].config["stop_words"] for name in one_view} == {0.0}
    for name, c in begun.items():
        assert c.recipe.lr == best(cliprocket.RATES["clip" if name in one_view else "improved"])
    same = {
        str(replace(c, config={}, recipe=replace(c.recipe, epochs=1, lr=1.0)))
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_with_texts_as_they_are(tmp_path, brief):
    brief(cliprocket)
    views = []

    def change(method):
        cliprocket.keep_texts(method)
        views.extend(
            view for view in method.views(method.stages()[0]) if isinstance(view, VariedTextView)
        )

    trial = Trial(seed=5, folder=tmp_path / "arm", quick=True)
    trial.folder.mkdir()
    drawn = cliprocket.draw(replace(trial, folder=tmp_path))
    found = cliprocket.trained(change=change)(replace(trial, prelude=drawn))
    assert 0 <= found["top1"] <= 1
    assert [(view.strong, view.stop_words) for view in views] == [(False, 0.0), (False, 0.0)]
