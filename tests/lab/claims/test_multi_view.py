"""The claim on many views asks what it says: equal steps and data, views and objective as named."""

from dataclasses import replace

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import multi_view


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("multi_view"))
    assert claim.floor.chance == 1 / 8
    assert len(open_source(f"{multi_view.SCENES}:count=1").schema()["labels.colour"].classes) == 8


def test_arms_differ_in_objective_and_number_of_texts_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(multi_view, "run", lambda config, folder: begun.__setitem__(name, config))
    monkeypatch.setattr(multi_view, "measure", lambda trial: {})
    for name, arm in multi_view.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude="scenes:count=4"))
    assert {
        name: (c.config["objective"], c.config["images"], c.config["texts"])
        for name, c in begun.items()
    } == {
        "pairwise2": ("pairwise", 1, 1),
        "pairwise5": ("pairwise", 1, 4),
        "dhel2": ("mv_dhel", 1, 1),
        "dhel5": ("mv_dhel", 1, 4),
        "infonce5": ("mv_infonce", 1, 4),
    }
    same = {
        str(
            replace(
                c, config={k: v for k, v in c.config.items() if k not in ("objective", "texts")}
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_and_is_measured_on_scenes_it_did_not_learn(tmp_path, brief):
    brief(multi_view)
    trial = Trial(seed=5, folder=tmp_path / "prelude", quick=True)
    prelude = multi_view.draw(trial)
    source = open_source(prelude)
    assert len(source) == 300
    assert len(set(source[0].captions("paraphrase"))) >= 4
    (tmp_path / "arm").mkdir()
    found = multi_view.claim.arms["dhel5"](replace(trial, folder=tmp_path / "arm", prelude=prelude))
    assert set(found) == {"rank", "probe", "r1"}
    assert 1 <= found["rank"] <= 64
    held_out = open_source(f"{multi_view.SCENES}:seed=5:split=test:count=20")
    assert not set(held_out.keys()) & set(source.keys())
