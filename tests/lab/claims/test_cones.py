"""The claim on concepts asks what it says: the same images, steps and batches, and rates as
told."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.data.sources import open_source
from diptych.data.worlds.scenes.config import RESERVED
from diptych.lab.claim import Trial, block, find
from diptych.lab.claims import cones
from diptych.lab.claims._concepts import prompted
from diptych.methods.adapt.cones.bank import ConceptBank
from diptych.methods.store import load
from diptych.training.run import build_method


def test_the_floor_is_of_the_arms_that_learn():
    claim = block(find("cones"))
    assert set(claim.learning) == {"cones", "coop", "inversion"}
    assert set(block(find("cones"), "real").learning) == {"cones", "coop", "inversion"}


def test_what_is_learnt_from_is_new_and_apart_from_what_is_measured_on(tmp_path):
    trial = Trial(seed=3, folder=tmp_path, quick=True)
    learnt, test = (open_source(spec) for spec in cones.images(trial, "novel", 4))
    known = {sample.labels["object"] for sample in learnt}
    names = learnt.schema()["labels.object"].classes
    assert len(learnt) == 4 * len(names) == 4 * len(known) == 40
    assert not set(learnt.keys()) & set(test.keys())
    seen = open_source("scenes:count=1").schema()["labels.object"].classes
    assert not set(names) & set(seen)  # what `tiny` learnt from
    assert set(names) == set(RESERVED)


def test_arms_differ_in_method_and_rate_alone(tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(cones, "run", lambda config, out: begun.setdefault(name, []).append(config))
    monkeypatch.setattr(cones, "load", lambda out: None)
    monkeypatch.setattr(cones, "evaluate", lambda *args, **how: {"zeroshot": {"top1": 0.5}})
    for name, arm in cones.claim.arms.items():  # the patched run reads the name
        if name != "timing" and isinstance(name, str):
            arm(Trial(seed=3, folder=tmp_path))
    assert "names" not in begun
    counts = {name: len(configs) for name, configs in begun.items()}
    assert counts == {
        "cones": 4, "random": 1, "held": 3, "coop": 3, "inversion": 3, "second": 1, "tuned": 1
    }  # fmt: skip
    for at in range(3):
        same = {
            str(
                replace(
                    begun[name][at],
                    method="",
                    config={},
                    recipe=replace(begun[name][at].recipe, lr=1.0, steps=1, epochs=1),
                )
            )
            for name in ("cones", "held", "coop", "inversion")
        }
        assert len(same) == 1
    assert begun["random"][0].data == begun["cones"][3].data
    assert {
        name: {config.recipe.steps for config in configs} for name, configs in begun.items()
    } == {name: {1} if name in ("held", "tuned") else {cones.STEPS} for name in begun}
    assert begun["inversion"][0].config["position"] == "name"
    second, still = (begun[name][0] for name in ("second", "tuned"))
    assert second.config == still.config
    assert second.config["second"]["steps"] == cones.FINE


def test_a_concept_that_is_held_is_its_name(tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    assert cones.accuracy(trial, ("cones", cones.STILL, {}), "novel", 1) == cones.accuracy(
        trial, None, "novel", 1
    )


def test_a_step_is_timed_on_both_sides(tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    found = cones.timing(trial)
    assert set(found) == {"step", "step_whole", "step_drawn"}
    assert all(value > 0 for value in found.values())
    side = cones.Side(trial, "cones", {})
    assert side.model.encoder.text is None
    before = side.model.bank.vectors.detach().clone()
    side.seconds(True)
    assert not torch.equal(before, side.model.bank.vectors)


@pytest.mark.parametrize("place", [None, "name"])
def test_a_step_of_drawing_moves_what_is_searched_for_alone(place, tmp_path):
    drawing = cones.Drawing(Trial(seed=5, folder=tmp_path, quick=True), place)
    before = {name: p.detach().clone() for name, p in drawing.model.named_parameters()}
    drawing.model.denoiser.out.weight.data.normal_()  # it is zero at first
    before["denoiser.out.weight"] = drawing.model.denoiser.out.weight.detach().clone()
    drawing.seconds()
    now = dict(drawing.model.named_parameters())
    assert {name for name, p in before.items() if not torch.equal(p, now[name])} == {"bank.vectors"}


BOXES = "scenes:number=1-2:texts=caption:split=novel:count=24"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A run that has a detection head."""
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("head"), quick=True)
    data = {"base": "scenes:number=1-2:texts=caption:count=32"}
    how = {"base": {"steps": 3, "batch_size": 8}, "head": {"width": 32, "depth": 1}}
    return cones.searched(trial, "head", "detect", data, "tiny", **how)


