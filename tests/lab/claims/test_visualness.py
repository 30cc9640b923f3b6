"""The claim on visual sentences asks what it says: one start, equal steps, labels from documents,
words that tell nothing."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data.sources import open_source
from diptych.evaluation.suites.visualness import labelled
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import visualness
from diptych.methods.store import load

TRAINED = ("tip", "automatic", "other_null", "common", "shuffled")


def test_the_floor_is_of_the_arms_that_learn():
    for name in ("claim", "real"):
        claim = block(find("visualness"), name)
        assert claim.floor.chance == 0.5
        assert "shuffled" not in claim.learning


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=visualness.draw(trial))


def test_the_data_are_what_they_say(trial):
    for name in ("human", "val", "test"):
        rows = visualness.read(trial.prelude[name])
        assert np.mean([row["label"] for row in rows]) == pytest.approx(1 / 3, abs=0.02)
        assert all((row["image"] is None) == (row["label"] == 0) for row in rows)
    auto = visualness.read(trial.prelude["auto"])
    assert 0.3 < np.mean([row["label"] for row in auto]) < 0.4
    texts = {
        name: {row["text"] for row in visualness.read(trial.prelude[name])}
        for name in ("human", "val", "test")
    }
    assert not texts["test"] & (texts["val"] | texts["human"] | {row["text"] for row in auto})
    for stage in visualness.STAGES:
        whole, dealt = (
            visualness.read(trial.prelude[name]) for name in (stage, f"shuffled_{stage}")
        )
        assert [row["text"] for row in dealt] == [row["text"] for row in whole]
        images = [sorted(row["image"] or "" for row in rows) for rows in (whole, dealt)]
        assert images[0] == images[1]
        assert dealt != whole
    source = open_source(trial.prelude["test"])
    assert labelled(source)[1].tolist() == [
        bool(row["label"]) for row in visualness.read(trial.prelude["test"])
    ]
    longest = load("tiny").tokenizer
    assert not any(longest.lost(text) for text in labelled(source)[0])


def test_arms_differ_in_what_they_say_alone(trial, tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(visualness, "run", lambda config, folder: begun.__setitem__(name, config))
    monkeypatch.setattr(visualness, "load", lambda folder: None)
    monkeypatch.setattr(visualness, "measure", lambda *reported: {})
    for name in TRAINED:
        visualness.claim.arms[name](replace(trial, folder=tmp_path, quick=False))
    epochs = {name: config.recipe.epochs for name, config in begun.items()}
    assert {name: each for name, each in epochs.items() if each != 5} == {"automatic": 6.5}
    plain = {
        name: replace(config, recipe=replace(config.recipe, epochs=1))
        for name, config in begun.items()
    }
    assert len({str(replace(config, data={}, config={})) for config in plain.values()}) == 1
    own = {
        name: {
            key: value
            for key, value in config.config.items()
            if key not in ("augment", "human_epochs")
        }
        for name, config in begun.items()
    }
    assert {name: options for name, options in own.items() if options} == {
        "other_null": {"null_seed": 1},
        "common": {"visual": "common"},
    }
    data = {
        name: tuple(path.rsplit("/", 1)[1] for path in config.data.values())
        for name, config in begun.items()
    }
    assert data["tip"] == data["common"] == ("auto.jsonl", "human.jsonl", "val.jsonl")
    assert data["automatic"] == ("auto.jsonl", "val.jsonl")
    assert data["shuffled"] == ("shuffled_auto.jsonl", "shuffled_human.jsonl", "val.jsonl")


def test_one_stage_takes_as_many_steps_as_two():
    def steps(rows, epochs):
        return epochs * -(-rows // 64)

    auto = 590  # of 630 sentences of 150 pages some show one image
    both = steps(auto, 5) + steps(visualness.HUMAN, 5)
    assert steps(auto, 6.5) == both


def test_one_quick_arm_runs_and_words_alone_are_near_chance(trial, tmp_path):
    found = visualness.claim.arms["tip"](replace(trial, folder=tmp_path))
    assert set(found) == {"f1", "auroc", "mrr", "mrr_plain"}
    assert all(0 <= value <= 1 for value in found.values())
    assert visualness.words(trial)["auroc"] < 0.7


def test_concreteness_comes_from_the_pack_or_is_asked_for(trial, tmp_path, monkeypatch):
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    with pytest.raises(visualness.InputError, match="set DIPTYCH_DATA"):
        visualness.ratings()
    (tmp_path / "concreteness").mkdir()
    lines = '{"word": "cat", "bigram": false, "mean": 4.9}\n{"word": "hope", "bigram": false, "mean": 1.2}\n'
    (tmp_path / "concreteness" / "words.jsonl").write_text(
        lines + '{"word": "a b", "bigram": true, "mean": 2}\n'
    )
    assert visualness.ratings() == {"cat": 4.9, "hope": 1.2}
    scores = visualness.mean_of_words(["Cat, hope!", "nothing"], visualness.ratings(), 3.0)
    assert scores.tolist() == pytest.approx([3.05, 3.0])
