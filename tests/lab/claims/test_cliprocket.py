"""The claim on the improved recipe asks what it says: arms as named, a design that none of them
saw."""

from dataclasses import replace

from diptych.data.sources import open_source
from diptych.data.views import VariedTextView
from diptych.lab.claim import Trial
from diptych.lab.claims import cliprocket


def test_what_is_measured_was_not_learnt():
    assert len(open_source(cliprocket.MEASURED)) == cliprocket.PAIRS
    assert not set(open_source(cliprocket.LEARNT).keys()) & set(
        open_source(cliprocket.MEASURED).keys()
    )


def test_arms_are_what_their_names_say(tmp_path, monkeypatch):
    begun, changes = {}, {}

    def run(config, folder, change=None):
        begun[name], changes[name] = config, change
        raise StopIteration

    monkeypatch.setattr(cliprocket, "run", run)
    for name, arm in cliprocket.claim.arms.items():  # noqa: B007  (the patched run reads it)
        try:
            arm(Trial(seed=3, folder=tmp_path))
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
        "siamlip": (0, "siamlip", False, False),
        "improved": (2, "none", False, False),
        "improved_siamlip": (2, "siamlip", False, False),
        "plain": (2, "none", True, True),
        "clip_longer": (0, "none", False, False),
    }
    assert begun["clip_longer"].recipe.epochs == 3 * begun["clip"].recipe.epochs
    assert {
        c.config["stop_words"]
        for name, c in begun.items()
        if "clip" in name[:5] or name == "siamlip"
    } == {0.0}
    same = {str(replace(c, config={}, recipe=replace(c.recipe, epochs=1))) for c in begun.values()}
    assert len(same) == 1


def test_one_quick_arm_runs_with_texts_as_they_are(tmp_path, brief):
    brief(cliprocket)
    views = []

    def change(method):
        cliprocket.keep_texts(method)
        views.extend(
            view for view in method.views(method.stages()[0]) if isinstance(view, VariedTextView)
        )

    trial = Trial(seed=5, folder=tmp_path, quick=True)
    found = cliprocket.trained(change=change)(trial)
    assert 0 <= found["r1"] <= 1
    assert [(view.strong, view.stop_words) for view in views] == [(False, 0.0), (False, 0.0)]
