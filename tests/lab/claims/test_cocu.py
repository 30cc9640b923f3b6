"""The claim of cocu: every arm begins as `tiny` does, and its ablations change what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import make_method, random_images

from diptych.data.sources import open_source, rewritten
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import cocu as claim
from diptych.lab.claims.cocu import TEXT_TOWER, TOWER, added, at_random, begin, concepts, things
from diptych.methods.store import load

SCENES = "scenes:number=3:same=0:described=1:count=24:size=64"


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """The sources with the concepts of each arm, by name."""
    folder = tmp_path_factory.mktemp("concepts")
    found = {}
    for arm, (_, neighbours) in claim.ARMS.items():
        concepts(SCENES, arm, neighbours, folder / f"{arm}.jsonl", 7)
        found[arm] = f"rewritten:{folder / f'{arm}.jsonl'}"
    return found


@pytest.fixture(scope="module")
def written(specs):
    return {arm: open_source(spec) for arm, spec in specs.items()}


def named(sample):
    return [text.text for text in sample.texts if text.role == "concept"]


def test_arms_begin_with_the_weights_of_tiny(tiny):
    made = make_method(
        "cocu",
        image=TOWER,
        text=TEXT_TOWER,
        embed_dim=192,
        words=tiny.tokenizer,
        projection="linear",
    )
    begin(made)
    encoder = made.model.encoder.eval()
    x = random_images(2, size=64)
    with torch.no_grad():
        tokens = encoder.image.embed(x)
        torch.testing.assert_close(tokens, tiny.encoder.image.embed(x))
        first = encoder.image.stages[0].transformer(tokens)
        torch.testing.assert_close(first, tiny.encoder.image.blocks(tokens, stop=3))
    own = made.model.to_model(tiny.tokenizer, encoder.image.preprocess, "mine")
    torch.testing.assert_close(own.embed_texts(["a cat"]), tiny.embed_texts(["a cat"]))
    assert own.segment_by(x, ["cat", "dog"], own.embed_texts(["cat", "dog"])).shape == (2, 64, 64)


def test_nouns_are_in_the_caption_and_the_method_adds_others(written):
    source = open_source(SCENES)
    for sample in written["nouns"]:
        said = " ".join(sample.captions())
        assert all(name in said for name in named(sample))
    more = [len(named(sample)) for sample in written["cocu"]]
    assert np.mean(more) > 1.5
    assert set(named(written["cocu"][0])) <= set(things(source))


def test_random_concepts_have_the_scores_and_clusters_of_the_methods(written):
    pairs = list(zip(written["cocu"], written["random_concepts"], strict=True))
    assert any(named(one) != named(other) for one, other in pairs)
    for one, other in pairs:
        own, drawn = (
            [dict(text.attrs) for text in sample.texts if text.role == "concept"]
            for sample in (one, other)
        )
        assert own == drawn
        assert len(set(named(other))) == len(named(other))


def test_random_names_are_a_function_of_the_seed():
    given = [({"cat": 2.0, "dog": 1.0}, [["dog"], ["cat"]])] * 6
    names = ["cat", "dog", "car", "key", "star"]
    one, again, other = ([*at_random(given, names, seed)] for seed in (1, 1, 2))
    assert one == again != other
    for scores, clusters in one:
        assert list(scores.values()) == [2.0, 1.0]
        first, second = scores
        assert clusters == [[second], [first]]


def test_random_retrieval_finds_other_captions(written):
    same = [
        set(named(one)) == set(named(other))
        for one, other in zip(written["cocu"], written["random_retrieval"], strict=True)
    ]
    assert np.mean(same) < 0.5


def test_added_concepts_are_right_if_the_image_shows_them(written, tmp_path):
    assert 0 < added(written["cocu"]) < 1
    assert added(written["nouns"]) == 0  # none is added
    source = open_source(SCENES)
    classes = source.schema()["masks.class"].classes
    rows = []
    for sample in source:
        numbers = np.unique(np.asarray(sample.masks["class"].decode()))
        shown = [classes[n] for n in numbers if n < len(classes) and classes[n] != "background"]
        rows.append(({name: 1.0 for name in shown}, []))
    rewritten.write(tmp_path / "a.jsonl", SCENES, source, "facts", rows)
    assert added(open_source(f"rewritten:{tmp_path / 'a.jsonl'}")) == 1


def test_the_floor_is_of_the_arms_that_learn():
    found = block(find("cocu"))
    assert found.learning == ("nouns", "cocu", "all_told")
    assert found.floor.chance == 1 / claim.CLASSES


def test_arms_differ_in_concepts_and_how_they_are_drawn_alone(tmp_path, monkeypatch):
    begun = {}
    changes = {}

    def run(config, folder, change=None):
        name = folder.parent.name
        begun[name] = config
        changes[name] = change

    monkeypatch.setattr(claim, "run", run)
    monkeypatch.setattr(claim, "load", lambda folder: None)
    monkeypatch.setattr(claim, "measure", lambda model, trial, arm: {})
    prelude = {arm: f"{arm}.jsonl" for arm in claim.ARMS} | {"words": "tokenizer.json"}
    for name, arm in claim.claim.arms.items():
        arm(Trial(seed=3, folder=tmp_path / name, prelude=prelude))
    assert {name: c.data["train"] for name, c in begun.items()} == {
        **{arm: f"{arm}.jsonl" for arm in claim.ARMS},
        "top": "cocu.jsonl",
    }
    assert {name for name, c in begun.items() if "sampling" in c.config} == {"top"}
    assert set(changes.values()) == {begin}
    same = {
        str(
            replace(
                c,
                data={},
                config={k: v for k, v in c.config.items() if k != "sampling"},
                recipe=replace(c.recipe, lr=1.0),
            )
        )
        for c in begun.values()
    }
    assert len(same) == 1


def test_one_quick_arm_runs_and_is_measured(specs, tiny, tmp_path, brief):
    brief(claim)
    words = tmp_path / "tokenizer.json"
    words.write_text(json.dumps(tiny.tokenizer.to_dict()), encoding="utf-8")
    test = "scenes:number=3:same=0:split=val:count=6:size=64"
    trial = Trial(
        seed=7,
        folder=tmp_path / "arm",
        quick=True,
        prelude={**specs, "test": test, "words": str(words)},
    )
    found = claim.claim.arms["cocu"](trial)
    assert set(found) == set(claim.claim.table)
    assert all(0 <= value <= 1 for value in found.values())
