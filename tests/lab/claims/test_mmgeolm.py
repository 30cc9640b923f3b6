"""The claim on diagrams asks what it says: lists of edits, of other figures and of other names, and as
many images and captions for all arms."""

from dataclasses import replace

import pytest

from diptych.data.sources import open_source
from diptych.lab.claim import Trial, best
from diptych.lab.claims import mmgeolm
from diptych.methods.pretrain.mmgeolm.negatives import same_figure


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmgeolm, "run", lambda settings, out: None)
        for name, count in {"SINGLE": 300, "LISTED": 120, "MEASURED": 100}.items():
            patch.setattr(mmgeolm, name, count)
        return mmgeolm.draw(Trial(seed=5, folder=folder, quick=True))


def test_lists_differ_in_one_fact_and_random_ones_are_other_figures(drawn):
    lists, random = (list(open_source(drawn[name])) for name in ("lists", "random"))
    assert [s.key for s in lists] == [s.key for s in random]
    captions = {s.captions()[0] for s in random}
    for sample, other in zip(lists, random, strict=True):
        own = sample.captions()[0]
        assert not any(same_figure(own, edit.captions()[0]) for edit in sample.edits)
        assert {edit.captions()[0] for edit in other.edits} <= captions - {own}
        assert len(sample.edits) >= 4
        for edit in sample.edits:  # a model need not read letters to tell them
            assert any(edit.labels[name] != sample.labels[name] for name in ("relation", "shape"))


def test_some_names_of_renamed_lists_say_the_same(drawn):
    samples = open_source(drawn["renamed"])
    kinds = [edit.kind for s in samples for edit in s.edits]
    assert 0.1 < kinds.count("renamed") / len(kinds) < 0.3
    for sample in samples:
        for edit in sample.edits:
            same = same_figure(sample.captions()[0], edit.captions()[0])
            assert same == (edit.kind == "renamed")


def test_held_out_figures_have_lists_of_five_and_are_not_learnt(drawn):
    measured = open_source(drawn["measured"])
    assert {len(s.edits) for s in measured} == {4}
    parts = ("single", "further", "lists")
    learnt = [{s.captions()[0] for s in open_source(drawn[name])} for name in parts]
    assert not set().union(*learnt) & {s.captions()[0] for s in measured}
    keys = [{s.key for s in open_source(drawn[name])} for name in parts]
    assert len(set().union(*keys)) == sum(map(len, keys))


def test_arms_see_as_many_images_and_captions_as_the_batch_or_fewer(tmp_path, monkeypatch, drawn):
    begun = {}

    def run(config, folder):
        begun[name] = config
        raise StopIteration

    monkeypatch.setattr(mmgeolm, "run", run)
    made = {name: arm for name, arm in mmgeolm.claim.arms.items() if name != "start"}
    made["at_a_rate"] = mmgeolm.batch(rate=0.5)
    for name, arm in made.items():  # noqa: B007  (the patched run reads it)
        with pytest.raises(StopIteration):
            arm(Trial(seed=100, folder=tmp_path, prelude={**drawn, "start": "tiny"}))
    of_batch = begun["batch"].recipe.steps * begun["batch"].recipe.batch_size
    for config in begun.values():
        if "texts" not in config.config:
            continue
        seen = config.recipe.steps * config.recipe.batch_size
        assert 0.9 * of_batch <= seen * (1 + 1 + config.config["images"]) <= of_batch
        assert 0.9 * of_batch <= seen * (1 + config.config["texts"] + 1) <= of_batch
    assert begun.pop("at_a_rate").recipe.lr == 0.5
    rates = {name: config.recipe.lr for name, config in begun.items()}
    assert rates == {
        name: best(mmgeolm.RATES["batch" if name == "batch" else "lists"]) for name in rates
    }
    data = {name: config.data["train"] for name, config in begun.items()}
    assert data == {
        "batch": drawn["further"],
        "lists": drawn["lists"],
        "random": drawn["random"],
        "renamed": drawn["renamed"],
    }


def test_the_floor_is_of_what_batches_learn_too():
    assert mmgeolm.claim.floor.metric == "relation"
    assert mmgeolm.claim.learning == ("batch", "lists")
    assert mmgeolm.claim.floor.value == pytest.approx(0.65)


def test_a_quick_arm_runs(tmp_path, brief, monkeypatch):
    brief(mmgeolm)
    for name, count in {"SINGLE": 1300, "LISTED": 400, "MEASURED": 200}.items():
        monkeypatch.setattr(mmgeolm, name, count)
    trial = Trial(seed=100, folder=tmp_path, quick=True)
    trial = replace(trial, prelude=mmgeolm.draw(trial))
    found = mmgeolm.claim.arms["lists"](trial)
    assert set(found) == set(mmgeolm.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
