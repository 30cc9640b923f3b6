"""The claim on many views asks what it says: equal steps and data, views and objective as named."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import multi_view


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_view, "PARTS", {"train": 1200, "val": 600, "test": 300})
        return replace(trial, prelude=multi_view.draw(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("multi_view"))
    assert claim.floor.chance == 1 / multi_view.PARTS["test"]
    assert not {"shuffled", "infonce5"} & set(claim.learning)


def test_parts_share_no_scene_and_have_texts_and_depth(trial):
    sources = {name: open_source(spec) for name, spec in trial.prelude.items()}
    assert {name: len(source) for name, source in sources.items()} == {
        "train": 120,
        "shuffled": 120,
        "val": 60,
        "test": 30,
    }
    sample = sources["train"][0]
    assert len(set(sample.captions("paraphrase"))) >= 4
    assert np.size(sample.arrays["depth"]) == multi_view.DEPTH["depth"]
    keys = [set(sources[name].keys()) for name in ("train", "val", "test")]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_shuffled_images_have_the_texts_of_other_scenes(trial):
    own = open_source(trial.prelude["train"])
    dealt = open_source(trial.prelude["shuffled"])
    assert list(own.keys()) == list(dealt.keys())
    texts = [source[at].captions("paraphrase") for source in (own, dealt) for at in range(len(own))]
    assert sorted(texts[: len(own)]) == sorted(texts[len(own) :])
    assert sum(a == b for a, b in zip(texts, texts[len(own) :], strict=False)) < 0.05 * len(own)


def test_arms_differ_in_objective_views_and_data_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(multi_view, "run", lambda config, folder: begun.__setitem__(name, config))
    monkeypatch.setattr(multi_view, "measure", lambda trial: {})
    prelude = {"train": "scenes:count=4", "shuffled": "scenes:count=5"}
    for name, arm in multi_view.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    assert {
        name: (c.config["objective"], c.config["texts"], len(c.config["arrays"]))
        for name, c in begun.items()
    } == {
        "pairwise5": ("pairwise", 4, 0),
        "dhel5": ("mv_dhel", 4, 0),
        "dhel2": ("mv_dhel", 1, 0),
        "infonce5": ("mv_infonce", 4, 0),
        "shuffled": ("mv_dhel", 4, 0),
        "pairwise3": ("pairwise", 1, 1),
        "dhel3": ("mv_dhel", 1, 1),
    }
    assert {name for name, c in begun.items() if "5" in c.data["train"]} == {"shuffled"}
    same = {
        str(
            replace(
                c,
                data={},
                config={
                    k: v for k, v in c.config.items() if k not in ("objective", "texts", "arrays")
                },
                recipe=replace(c.recipe, lr=1.0),
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_and_is_measured(trial, tmp_path, brief):
    brief(multi_view)
    found = multi_view.claim.arms["dhel3"](replace(trial, folder=tmp_path))
    assert set(found) == {"rank", "probe", "r1"}
    assert 1 <= found["rank"] <= 64
