"""From figures with negatives to an encoder, and with it to a language model that answers about figures,
on the command line."""

import json

import pytest
import torch
from safetensors.torch import load_file

import diptych as library
from diptych.cli import main
from diptych.data.sources import open_source

FIGURES = "diagrams:size=32"
TOWERS = (
    *("--image-tower", "vit:image_size=32:patch=16:width=32:depth=2:heads=2:pooling=map"),
    *(
        "--text-tower",
        "text:width=16:depth=1:heads=2",
        "--tokenizer",
        "bpe:vocab_size=300:context=48",
    ),
    *("--embed-dim", "16"),
)
LM = ("--method.lm", "text:width=32:depth=1:heads=2")
SHORT = ("--steps", "2", "--batch-size", "8", "--quiet")
CHAIN = ("--method.layer", "penultimate", "--method.grid", "2", "--method.max_tokens", "3")


def done(*words):
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of an encoder, `geo`, and of a language model with it, `aligned` and `answers`."""
    place = tmp_path_factory.mktemp("mmgeolm")
    data = ("--data", f"{FIGURES}:count=16:edits=all:number=2")
    done("train", "mmgeolm", *data, *TOWERS, *SHORT, "--out", place / "geo")
    done(
        *("train", "cg_vlm", "--init", place / "geo", *LM, *CHAIN, "--method.contrast", "0"),
        *("--data", f"{FIGURES}:count=16", *SHORT, "--out", place / "aligned"),
    )
    data = ("--data", f"instructions={FIGURES}:count=16:questions=all")
    done(
        *("train", "cg_vlm", "--init", place / "aligned", *CHAIN, "--method.turns", "1"),
        *(*data, *SHORT, "--out", place / "answers"),
    )
    return place


def weights(run):
    return load_file(run / "model.safetensors")


def same(before, after, prefix):
    """Whether all weights below a prefix are equal."""
    names = [name for name in after if name.startswith(prefix)]
    assert names, prefix
    return all(torch.equal(before[name], after[name]) for name in names)


def own_of(run):
    """The weights of the encoder that a language model reads, named as those of the encoder, but for
    its last block, which is not read."""
    found = {name.removeprefix("encoder."): value for name, value in weights(run).items()}
    return {name: value for name, value in found.items() if name in weights(run.parent / "geo")}


def test_each_stage_trains_its_parts_and_the_encoder_stays_as_it_was_tuned(runs):
    tuned, aligned, answers = (weights(runs / name) for name in ("geo", "aligned", "answers"))
    for later in ("aligned", "answers"):
        assert same(tuned, own_of(runs / later), "image.")
    assert same(aligned, answers, "encoder.")
    assert not same(aligned, answers, "adapter.")
    assert not same(aligned, answers, "own.")
    assert library.load(str(runs / "aligned")).captioner.patches.layer == "penultimate"


def test_the_projector_stage_leaves_the_language_model(runs, tmp_path):
    done(
        *("train", "cg_vlm", "--init", runs / "aligned", *CHAIN, "--method.contrast", "0"),
        *("--data", f"{FIGURES}:count=16", *SHORT, "--out", tmp_path / "more"),
    )
    before, after = weights(runs / "aligned"), weights(tmp_path / "more")
    assert same(before, after, "own.")
    assert same(before, after, "encoder.")
    assert not same(before, after, "adapter.")


def test_figures_are_asked_by_kind(runs, diptych):
    data = ("--data", f"{FIGURES}:count=6:split=test:questions=all:edits=all:number=4")
    run = runs / "answers"
    called = diptych(
        "evaluate", run, *data, "--suite", "answers", "--by", "log_prob", "--blind", "--json"
    )
    assert called.code == 0, called.err
    found = json.loads(called.out)["answers"]
    rows = found["by_kind"]
    assert set(rows) == {"letters", "shape", "relation", "number"}
    assert sum(row["n"] for row in rows.values()) == found["n"] == 24
    mean = sum(row["n"] * row["chosen"] for row in rows.values()) / found["n"]
    assert mean == pytest.approx(found["chosen"])
    assert rows["number"]["chance_chosen"] == pytest.approx(0.25)
    assert 0 <= rows["shape"]["blind_chosen"] <= 1
    assert found["chance_paired"] > 0  # an edit is asked the same
    called = diptych("evaluate", run, *data, "--suite", "answers")
    assert called.code == 0, called.err
    assert "answers by kind:" in called.out
    assert diptych("generate", run, "which shape is drawn?", "--images", run).code == 2


KINDS = ("edits", "rule", "retrieval", "random")


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Files of the same figures with nine negatives of one kind each, by kind."""
    place = tmp_path_factory.mktemp("lists")
    for kind in KINDS:
        done(
            *("data", "negatives", f"{FIGURES}:edits=all:number=9", "--kinds", kind),
            *("--each", "9", "--count", "16", "--out", place / kind),
        )
    return {kind: place / kind / "align.json" for kind in KINDS}


def tune(file, out, *options):
    """Tune an encoder on lists; returns the negatives of the lists by stage, as logged."""
    done("train", "mmgeolm", *TOWERS, *SHORT, "--data", file, *options, "--out", out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {row["stage"]: row["negatives"] for row in rows if "negatives" in row}


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_is_tuned_on_each_kind_of_negative(kind, lists, tmp_path):
    samples = open_source(str(lists[kind]))
    found = {edit.kind for sample in samples for edit in sample.edits}
    assert found == ({"letters", "shape", "relation", "number"} if kind == "edits" else {kind})
    options = ("--method.order", "[text]", "--method.texts", "3")
    assert tune(lists[kind], tmp_path / "geo", *options) == {"text": pytest.approx(3, abs=0.5)}


@pytest.mark.parametrize("number", [1, 5, 9])
def test_an_encoder_is_tuned_on_any_number_of_negatives(number, lists, tmp_path):
    options = ("--method.texts", number, "--method.images", number)
    found = tune(lists["random"], tmp_path / "geo", *options)
    assert set(found) == {"text", "image"}
    # figures that look alike, or say the same to the tokenizer's context, are left out
    assert number - 0.5 <= found["image"] <= number
    assert number - 0.5 <= found["text"] <= number


def test_a_language_model_on_an_encoder_of_random_negatives_is_asked_by_kind(
    lists, tmp_path, diptych, capsys
):
    tune(lists["random"], tmp_path / "geo", "--method.order", "[text]")
    done(
        *("train", "cg_vlm", "--init", tmp_path / "geo", *LM, *CHAIN, "--method.contrast", "0"),
        *("--data", f"{FIGURES}:count=16", *SHORT, "--out", tmp_path / "aligned"),
    )
    done(
        *("train", "cg_vlm", "--init", tmp_path / "aligned", *CHAIN, "--method.turns", "1"),
        *("--data", f"instructions={FIGURES}:count=16:questions=all"),
        *(*SHORT, "--out", tmp_path / "answers"),
    )
    assert same(weights(tmp_path / "geo"), own_of(tmp_path / "answers"), "image.")
    capsys.readouterr()  # what training said
    data = ("--data", f"{FIGURES}:count=6:split=test:questions=all")
    called = diptych(
        *("evaluate", tmp_path / "answers", *data, "--suite", "answers", "--by", "log_prob"),
        "--json",
    )
    assert called.code == 0, called.err
    rows = json.loads(called.out)["answers"]["by_kind"]
    assert set(rows) == {"letters", "shape", "relation", "number"}
    assert all(0 <= row["chosen"] <= 1 for row in rows.values())
