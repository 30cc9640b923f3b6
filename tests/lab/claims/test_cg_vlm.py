"""The claim on the contrast with the word table asks what it says: arms that differ in alignment alone,
ablations that break what they are said to, nested instruction."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.methods.fuse.cg_vlm_helpers import ALIGN, batch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import cg_vlm
from diptych.methods.fuse.cg_vlm import CGVLM
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.testing import Toy


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cg_vlm, "LEARNT", 160)
        return cg_vlm.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("cg_vlm"), quick=True))


def test_captions_and_questions_are_of_different_scenes(drawn):
    captions, asked = (open_source(drawn[name]) for name in ("captions", "questions"))
    assert not set(captions.keys()) & set(asked.keys())
    assert "texts.question" not in captions.schema()
    assert {"texts.question", "texts.answer"} <= set(asked.schema())
    assert len(asked[0].captions("question")) == 4


def test_arms_differ_in_contrast_and_ablation_alone(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder, change):
        method = SimpleNamespace(loss=None, _text=None)
        if change is not None:
            change(method)
        begun[name] = config, method.loss is not None, method._text is not None
        raise StopIteration

    monkeypatch.setattr(cg_vlm, "run", run)
    arms = {name: arm for name, arm in cg_vlm.claim.arms.items() if name != "reader"}
    for name, arm in arms.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude=drawn))
    assert {name: found[0].config["contrast"] for name, found in begun.items()} == {
        "lg": 0.0,
        "both": 1.0,
        "shuffled": 1.0,
        "lc": 1.0,
        "raw": 1.0,
    }
    assert {name for name, found in begun.items() if found[1]} == {"shuffled", "lc"}
    assert {name for name, found in begun.items() if found[2]} == {"raw"}
    assert len({str(replace(config, config={})) for config, _, _ in begun.values()}) == 1


@pytest.fixture(scope="module")
def method():
    made = CGVLM(CGVLM.configure({"lm": "tiny-lm", "grid": 4}), Make.of(load("tiny")))
    made.setup({"train": Toy(4)})
    return made.eval()


@torch.no_grad()
def test_ablations_break_what_they_are_said_to(method):
    given = batch(method, Toy(4))
    features = method.encode(given, ALIGN)
    whole = method.loss(features, given, ALIGN).terms
    for change in (cg_vlm.shuffled, cg_vlm.contrast_alone, cg_vlm.raw_means):
        change(method)
        found = method.encode(given, ALIGN)
        terms = method.loss(found, given, ALIGN).terms
        if change is cg_vlm.contrast_alone:
            assert set(terms) == {"contrast"}
        else:
            assert float(terms["contrast"]) != float(whole["contrast"])
            assert float(terms["captions"]) == float(whole["captions"])
        if change is cg_vlm.raw_means:
            ids, _ = given.text.flat
            own = [word for word in ids[0].tolist()[1:] if word not in (0, 2)]
            mean = method.model.lm.table(torch.tensor(own)).mean(0)
            assert torch.allclose(found["text"][0], mean / mean.norm(), atol=1e-5)
        for name in ("loss", "_text"):
            vars(method).pop(name, None)
    assert torch.equal(method.encode(given, ALIGN)["text"], features["text"])


def test_an_arm_measures_what_is_judged(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(cg_vlm, "INSTRUCT", {5: 80, 100: 300})
    trial = Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn)
    found = cg_vlm.claim.arms["both"](trial)
    assert set(found) == {"aligned", "selectivity", "acc_5", "acc_100", "blind"}
    assert all(0 <= found[name] <= 1 for name in found if name != "selectivity")


def test_each_arm_is_instructed_by_the_fractions_that_it_is_judged_by(tmp_path, monkeypatch):
    monkeypatch.setattr(cg_vlm, "held_out", lambda trial: None)
    monkeypatch.setattr(cg_vlm, "learnt", lambda *args, **options: None)
    monkeypatch.setattr(cg_vlm, "load", lambda folder: None)
    monkeypatch.setattr(cg_vlm, "accuracy", lambda model, source, blind=False: 0.5)
    monkeypatch.setattr(cg_vlm, "evaluate", lambda *args: {"selectivity": {"selectivity": 0.0}})
    prelude = {"captions": "", "questions": ""}
    for name, arm in cg_vlm.claim.arms.items():
        if name != "reader":
            found = arm(Trial(seed=100, folder=tmp_path, prelude=prelude))
            assert cg_vlm.claim.needs(name) <= set(found), name
