"""The claim on the improved recipe asks what it says: arms as named, a design that none of them
saw."""

from dataclasses import replace

from diptych.data.sources import open_source
from diptych.data.views import VariedTextView
from diptych.lab.claim import Trial
from diptych.lab.claims import cliprocket


def test_a_seed_is_measured_on_its_own_things_in_a_design_that_it_did_not_learn():
    things = set()
    for seed in range(cliprocket.PARTS):
        trial = Trial(seed=seed, folder=None)
        learnt, measured = (
            [sample.key.split("/") for sample in open_source(cliprocket.drawings(trial, design))]
            for design in (cliprocket.LEARNT, cliprocket.MEASURED)
        )
        assert [thing for thing, _ in learnt] == [thing for thing, _ in measured]
        assert len(measured) == cliprocket.PAIRS
        assert not {design for _, design in learnt} & {design for _, design in measured}
        things |= {thing for thing, _ in learnt}
    assert len(things) == cliprocket.PARTS * cliprocket.PAIRS


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
        "early": (0, "none", False, False),
    }
    images = {name: c.recipe.epochs * (1 + c.config.get("local", 2)) for name, c in begun.items()}
    assert {name for name, count in images.items() if count != images["improved"]} == {"early"}
    assert images["early"] < images["clip"] / 5
    one_view = [c for c in begun.values() if c.config.get("local") == 0]
    assert {c.config["stop_words"] for c in one_view} == {0.0}
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

    trial = Trial(seed=5, folder=tmp_path, quick=True)
    found = cliprocket.trained(change=change)(trial)
    assert 0 <= found["r1"] <= 1
    assert [(view.strong, view.stop_words) for view in views] == [(False, 0.0), (False, 0.0)]
