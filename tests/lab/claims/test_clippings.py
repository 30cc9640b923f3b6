"""The claim on records asks what it says: sets of different firms, arms as named, others' texts."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab import claim
from diptych.lab.claim import Trial, best
from diptych.lab.claims import clippings
from diptych.methods.store import load


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clippings, "COUNTS", {"train": 200, "val": 80, "test": 120})
        return clippings.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("names"), quick=True))


def test_other_texts_are_those_of_other_records_with_the_same_images(drawn):
    own, other = (open_source(drawn[name]) for name in ("train", "train_other"))
    assert [s.key for s in own] == [s.key for s in other]
    assert [s.images["main"].read() for s in own] == [s.images["main"].read() for s in other]
    texts = [[s.captions()[0] for s in source] for source in (own, other)]
    assert sorted(texts[0]) == sorted(texts[1])
    assert sum(a == b for a, b in zip(*texts, strict=True)) <= 1  # but for equal readings


def test_firms_of_the_test_are_learnt_by_none(drawn):
    names = {
        split: {s.captions()[0] for s in open_source(drawn[split])}
        for split in ("train", "val", "test")
    }
    assert not names["test"] & (names["train"] | names["val"])


def test_arms_differ_in_weight_stages_batches_and_texts_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(clippings, "run", run)
    for name, arm in clippings.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    options = {name: c.config for name, c in begun.items()}
    both = ("both", "levenshtein")
    assert {name: config["weight"] for name, config in options.items()} == {
        both: 0.5,
        "image": 1.0,
        "text": 0.0,
        "pairs": 0.5,
        "random": 0.5,
        "other_text": 0.5,
    }
    assert {name for name, c in options.items() if c.get("negatives") == "random"} == {"random"}
    assert options["pairs"]["order"] == ("pairs",)
    assert begun["pairs"].recipe.steps == 2 * begun[both].recipe.steps
    assert begun["other_text"].data["train"] == drawn["train_other"]
    rates = {name: c.recipe.lr for name, c in begun.items()}
    singles = {"image", "text"}
    assert rates == {
        name: best(clippings.RATES[name if name in singles else "both"]) for name in rates
    }
    same = {
        name: replace(c, data={}, config={}, recipe=replace(c.recipe, steps=1, lr=1.0))
        for name, c in begun.items()
    }
    assert len({str(c) for c in same.values()}) == 1


def test_arms_are_measured_by_what_they_learnt(tmp_path, monkeypatch, drawn):
    asked = []

    def evaluate(model, source, suites, *, val, **options):
        asked.append((source.name, val, options))
        row = {"top1": 0.5, "accuracy": 0.5, "ari": 0.5}
        return {"linkage": {**row, "by_similarity": {"levenshtein": row}}}

    monkeypatch.setattr(clippings, "evaluate", evaluate)
    monkeypatch.setattr(clippings, "learnt", lambda *args, **config: None)
    found = {
        name: arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
        for name, arm in clippings.claim.arms.items()
    }
    assert set(found["both", "levenshtein"]) == {"both", "levenshtein"}
    options = dict(zip(found, [each[2] for each in asked], strict=True))
    assert options["image"] == {"weight": 1.0}
    assert options["text"] == {"weight": 0.0}
    assert options["both", "levenshtein"] == {"strings": True}
    vals = dict(zip(found, [each[1] for each in asked], strict=True))
    assert {name for name, val in vals.items() if val == drawn["val_other"]} == {"other_text"}


def test_batches_hold_whole_blocks_of_hard_negatives():
    each_and_nearest = 3 * 3  # the method's defaults
    assert clippings.BATCH % each_and_nearest == 0


def test_the_floor_is_of_the_arms_that_read_their_records():
    assert clippings.claim.learning == ("both", "image", "text")
    assert clippings.claim.floor.value == 0.2


def test_a_quick_arm_runs_at_another_rate(tmp_path, brief, drawn):
    brief(clippings)
    trial = Trial(seed=100, folder=tmp_path, quick=True, prelude=drawn)
    found = clippings.trained("image", 1.0, rate=1e-3)(trial)
    assert set(found) == set(clippings.claim.table)
    assert 0 <= found["top1"] <= 1


def test_prints_of_a_photograph_are_other_crops_with_other_captions(data_pack, monkeypatch):
    data_pack("flickr8k-1k")
    photographs = open_source("flickr8k-1k:split=test")
    prints = clippings.Wire(photographs, range(4, 7), 5)
    assert [prints[at].labels["entity"] for at in range(len(prints))] == [4, 4, 4, 4, 5, 6, 6, 6, 6]
    assert len(set(prints.keys())) == 9
    pixels = [np.asarray(prints[at].images["main"].decode()) for at in range(4)]
    assert {each.shape for each in pixels} == {(64, 64, 3)}
    assert all(set(np.unique(each)) <= {0, 64, 128, 192, 255} for each in pixels)
    assert len({each.tobytes() for each in pixels}) == 4
    again = clippings.Wire(photographs, range(4, 7), 5)
    assert np.array_equal(np.asarray(again[2].images["main"].decode()), pixels[2])
    monkeypatch.setattr(clippings, "MISREAD", 0.0)
    captions = [text.lower() for text in photographs[4].captions()]
    assert [prints[at].captions()[0] for at in range(4)] == captions[:4]


def test_the_block_on_photographs_runs(data_pack, monkeypatch, tmp_path):
    data_pack("flickr8k-1k")
    clippings = claim.load(claim.find("clippings"))  # the newest, or its classes do not pickle
    few = {
        "train": ("train", range(100)),
        "val": ("test", range(50)),
        "test": ("test", range(50, 100)),
    }
    monkeypatch.setattr(clippings, "WIRE", few)
    monkeypatch.setattr(clippings, "BATCH", 18)
    monkeypatch.setattr(clippings, "start", lambda folder, seed: load("tiny").save(folder))
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    desk = clippings.wired(trial)
    assert (len(desk.pair.images), len(desk.pair.texts)) == (34 + 17 + 17, 34 + 17 + 17)
    (tmp_path / "arm").mkdir()
    trial = replace(trial, prelude=pickle.loads(pickle.dumps(desk)), folder=tmp_path / "arm")
    found = clippings.real.arms["both", "levenshtein"](trial)
    assert set(found) == {"both", "levenshtein"}
    assert all(
        0 <= value <= 1 for row in found.values() for name, value in row.items() if name != "ari"
    )
    before = load(desk.pair.folder).encoder.state_dict()
    after = load(trial.folder / "run").encoder.state_dict()
    changed = {
        name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert changed == {"image_projection", "text_projection", "logit_scale"}
    assert len(trial.prelude.pair.images) == 68
