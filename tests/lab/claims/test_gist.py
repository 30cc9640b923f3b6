"""The claim on matched captions asks what it says: equal steps, matches that see, labels that are
lost."""

from dataclasses import replace

import numpy as np
import pytest

from diptych.data import descriptions
from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import gist


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gist, "PARTS", {**gist.PARTS, "test": 30})
        return gist.draw(Trial(seed=5, folder=tmp_path_factory.mktemp("gist"), quick=True))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("gist"))
    assert claim.floor.chance == 1 / 12
    others = {"probe", "probe_full", "wrong", "wrong_full"}
    assert set(claim.arms) - set(claim.learning) == others


def test_names_say_nothing_and_descriptions_everything(drawn):
    bank = descriptions.read(f"{drawn}/bank.json")
    assert {len(texts) for texts in bank.values()} == {12}
    assert len({text for texts in bank.values() for text in texts}) == 144
    words = {
        word for texts in bank.values() for text in texts for word in text.replace(",", "").split()
    }
    assert not words & {name.split()[0] for name in bank}
    for colour in gist.COLOURS:
        assert {sum(colour in text for text in texts) for texts in bank.values()} == {4}


def test_parts_share_no_image_and_have_all_classes(drawn):
    parts = {name: open_source(f"{drawn}/{name}") for name in gist.PARTS}
    numbers = [{key.rpartition("-")[2] for key in part.keys()} for part in parts.values()]  # noqa: SIM118
    assert not numbers[0] & numbers[1]
    assert not numbers[2] & (numbers[0] | numbers[1])
    for part in parts.values():
        assert part.schema()["labels.class"].classes == tuple(sorted(gist.NAMES.values()))
        assert len(set(np.bincount(part.labels("class")))) == 1


def test_arms_differ_in_their_texts_and_that_of_names_in_its_rate(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(gist, "run", lambda config, folder, change: begun.__setitem__(name, config))
    monkeypatch.setattr(gist, "load", lambda spec: None)
    monkeypatch.setattr(gist, "measure", lambda model, trial, train: {})
    for name, arm in gist.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude="drawn"))
    assert set(gist.claim.arms) - set(begun) == {"probe", "probe_full"}
    data = {name: config.data["train"] for name, config in begun.items()}
    assert {data[name] for name in begun if not name.endswith("_full")} == {
        "drawn/train:shots=5:draw=3"
    }
    assert {data[name] for name in begun if name.endswith("_full")} == {"drawn/train"}
    same = {
        str(replace(config, data={}, config={}, recipe=replace(config.recipe, lr=1.0)))
        for config in begun.values()
    }
    assert len(same) == 1
    rates = {name: config.recipe.lr for name, config in begun.items()}
    assert {name for name, rate in rates.items() if rate != rates["gist"]} == {
        "class",
        "class_full",
    }
    assert begun["class"].config["bank"] == "a photo of a {}."
    options = {"bank": "drawn/bank.json"}
    assert {str(begun[name].config) for name in ("random", "gist", "wrong")} == {str(options)}


def test_texts_are_redrawn_inside_the_class_or_outside_it():
    class Pairs:
        texts = np.array([0, 1, 2, 5, 5])

    owner, rng = np.array([0, 0, 0, 1, 1, 2]), np.random.default_rng(0)
    for _ in range(20):
        inside, outside = (gist.redrawn(own)(Pairs, owner, rng) for own in (True, False))
        assert (owner[inside] == owner[Pairs.texts]).all()
        assert (owner[outside] != owner[Pairs.texts]).all()


def test_one_quick_arm_runs_and_the_matcher_sees_the_colours(tmp_path, drawn):
    found = gist.claim.arms["gist"](Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn))
    assert set(found) == {"top1", "top3", "hit", "mode"}
    assert all(0 <= value <= 1 for value in found.values())
    assert found["hit"] > 0.8


@pytest.mark.parametrize(("name", "least", "most"), [("random", 0.15, 0.55), ("wrong", 0.15, 0.55)])
def test_redrawn_texts_reach_the_pairs(name, least, most, tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(gist, "measure", lambda model, trial, train: {})
    found = gist.claim.arms[name](Trial(seed=5, folder=tmp_path, quick=True, prelude=drawn))
    assert least < found["hit"] < most  # a third of the texts name the colour by chance