@pytest.mark.parametrize("place", ["context", "name"])
def test_prompts_that_do_not_move_find_what_the_names_find(place, head, tmp_path):
    trial = Trial(seed=5, folder=tmp_path, quick=True)
    still = cones.searched(trial, "still", "detect", {"train": BOXES}, head, place=place)
    assert cones.precision(still, BOXES) == cones.precision(head, BOXES)
    model, names = load(still), load(head)
    assert model.encoder.text is None
    names.set_classes(model.classes)
    rows, mask = model.delivered.class_rows()
    wanted, there = names.delivered.class_rows()
    assert torch.equal(mask, there)
    torch.testing.assert_close(rows, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["context", "name"])
def test_only_vectors_of_their_own_place_learn_through_the_text_tower(place):
    config = cones.settings(Trial(seed=1, folder=Path(), quick=True), "cones", BOXES, 0.1, {})
    config = replace(
        config, config={"task": "generate", "head": {"size": 8, "width": 32, "depth": 1}}
    )
    method, model = build_method(config, None)
    side = method.side.module
    prompted(place)(method)
    concepts = side.concepts(("owl", "fire engine"), "prompt")
    plain = ConceptBank(192)
    plain.fill(concepts)
    model.bank.fill(concepts)
    rows, mask = model.bank.as_text_embeddings()
    torch.testing.assert_close(rows, plain.as_text_embeddings()[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(mask, plain.as_text_embeddings()[1])
    rows.square().sum().backward()
    named = sum(sum(each.learnt) for each in concepts.values())
    before = len(side.tokenizer.ids("a photo of a"))
    assert len(model.bank.vectors) == (named if place == "name" else 2 * before)
    assert (model.bank.vectors.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in side.parameters())
    with torch.no_grad():
        model.bank.vectors.add_(0.1)
        stored = ConceptBank(192)
        stored.lay(model.bank.plan)
        stored.load_state_dict(model.bank.state_dict())
        torch.testing.assert_close(
            stored.as_text_embeddings()[0], model.bank.as_text_embeddings()[0]
        )


def test_boxes_of_new_things_are_found_from_one_head(tmp_path):
    reported = cones.found(Trial(seed=5, folder=tmp_path, quick=True))
    assert set(reported) == {"found_names", "found", "found_prompts"}
    for numbers in reported.values():
        assert set(numbers) == {"ap50", "mask_ap50"}
        assert all(0 <= value <= 1 for value in numbers.values())


@pytest.fixture(scope="module")
def cells(data_pack, tmp_path_factory):
    """A quick trial on a few cells that were cut out."""
    data_pack("blood-cells")
    trial = Trial(seed=5, folder=tmp_path_factory.mktemp("cells"), quick=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cones, "HELD", {"train": 20, "val": 4, "test": 5})
        yield replace(trial, prelude=cones.cut(trial))


def test_cells_are_cut_out_of_smears_of_their_own_split(cells):
    counts = {"train": 20, "measured": 9}
    for part, count in counts.items():
        source = open_source(cells.prelude[part])
        assert source.schema()["labels.class"].classes == tuple(sorted(cones.KINDS))
        labels = Counter(source[at].labels["class"] for at in range(len(source)))
        assert labels == dict.fromkeys(range(3), count)
        assert source[0].images["main"].decode().size == (cones.SIDE, cones.SIDE)
    other = replace(cells, seed=6, folder=cells.folder / "other")
    again = cones.cut(other)
    same = {part: pixels(again[part]) == pixels(cells.prelude[part]) for part in counts}
    assert same == {"train": False, "measured": True}


def pixels(spec):
    """The images of a source."""
    source = open_source(spec)
    return [source[at].images["main"].decode().tobytes() for at in range(len(source))]


def test_arms_say_which_cells_they_name_rightly(cells):
    count = len(open_source(cells.prelude["measured"]))
    assert cones.by_name(cells)["novel"].shape == (count,)
    found = cones.celled("cones", 0.1)(cells)
    assert set(found) == {"novel", "novel1", "novel4", "novel16"}
    assert found["novel"].shape == (count,)
    parts = [found[f"novel{shots}"].mean() for shots in cones.SHOTS]
    assert found["novel"].mean() == pytest.approx(np.mean(parts))
