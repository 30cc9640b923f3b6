"""The claim on texts as pixels asks what it says: typos that training has not, towers of equal blocks, one
recipe."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import pixel_linguist


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("pixels"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_linguist, "PHRASES", 800)
        patch.setattr(pixel_linguist, "MEASURED", 200)
        return replace(trial, prelude=pixel_linguist.draw(trial))


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("pixel_linguist"))
    assert claim.learning == ("pixels", "words", "bpe")
    assert claim.mechanism == ("rate0",)


def test_typos_of_the_test_are_not_those_of_training():
    assert not set(pixel_linguist.KNOWN) & set(pixel_linguist.UNSEEN)
    assert {pixel_linguist.TESTS[name][0] for name in ("r1", "r1_some")} == {pixel_linguist.UNSEEN}


def test_held_out_phrases_have_misspelt_copies(trial):
    learnt = {sample.captions()[0] for sample in open_source(trial.prelude["train"])}
    held = list(open_source(trial.prelude["test"]))
    assert len(learnt) == 80
    assert len(held) == 20
    for sample in held:
        (text,) = sample.captions("caption")
        assert text not in learnt
        assert all(sample.captions(name)[0] != text for name in pixel_linguist.TESTS)


def test_arms_differ_in_what_they_read_and_in_typos_alone(trial, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(pixel_linguist, "run", lambda config, folder: begun.append(config))
    monkeypatch.setattr(pixel_linguist, "load", lambda folder: None)
    monkeypatch.setattr(pixel_linguist, "measure", lambda model, trial: {})
    for arm in pixel_linguist.claim.arms.values():
        arm(replace(trial, folder=tmp_path, quick=False))
    found = dict(zip(pixel_linguist.claim.arms, begun, strict=True))
    assert {
        name: config.config["typo_rate"] for name, config in found.items() if name != "rate0"
    } == {name: 0.3 for name in ("pixels", "words", "bpe", "untrained")}
    assert found["rate0"].config["typo_rate"] == 0
    assert {config.config["typos"] for config in begun} == {"swap+drop+double"}
    assert {config.config["head_dropout"] for config in begun} == {0.1}
    towers = {name: (config.image_tower, config.text_tower) for name, config in found.items()}
    assert towers["pixels"] == towers["rate0"] == towers["untrained"]
    assert towers["words"] == towers["bpe"]
    for tower in (towers["pixels"][0], towers["words"][1]):
        assert pixel_linguist.BLOCKS in tower
    learning = [config.recipe for name, config in found.items() if name != "untrained"]
    rates = {name: found[name].recipe.lr for name in found if name != "untrained"}
    assert rates == {"pixels": 1e-3, "words": 2e-3, "bpe": 2e-3, "rate0": 1e-3}
    assert len({str(replace(recipe, lr=1.0)) for recipe in learning}) == 1
    assert len({str((config.data, config.options, config.embed_dim)) for config in begun}) == 1


@pytest.mark.parametrize("name", ["pixels", "words"])
def test_an_arm_measures_what_is_judged(trial, tmp_path, name):
    found = pixel_linguist.claim.arms[name](replace(trial, folder=tmp_path))
    assert set(found) == set(pixel_linguist.TESTS)
    assert all(0 <= value <= 1 for value in found.values())
