"""The recipe of tiny-vlm: a few steps of it, its scores and card, and the files that ship, which have
no weights of tiny."""

import json

import pytest
import torch
from safetensors.torch import load_file

from diptych.data.sources import open_source
from diptych.errors import InputError
from diptych.lab import tiny_vlm
from diptych.methods import store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of two steps on a few scenes, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("DATA", 8), ("ASKED", 3), ("KNOWN", 8)):
            spec = getattr(tiny_vlm, name).rpartition("count=")[0]
            patch.setattr(tiny_vlm, name, f"{spec}count={count}")
        folder = tmp_path_factory.mktemp("tiny-vlm") / "run"
        [run] = tiny_vlm.train(folder, steps=2, batch_size=4)
        yield run


def test_the_recipe_trains_what_tiny_lacks_and_is_done_once(trained):
    before = (trained / "model.json").stat().st_mtime_ns
    assert tiny_vlm.train(trained, steps=2, batch_size=4) == [trained]
    assert (trained / "model.json").stat().st_mtime_ns == before
    model = store.load(trained)
    theirs = store.load("tiny").encoder.state_dict()
    ours = model.captioner.encoder.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name in ours)
    words = store.load("tiny-lm").lm.state_dict()
    assert any(
        not torch.equal(value, words[name])
        for name, value in model.captioner.own.state_dict().items()
    )


def test_scores_and_card_have_a_row_for_each_kind(trained):
    model = store.load(trained)
    found = tiny_vlm.scores(model)
    source = open_source(tiny_vlm.ASKED)
    asked = [text for sample in source for text in sample.captions("question")]
    assert found[tiny_vlm.ALL]["n"] == len(asked)
    assert sum(row["n"] for name, row in found.items() if name != tiny_vlm.ALL) == len(asked)
    assert all(0 <= row[name] <= 1 for row in found.values() for name in ("exact", "blind"))
    assert found[tiny_vlm.ALL]["prior"] > 0
    training = store.read_description(trained)["training"]
    card = tiny_vlm.card(model, found, [training], 60.0)
    lines = card.splitlines()
    assert all(any(line.startswith(f"| {name} |") for line in lines) for name in found)
    assert "64 patches" in card
    assert len(tiny_vlm.table(found).splitlines()) == len(found) + 1


def test_the_prior_is_the_most_frequent_answer_to_the_same_question():
    source = open_source(f"{tiny_vlm.SCENES}:count=40")
    question = "what is the ground?"
    answers = [
        answer
        for sample in source
        for asked, answer in zip(
            sample.captions("question"), sample.captions("answer"), strict=True
        )
        if asked == question
    ]
    [known, unknown] = tiny_vlm.prior(source, [question, "where is the unicorn?"])
    assert answers.count(known) == max(map(answers.count, answers))
    assert unknown == ""


@pytest.fixture
def shipped(trained, tmp_path):
    """The run as it would ship."""
    description = store.read_description(trained)
    state = load_file(trained / "model.safetensors")
    ships = store.without_lent(description, state, tiny_vlm.LENT)
    store.save_model(tmp_path / "ships", *ships, half=True)
    return tmp_path / "ships"


def test_the_files_that_ship_lack_tiny_and_are_the_same_model(trained, shipped):
    assert (shipped / "model.safetensors").stat().st_size < 3_000_000
    stored = load_file(shipped / "model.safetensors")
    assert not any(name.startswith("encoder.image.") for name in stored)
    whole = store.load(trained).captioner.state_dict()
    loaded = store.load(shipped)
    for name, value in loaded.captioner.state_dict().items():
        rounded = value.dtype == torch.float32 and not name.startswith("encoder.")
        assert torch.equal(value, whole[name].half().float() if rounded else whole[name]), name
    again = store.load(loaded.save(shipped.parent / "whole"))
    assert not json.loads((shipped.parent / "whole" / "model.json").read_text()).get("lent")
    assert again.captioner.state_dict().keys() == whole.keys()


def test_another_tiny_is_refused(shipped, monkeypatch):
    wanted = json.loads((shipped / "model.json").read_text())["lent"]["encoder"]["weights"]
    real = store.checksum
    monkeypatch.setattr(
        store,
        "checksum",
        lambda path: "sha256:0" if real(path) == wanted else real(path),
    )
    with pytest.raises(InputError, match="encoder from tiny, and this version ships another one"):
        store.load(shipped)


def test_weights_that_differ_from_the_shipped_ones_are_stored():
    theirs = load_file(store.shipped()["tiny"] / "model.safetensors")
    name = next(each for each, value in theirs.items() if value.dtype == torch.float16)
    state = {f"encoder.{each}": value.float() for each, value in theirs.items()}
    state[f"encoder.{name}"] = state[f"encoder.{name}"] + 1
    description, kept = store.without_lent({"method": "cg_vlm"}, state, {"encoder": "tiny"})
    assert list(kept) == [f"encoder.{name}"]
    assert description["lent"]["encoder"]["model"] == "tiny"
