"""SimCSE: its losses against loops, and an encoder of texts alone from its method to its uses:
trained, resumed, loaded, embedded, searched, evaluated, exported, continued."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from tests.factories import AT, TEXT, make_method

import diptych
from diptych.cli import main
from diptych.data.batch import Batch, Tokens
from diptych.data.tokenizers import pad_batch
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.text.simcse import triples
from diptych.models.model import Model, TextModel
from diptych.training import run as training
from diptych.training.config import resolve

WORDS = ("big", "small", "old", "new", "red", "blue", "grey", "pink", "cat", "dog", "house")
SETTINGS = {"batch_size": 16, "epochs": 1, "quiet": True}
SMALL = {
    "text_tower": "text:width=64:depth=1:heads=2:causal=false:pooling=mean:dropout=0.1",
    "tokenizer": "bpe:vocab_size=512:context=32",
    "embed_dim": 32,
}


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
        "simcse",
        str(data / "lines.jsonl"),
        data / "run",
        val=str(data / "pairs.jsonl"),
        **SMALL,
        **SETTINGS,
    )
    return data / "run"


@pytest.fixture(scope="module")
def model(run) -> TextModel:
    return diptych.load(run)


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


def test_a_run_under_a_name_loads_and_resumes_to_equal_bytes(data):
    config = resolve(
        "simcse",
        {"train": str(data / "lines.jsonl")},
        **SMALL,
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
        diptych.train("simcse", lines, data / "no", val=lines, **SMALL, **SETTINGS)
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
    found = diptych.train("simcse", str(data / "lines.jsonl"), data / "from_lm", **config).model
    assert found.embed_texts(["a red cat"]).shape == (1, found.encoder.text.width)
    with pytest.raises(InputError, match="has no image tower: it embeds texts alone"):
        diptych.train("clip", "scenes:count=8:size=32", data / "clip", init=str(run), **SETTINGS)
    with pytest.raises(InputError, match="reads texts alone; leave out --image-tower"):
        diptych.train("simcse", "glyphs", data / "image", image_tower="conv")


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


# ---- the losses


def cosine(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_triples_equal_loops(weight):
    views = drawn(5, 3, 4)
    expected = 0.0
    for i in range(5):
        scores = {}
        for j in range(5):
            scores["positive", j] = math.exp(cosine(views[i, 0], views[j, 1]) / 0.05)
            own = weight if i == j else 1.0
            scores["negative", j] = own * math.exp(cosine(views[i, 0], views[j, 2]) / 0.05)
        expected -= math.log(scores["positive", i] / sum(scores.values())) / 5
    assert triples(views, 20.0, weight).item() == pytest.approx(expected, abs=1e-12)
    views.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: triples(x, 5.0, weight), views)


def method_of(**options):
    config = {"image": NO_TOWER, "embed_dim": 32, "text": f"{TEXT}:dropout=0.1", **options}
    return make_method("simcse", **config)


def batch_of(texts: dict[str, list[str]], tokenizer) -> Batch:
    found = {}
    for name, said in texts.items():
        ids, lengths = pad_batch(tokenizer.encode(said), tokenizer)
        found[name] = Tokens(ids[:, None], lengths[:, None])
    return Batch(texts=found, keys=[str(i) for i in range(len(found["main"].ids))])


CAPTIONS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("bar", "circle")]


def test_passes_differ_by_dropout_and_agree_without_it():
    method = method_of(passes=3)
    batch = batch_of({"main": CAPTIONS}, method.make.tokenizer)
    views = method.encode(batch, AT)["views"]
    assert views.shape == (4, 3, 32)
    assert not torch.allclose(views[:, 0], views[:, 1])
    assert not torch.allclose(views[:, 1], views[:, 2])
    views = method.eval().encode(batch, AT)["views"]
    assert torch.allclose(views[:, 0], views[:, 2], atol=1e-6)
    delivered = method.model.embed_texts(*batch.text.flat)
    assert torch.allclose(torch.nn.functional.normalize(views[:, 0], dim=-1), delivered, atol=1e-6)


def test_supervised_views_are_the_texts_of_their_roles():
    method = method_of(positive="same", negative="other").eval()
    others = {"positive": CAPTIONS[::-1], "negative": CAPTIONS[1:] + CAPTIONS[:1]}
    batch = batch_of({"main": CAPTIONS, **others}, method.make.tokenizer)
    views = method.encode(batch, AT)["views"]
    assert torch.allclose(views[:, 1], views[:, 0].flip(0), atol=1e-5)
    assert torch.allclose(views[:, 2], views[:, 0].roll(-1, 0), atol=1e-5)
    loss = method.loss({"views": views}, batch, AT)
    expected = triples(method.head(views), 20.0)
    assert loss.total.item() == pytest.approx(expected.item())
    reads = {name for view in method.views(method.stages()[0]) for name in view.reads}
    assert reads == {"texts.caption", "texts.same", "texts.other"}


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="needs a positive; name its role"):
        method_of(negative="other")
    with pytest.raises(InputError, match=r"passes=3 .* leave one out"):
        method_of(positive="same", passes=3)


def test_views_that_are_equal_are_told(caplog):
    method_of(dropout=0.0).setup({})
    assert "set --method.dropout 0.1" in caplog.text
    caplog.clear()
    method_of().setup({})
    method_of(dropout=0.0, positive="same").setup({})
    assert not caplog.text


def test_it_trains_on_triples_of_a_world(tmp_path):
    config = {"positive": "paraphrase", "negative": "negated"}
    world = "sentences:count=64:paraphrases=1:roles=negated"
    found = diptych.train("simcse", world, tmp_path, config=config, **SMALL, **SETTINGS)
    assert found.model.embed_texts(["the king"]).shape == (1, 32)


def test_the_text_side_of_a_model_of_both_goes_on_with_another_pooling(data, tmp_path):
    tiny = diptych.load("tiny")
    settings = {**SETTINGS, "steps": 1, "lr": 1e-12, "init": "tiny"}
    lines = str(data / "lines.jsonl")
    model = diptych.train("simcse", lines, tmp_path / "same", **settings).model
    assert type(model) is TextModel
    assert model.encoder.text.config.dropout == 0.1
    texts = ["a red cat", "the old house on a hill"]
    assert torch.allclose(model.embed_texts(texts), tiny.embed_texts(texts), atol=1e-4)
    config = {"pooling": "first"}
    other = diptych.train("simcse", lines, tmp_path / "first", config=config, **settings).model
    assert other.encoder.text.config.pooling == "first"
    assert not torch.allclose(other.embed_texts(texts), tiny.embed_texts(texts), atol=1e-2)
    assert diptych.load(tmp_path / "first").identity == other.identity
