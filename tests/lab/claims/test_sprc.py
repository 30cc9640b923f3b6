"""SPRC's claim asks what it says: one backbone, equal steps and data, and arms that differ in the
prompt alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import sprc
from diptych.methods.store import load


@pytest.mark.parametrize("name", ["claim", "real"])
def test_the_zeroed_arm_need_not_learn(name):
    found = block(find("sprc"), name)
    assert "zeroed" not in found.learning


def test_floors_are_the_size_of_the_galleries(data_pack):
    held_out = open_source(f"{sprc.SCENES}:count={6 * sprc.GROUPS}:split=val")
    assert len(held_out) - 1 == round(1 / sprc.claim.floor.chance)
    data_pack("glyph-variants")  # skips where it is not
    assert len(open_source(f"{sprc.VARIANTS}:split=test")) - 1 == round(1 / sprc.real.floor.chance)


@pytest.mark.parametrize("name", ["claim", "real"])
def test_arms_differ_in_the_prompt_and_its_losses_alone(tmp_path, monkeypatch, name):
    begun, made = {}, {}
    monkeypatch.setattr(
        sprc, "run", lambda config, folder, change: begun.__setitem__(arm, (config, change))
    )
    monkeypatch.setattr(
        sprc, "load", lambda folder: SimpleNamespace(composer=made.setdefault(arm, stand_in()))
    )
    monkeypatch.setattr(sprc, "measure", lambda model, held_out: {})
    prelude = {"data": "scenes:siblings=6", "held_out": "scenes:siblings=6", "pairs": "tiny"}
    for arm, function in getattr(sprc, name).arms.items():  # noqa: B007  (what is patched reads it)
        function(Trial(seed=3, folder=tmp_path, prelude=prelude))
    free = ("prompts", "rtc", "align")
    same = {
        str(
            replace(
                config,
                config={k: v for k, v in config.config.items() if k not in free},
                recipe=replace(config.recipe, lr=1.0),
            )
        )
        for config, _ in begun.values()
    }
    assert len(same) == 1
    reported = {
        arm: {k: config.config[k] for k in free if k in config.config}
        for arm, (config, _) in begun.items()
    }
    expected = {
        "image": {"rtc": 0.0, "align": 0.0},
        "text": {"rtc": 0.0, "align": 0.0},
        "sum": {"rtc": 0.0, "align": 0.0},
        "pseudo": {"prompts": 1},
        ("sprc", "zeroed"): {},
    }
    more = {"four": {"prompts": 4}, "no_align": {"align": 0.0}, "no_rtc": {"rtc": 0.0}}
    assert reported == expected | (more if name == "claim" else {})
    trained = {}
    for arm, (_, change) in begun.items():
        method = SimpleNamespace(model=stand_in())
        change(method)
        trained[arm] = hasattr(method.model, "ask")
    alone = {"image", "text", "sum"}
    assert {arm for arm, changed in trained.items() if changed} == alone
    assert {arm for arm, composer in made.items() if hasattr(composer, "ask")} == {
        *alone,
        ("sprc", "zeroed"),
    }


def stand_in():
    return SimpleNamespace(qformer=SimpleNamespace(config=SimpleNamespace(width=4)))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=sprc.scenes(trial))


def test_baselines_read_what_they_say(quick):
    """On the Q-Former of the prelude: the sum is of the other two, zeros know no image."""
    composer = load(quick.prelude["pairs"]).composer
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    ids, lengths = torch.randint(3, 60, (2, 6), generator=generator), torch.tensor([6, 4])
    with torch.no_grad():
        text, image, both, zeros = (
            ask(composer, x, ids, lengths)
            for ask in (sprc.of_text, sprc.of_image, sprc.of_both, sprc.of_zeros)
        )
        torch.testing.assert_close(both, normalize(text + image, dim=-1))
        torch.testing.assert_close(sprc.of_text(composer, x.flip(0), ids, lengths), text)
        torch.testing.assert_close(sprc.of_zeros(composer, x.flip(0), ids, lengths), zeros)
        torch.testing.assert_close(sprc.of_image(composer, x, ids.flip(0), lengths.flip(0)), image)
        own, prompts = composer.ask(x, ids, lengths)
        assert not torch.allclose(composer.ask(x.flip(0), ids, lengths)[0], own)
        assert prompts.shape == (2, 8, 64)
        sprc.asking(sprc.of_both)(composer)
        torch.testing.assert_close(composer.ask(x, ids, lengths)[0], both)


def test_one_quick_arm_runs_and_is_measured_on_scenes_it_did_not_learn(quick, tmp_path):
    found = sprc.claim.arms["sprc", "zeroed"](replace(quick, folder=tmp_path))
    assert found["sprc"] != found["zeroed"]
    found = found["zeroed"]
    assert {"r1", "r5", "rs1", "remove", "swap"} <= found.keys()
    assert all(0 <= value <= 1 for value in found.values())
    learnt, held_out = open_source(quick.prelude["data"]), open_source(quick.prelude["held_out"])
    assert not set(learnt.keys()) & set(held_out.keys())
