"""An encoder of texts alone, from its method to its uses: trained, resumed, loaded, embedded,
searched, evaluated, exported, continued."""

import importlib
import json
import random
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import diptych
from diptych.cli import main
from diptych.data.tokenizers import pad_batch
from diptych.errors import InputError
from diptych.methods import registry, store
from diptych.methods.make import Make
from diptych.models.model import Model, TextModel
from diptych.testing import check_method
from diptych.training import run as training
from diptych.training.config import resolve

HERE = Path(__file__).parent
FILE = str(HERE / "simcse.py")
WORDS = ("big", "small", "old", "new", "red", "blue", "grey", "pink", "cat", "dog", "house")
SETTINGS = {"batch_size": 16, "epochs": 1, "quiet": True}


def text(rng: random.Random) -> str:
    """One of many short texts."""
    return "a " + " ".join(rng.sample(WORDS, 4))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """lines.jsonl, of texts, and pairs.jsonl, of texts with a graded similarity."""
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    lines = [{"caption": text(rng)} for _ in range(48)]
    pairs = [{"caption": text(rng), "pair": text(rng), "score": rng.random()} for _ in range(30)]
    for name, rows in (("lines", lines), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(data) -> Path:
    diptych.train(
        FILE, str(data / "lines.jsonl"), data / "run", val=str(data / "pairs.jsonl"), **SETTINGS
    )
    return data / "run"


@pytest.fixture(scope="module")
def model(run) -> TextModel:
    return diptych.load(run)


@pytest.fixture
def named(monkeypatch):
    """The method under its name, as a third party's entry point gives it."""
    point = EntryPoint("simcse", "tests.methods.simcse", "diptych.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.cards.cache_clear()
    yield importlib.import_module("tests.methods.simcse")
    registry.cards.cache_clear()


def test_it_keeps_the_contract_of_methods(named, two):
    check_method("simcse", ranks=two)


def test_a_run_is_a_text_model_and_validates_by_graded_pairs(run, model):
    assert type(model) is TextModel
    assert model.encoder.config()["image"] is None
    assert model.embed_texts(["a red cat", "b"]).shape == (2, 32)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("val/spearman" in line for line in lines)


def test_what_needs_images_is_missing_in_one_line(model):
    for name in ("embed_images", "preprocess", "set_classes", "classes"):
        assert not hasattr(model, name)
        with pytest.raises(InputError, match=f"embeds texts alone and has no {name}; name a model"):
            getattr(model, name)
    with pytest.raises(InputError, match="has no image tower: it embeds texts alone"):
        model.encoder.embed_images(torch.zeros(1, 3, 8, 8))
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        _ = model.colour


class Killed(Exception):
    pass


def kill(method) -> None:
    """Let a method's third step fail."""

    def after_step(carry, at):
        if at.step == 2:
            raise Killed

    method.after_step = after_step


def test_a_run_under_a_name_loads_and_resumes_to_equal_bytes(named, data):
    config = resolve(
        "simcse",
        {"train": str(data / "lines.jsonl")},
        recipe={"batch_size": 16, "epochs": 2},
        options={"save_every": 2, "quiet": True},
    )
    training.run(config, data / "whole")
    with pytest.raises(Killed):
        training.run(config, data / "cut", change=kill)
    training.run(config, data / "cut", resume=True)
    whole = diptych.load(data / "whole")
    assert diptych.load(data / "cut").identity == whole.identity
    assert type(whole) is TextModel


def test_validation_data_without_graded_pairs_is_refused_before_the_first_step(data):
    lines = str(data / "lines.jsonl")
    with pytest.raises(InputError, match=r"has no labels\.\*, which validation needs"):
        diptych.train(FILE, lines, data / "no", val=lines, **SETTINGS)
    assert not (data / "no" / "metrics.jsonl").exists()


def test_its_texts_are_embedded_indexed_and_found(run, data, model, capsys):
    pytest.importorskip("pyarrow")
    assert main(["embed", str(run), str(data / "lines.jsonl"), "--out", str(data / "emb")]) == 0
    assert not (data / "emb" / "img_emb").exists()
    assert main(["index", str(data / "emb")]) == 0
    assert "on held-out queries is 1.0000 for texts" in capsys.readouterr().out
    wanted = json.loads((data / "lines.jsonl").read_text().splitlines()[7])["caption"]
    assert main(["search", str(data / "emb"), wanted, "-k", "1", "--json"]) == 0
    [hit] = json.loads(capsys.readouterr().out)
    assert hit["caption"] == wanted
    assert hit["score"] == pytest.approx(1, abs=1e-5)
    assert main(["search", str(data / "emb"), "--image", "photo.jpg"]) == 2
    assert "embeds texts alone and has no embed_images" in capsys.readouterr().err


def test_suites_of_texts_measure_it_and_others_say_what_it_lacks(run, data, capsys):
    pairs = str(data / "pairs.jsonl")
    assert main(["evaluate", str(run), "--data", pairs, "--suite", "sts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sts"]["n"] == 30
    world = "scenes:count=4:size=32"
    assert main(["evaluate", str(run), "--data", world, "--suite", "retrieval"]) == 2
    assert "needs a model with embed_images" in capsys.readouterr().err
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["image_tower"], facts["preprocess"]) == (None, None)


def test_a_run_continues_from_it_from_a_language_model_and_not_as_one_of_images(run, data, model):
    make = Make.of(model)
    ids = pad_batch(model.tokenizer.encode(["a red cat"]), model.tokenizer)
    again = make.dual(logit_scale=model.encoder.logit_scale).eval()
    assert torch.equal(again.embed_texts(*ids), model.encoder.embed_texts(*ids))
    config = {"init": "tiny-lm", **SETTINGS, "steps": 1}
    found = diptych.train(FILE, str(data / "lines.jsonl"), data / "from_lm", **config).model
    assert found.embed_texts(["a red cat"]).shape == (1, found.encoder.text.width)
    with pytest.raises(InputError, match="has no image tower: it embeds texts alone"):
        diptych.train("clip", "scenes:count=8:size=32", data / "clip", init=str(run), **SETTINGS)
    with pytest.raises(InputError, match="reads texts alone; leave out --image-tower"):
        diptych.train(FILE, "glyphs", data / "image", image_tower="conv")


def test_it_computes_in_bfloat16_and_by_a_probe(run, model):
    half = store.load(run, precision="bfloat16").embed_texts(["a red cat"])
    assert float((half * model.embed_texts(["a red cat"])).sum()) > 0.99
    assert store.load(run, precision="auto").precision in ("float32", "bfloat16", "int8")


def test_a_model_of_both_embeds_a_source_of_texts_too(data):
    pytest.importorskip("pyarrow")
    from diptych.embeddings.embed import embed_source

    tiny = diptych.load("tiny")
    assert isinstance(tiny, Model)
    manifest = embed_source(tiny, str(data / "lines.jsonl"), data / "emb_tiny")
    assert (manifest.rows, manifest.count, manifest.texts) == ("texts", 48, 48)
