"""The claim on embeddings of a language model asks what it says: captions of both lengths, long ones of other
scenes, arms that go on from the same model and differ in what they say alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import vladva
from diptych.methods.store import load


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A quick prelude."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vladva, "LEARNT", 900)
        return vladva.begin(Trial(seed=5, folder=tmp_path_factory.mktemp("vladva"), quick=True))


def test_scenes_have_a_short_caption_to_contrast_and_a_long_one_to_predict(begun):
    words = load("tiny-lm").tokenizer
    samples = list(open_source(begun["learnt"]))
    short = [len(words.ids(sample.captions("caption")[0])) < vladva.SHORT for sample in samples]
    long = [len(words.ids(" ".join(sample.captions("long")))) >= vladva.SHORT for sample in samples]
    assert np.mean(short) > 0.9
    assert np.mean(long) > 0.9


def test_shuffled_scenes_have_the_long_captions_of_others_alone(begun):
    own, other = (list(open_source(begun[name])) for name in ("learnt", "shuffled"))
    assert [sample.key for sample in own] == [sample.key for sample in other]
    assert own[3].images["main"].read() == other[3].images["main"].read()
    texts = [
        {role: [tuple(sample.captions(role)) for sample in each] for role in ("caption", "long")}
        for each in (own, other)
    ]
    assert texts[0]["caption"] == texts[1]["caption"]
    assert sorted(texts[0]["long"]) == sorted(texts[1]["long"])
    assert not any(a == b for a, b in zip(texts[0]["long"], texts[1]["long"], strict=True))


def test_arms_differ_in_what_they_say_alone(tmp_path, monkeypatch, begun):
    configs = {}
    changed = set()

    def run(config, folder, change):
        configs[name] = config
        changed.update([name] if change else [])
        raise StopIteration

    monkeypatch.setattr(vladva, "run", run)
    for name, arm in vladva.claim.arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=begun))
    own = configs["both"]
    assert changed == {"soft"}
    assert {name for name, each in configs.items() if each.data != own.data} == {"shuffled"}
    assert {name for name, each in configs.items() if each.recipe != own.recipe} == {"zero"}
    differ = {
        name: {key: value for key, value in each.config.items() if own.config.get(key) != value}
        for name, each in configs.items()
    }
    assert {name: values for name, values in differ.items() if values} == {
        "zero": {"n_ctx": 0},
        "con": {"predict": 0.0},
        "long_in_con": {"predict": 0.0, "short": 500},
        "lora": {"n_ctx": 0},
    }
    same = {str(replace(c, data={}, config={}, recipe=own.recipe)) for c in configs.values()}
    assert len(same) == 1


def test_an_arm_measures_what_is_judged_and_soft_prompts_leave_the_language_model(tmp_path, begun):
    trial = Trial(seed=5, folder=tmp_path, quick=True, prelude=begun)
    found = vladva.claim.arms["soft"](trial)
    assert set(found) == set(vladva.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
    model = load(tmp_path / "run").captioner
    up = [value for name, value in model.factors.named_parameters() if "up" in name.split(".")]
    assert up
    assert not any(value.any() for value in up)
    prompt = model.soft["image"]
    start = model.lm.table.weight[
        torch.tensor(model.words.ids(model.prompts["image"])[: len(prompt)])
    ]
    assert not torch.equal(prompt, start)
