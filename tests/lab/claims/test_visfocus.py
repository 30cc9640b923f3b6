"""The claim on prompts in the image tower asks what it says: forms of a given number of rows, arms that go
on from the same reader with as many steps, a prompt that is always the same."""

from dataclasses import replace

import pytest
import torch

from diptych.data.sources import open_source
from diptych.lab.claim import Trial
from diptych.lab.claims import visfocus
from diptych.methods.store import load


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A quick prelude."""
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("visfocus"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visfocus, "LEARNT", 600)
        patch.setattr(visfocus, "MEASURED", 80)
        return visfocus.begin(trial)


def test_forms_have_the_rows_that_they_are_asked_about(begun):
    for rows in visfocus.ROWS:
        for sample in open_source(begun[f"rows_{rows}"]):
            words = sample.captions("ocr")[0].split()
            assert len(words) == 2 * rows
            assert all(len(value) == 2 for value in words[1::2])
            [question], [answer] = sample.captions("question"), sample.captions("answer")
            key = question.removeprefix("what is ").removesuffix("?")
            assert words[words.index(key) + 1] == answer


@pytest.fixture
def configs(monkeypatch, begun, tmp_path):
    """The configs of the runs of each arm, none of which is trained."""
    found = {}

    def run(config, folder, change=None):
        found.setdefault(name, []).append((config, change))

    monkeypatch.setattr(visfocus, "run", run)
    monkeypatch.setattr(visfocus, "load", lambda folder: type("Model", (), {"captioner": None}))
    monkeypatch.setattr(visfocus, "read_alike", lambda reader: None)
    monkeypatch.setattr(visfocus, "measured", lambda trial, model: {})
    prelude = {**begun, "read": "tiny"}
    for name, arm in visfocus.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=100, folder=tmp_path, prelude=prelude))
    return found


def test_arms_take_as_many_steps_and_differ_in_what_they_say_alone(configs):
    steps = {name: sum(c.recipe.steps for c, _ in runs) for name, runs in configs.items()}
    assert set(steps.values()) == {visfocus.STEPS["lmpm"] + visfocus.STEPS["answer"]}
    assert {name for name, runs in configs.items() if len(runs) == 1} == {"no_lmpm"}
    tasks = {tuple(c.config["task"] for c, _ in runs) for runs in configs.values()}
    assert tasks == {("lmpm", "answer"), ("answer",)}
    asked = {name: runs[-1][0] for name, runs in configs.items()}
    assert {name for name, c in asked.items() if not c.config["prompted"]} == {"plain"}
    assert {name: c.config["rho"] for name, c in asked.items() if c.config["rho"] != 0.5} == {
        "rho1": 1.0
    }
    assert {name for name, runs in configs.items() if all(change for _, change in runs)} == {
        "constant"
    }
    same = {str(replace(c, config={}, recipe=replace(c.recipe, steps=1))) for c in asked.values()}
    assert (
        len({text.replace("/lmpm", "") for text in same}) <= 2
    )  # that of no_lmpm starts elsewhere


def test_an_arm_measures_what_is_judged_and_a_constant_prompt_changes_nothing(begun, tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True, prelude=begun)
    found = visfocus.claim.arms["visfocus"](trial)
    assert set(found) == set(visfocus.claim.table)
    assert found["fall"] == pytest.approx(found["acc_8"] - found["acc_24"])
    reader = load(tmp_path / "answer").captioner
    pages = torch.randint(0, 256, (2, 3, visfocus.HEIGHT, visfocus.WIDTH), dtype=torch.uint8)
    asked = [reader.prompted(pages, ["what is rail?", text]).memory for text in ("a", "b c d")]
    assert not torch.equal(asked[0][0], asked[0][1])
    texts = ["what is rail?", "what is salt?"]
    ids = reader._ids(reader.vision_rows(reader.rows(texts), texts), reader.prompts.tokenizer)
    apart = reader._states(ids)["prompt"]
    visfocus.read_alike(reader)
    alike = reader._states(ids)["prompt"]
    assert not torch.allclose(apart[0], apart[1])
    assert torch.equal(alike[0], alike[1])
