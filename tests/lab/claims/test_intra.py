"""The claim on relations of verbs asks what it says: arms that differ in relations and losses, as many random
relations as true ones, maps that a hand does not give away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_method

from diptych.data import descriptions
from diptych.data.sources import open_source
from diptych.data.worlds.tools.words import VERBS, related
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import intra
from diptych.methods.dense.intra.relations import relation_table


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    trial = Trial(seed=100, folder=tmp_path_factory.mktemp("prelude"), quick=True)
    return replace(trial, prelude=intra.draw(trial))


def test_the_floor_is_of_the_method():
    claim = block(find("intra"))
    assert claim.learning == ("intra",)
    assert claim.floor.value == intra.LEAST


def test_relations_are_as_named(trial):
    tables = {
        name: relation_table(list(VERBS), trial.prelude[name])
        for name in ("true", "random", "ones")
    }
    parts = list(VERBS.values())
    assert tables["true"].tolist() == [[float(a == b) for b in parts] for a in parts]
    assert tables["random"].sum() == tables["true"].sum()
    assert not torch.equal(tables["random"], tables["true"])
    assert tables["ones"].min() == 1
    assert all(torch.equal(table, table.T) for table in tables.values())
    assert intra.at_random(1) == intra.at_random(1) != intra.at_random(2)
    assert set(descriptions.read(trial.prelude["synonyms"])) == set(VERBS) == set(related())


def test_it_is_judged_without_the_hand_on_images_that_no_arm_has_seen(trial):
    names = ("captioned", "learnt", "seen", "unseen")
    sources = {name: open_source(trial.prelude[name]) for name in names}
    keys = {name: set(source.keys()) for name, source in sources.items()}
    assert not (keys["captioned"] | keys["learnt"]) & (keys["seen"] | keys["unseen"])
    assert not keys["captioned"] & keys["learnt"]
    captions = {text for sample in sources.pop("captioned") for text in sample.captions()}
    assert not any(verb in text for verb in VERBS for text in captions)
    tools = {}
    for name, source in sources.items():
        names = source.schema()["labels.object"].classes
        tools[name] = {names[sample.labels["object"]] for sample in source}
    assert tools["learnt"] == {"knife", "hammer", "spoon", "broom"} >= tools["seen"]
    assert not tools["unseen"] & tools["learnt"]


def test_arms_differ_in_relations_and_losses_alone(trial, tmp_path, monkeypatch):
    begun = {}
    changes = {}

    def run(config, folder, change=None):
        begun[name] = config
        changes[name] = change

    monkeypatch.setattr(intra, "run", run)
    monkeypatch.setattr(intra, "load", lambda folder: None)
    monkeypatch.setattr(intra, "measure", lambda model, trial: {})
    files = {name: name for name in ("true", "random", "ones", "synonyms")}
    prelude = {"learnt": "tools:count=4", "base": trial.prelude["base"], **files}
    for name, arm in intra.claim.arms.items():
        if name != "centre":
            arm(Trial(seed=3, folder=tmp_path, prelude=prelude))
    start = begun.pop("start")
    assert start.recipe.steps == 1
    assert {
        name: (c.config.get("relations"), c.config.get("things", 4.0)) for name, c in begun.items()
    } == {
        "supcon": (None, 0.0),
        "intra": ("true", 4.0),
        "verbs": ("true", 0.0),
        "things": (None, 4.0),
        "random": ("random", 4.0),
        "ones": ("ones", 4.0),
        "blind": ("true", 4.0),
    }
    assert {name for name, change in changes.items() if change} == {"blind"}
    ours = ("relations", "things")
    same = {
        str(
            replace(
                c,
                config={k: v for k, v in c.config.items() if k not in ours},
                recipe=replace(c.recipe, lr=1.0),
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1


def test_a_blind_map_is_the_same_for_all_verbs():
    made = make_method("intra", image="vit:image_size=16:patch=4:width=32:depth=1:heads=4")
    model = made.model
    texts = torch.randn(2, model.map.text.in_features)
    patches = torch.randn(1, 16, 32).expand(2, -1, -1)
    with torch.no_grad():
        seeing = model.map(patches, (4, 4), texts)
        intra.blind(made)
        found = model.map(patches, (4, 4), texts)
    assert not torch.equal(seeing[0], seeing[1])
    assert torch.equal(found[0], found[1])
    assert not any(weight.requires_grad for weight in model.map.text.parameters())


def test_the_gaussian_is_in_the_middle():
    heat = intra.gaussian(5, 7)
    assert np.unravel_index(heat.argmax(), heat.shape) == (2, 3)
    assert np.allclose(heat, heat[::-1, ::-1])


def test_quick_arms_run_and_are_measured(trial, tmp_path, brief):
    brief(intra)
    found = intra.claim.arms["blind"](replace(trial, folder=tmp_path))
    centre = intra.centre(trial)
    assert set(found) == set(centre) == set(intra.claim.table)
    assert found["kld"] > 0 < found["sim"] < 1
