"""The claim on suppressed factors asks what it says: texts of three factors, equal steps and widths,
groups of equal sizes."""

import numpy as np

from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import mcl
from diptych.training.run import build_method


def test_texts_name_the_three_factors_alone_and_pairs_differ_in_the_lines(tmp_path):
    places = mcl.draw(Trial(seed=3, folder=tmp_path, quick=True))
    sample = open_source(places["pairs"])[0]
    (text,) = sample.captions()
    words = text.replace(",", "").split()
    assert [words[1], words[4], words[-2]] == [
        open_source(places["pairs"]).schema()[f"labels.{name}"].classes[sample.labels[name]]
        for name in mcl.FACTORS
    ]
    [edit] = sample.edits
    (other,) = edit.captions()
    changed = [a for a, b in zip(words, other.replace(",", "").split(), strict=True) if a != b]
    assert changed == [words[-2]]
    assert {name for name in mcl.FACTORS if sample.labels[name] != edit.labels[name]} == {"lines"}
    keys = [set(open_source(place).keys()) for place in places.values()]
    assert not keys[0] & keys[1]


def test_arms_have_equal_steps_and_widths_and_differ_in_their_groups_alone(tmp_path, monkeypatch):
    begun = {}
    changes = {}

    def run(config, folder, change=None):
        begun[name] = config
        changes[name] = change

    monkeypatch.setattr(mcl, "run", run)
    monkeypatch.setattr(mcl, "load", lambda folder: None)
    monkeypatch.setattr(mcl, "measure", lambda model, places: {})
    for name, arm in mcl.claim.arms.items():  # noqa: B007  (the patched run reads it)
        arm(Trial(seed=3, folder=tmp_path, prelude={"train": "train/*.tar"}))
    long = begun.pop("long")
    untrained = begun.pop("untrained")
    assert untrained.recipe.steps == 1
    assert untrained.config == long.config
    assert {each.recipe.steps for each in begun.values()} == {mcl.STEPS}
    assert long.recipe.steps == 2 * mcl.STEPS
    assert {each.embed_dim for each in begun.values()} == {mcl.WIDTH}
    assert long.embed_dim == 2 * mcl.WIDTH
    assert {each.config["stages"] for each in begun.values()} == {1}
    assert {name: each.config["clusters"] for name, each in begun.items()} == {
        "random": mcl.CLUSTERS,
        "mcl": mcl.CLUSTERS,
        "one": 1,
    }
    assert {name for name, change in changes.items() if change} == {"random"}
    assert all(each.config["options"].items() <= long.config.items() for each in begun.values())


def test_dealt_groups_have_the_sizes_of_the_clusters(tmp_path):
    places = mcl.draw(Trial(seed=3, folder=tmp_path, quick=True))
    settings = mcl.settings(Trial(seed=3, folder=tmp_path, prelude=places), "mcl")
    text = "something red, framed in blue, crossed by level lines"
    tokenizer = build(settings.tokenizer, [text])
    method, _ = build_method(settings, tokenizer)
    vectors = np.random.default_rng(0).normal(size=(400, 8))
    clusters, _ = method.cluster(vectors, 0)
    mcl.deal(method)
    dealt, _ = method.cluster(vectors, 0)
    assert (np.bincount(clusters) == np.bincount(dealt)).all()
    assert (clusters != dealt).mean() > 0.5
    assert (method.cluster(vectors, 0)[0] == dealt).all()


def test_the_floor_is_above_chance_of_what_every_arm_learns():
    claim = block(find("mcl"))
    assert claim.floor.metric == "colour"
    assert "one" not in claim.learning


def test_a_quick_arm_runs_and_is_measured(tmp_path, brief):
    brief(mcl)
    trial = Trial(
        seed=3,
        folder=tmp_path / "arm",
        quick=True,
        prelude=mcl.draw(Trial(seed=3, folder=tmp_path, quick=True)),
    )
    found = mcl.claim.arms["mcl"](trial)
    assert set(found) == {*mcl.FACTORS, "pairs"}
