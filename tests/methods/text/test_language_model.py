"""The language model as a method: its loss, and the way from texts to a model on disk and back."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tests.factories import AT, make_method

import diptych
from diptych.data.batch import Batch, Tokens
from diptych.data.tokenizers import pad_batch, train_bpe
from diptych.errors import InputError
from diptych.methods import store
from diptych.methods.base import Recipe
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.registry import method_class
from diptych.models.language import LanguageModel
from diptych.testing.toy import Toy
from diptych.training.engine import Engine
from diptych.training.options import Options

TEXTS = [Toy(128)[i].captions()[0] for i in range(0, 128, 5)]
TOKENIZER = train_bpe(TEXTS, vocab_size=320, context=12)


def method_of(context: int = 12, **options):
    words = train_bpe(TEXTS, vocab_size=320, context=context)
    return make_method("language_model", image=NO_TOWER, embed_dim=0, words=words, **options)


def batch_of(texts, tokenizer=TOKENIZER) -> Batch:
    ids, lengths = pad_batch(tokenizer.encode(texts), tokenizer)
    return Batch(
        texts={"main": Tokens(ids[:, None], lengths[:, None])},
        keys=[str(i) for i in range(len(texts))],
    )


def loss_of(method, texts) -> float:
    batch = batch_of(texts, method.make.tokenizer)
    return float(method.loss(method.encode(batch, AT), batch, AT).total.detach())


@torch.no_grad()
def test_the_loss_is_the_mean_over_the_tokens_of_all_texts():
    method, total, count = method_of(), 0.0, 0
    texts = [TEXTS[0], "red", "a blue bar"]
    for ids in TOKENIZER.encode(texts):
        for place in range(1, len(ids)):
            hidden = method.model(torch.tensor([ids[:place]]))
            total -= float(method.model.logits(hidden)[0, -1].log_softmax(-1)[ids[place]])
            count += 1
    assert loss_of(method, texts) == pytest.approx(total / count, abs=1e-5)
    losses = method.loss(method.encode(batch_of(texts), AT), batch_of(texts), AT)
    assert float(losses.logged["perplexity"]) == pytest.approx(math.exp(total / count), rel=1e-4)


@torch.no_grad()
def test_the_end_of_a_text_that_may_have_been_cut_is_not_learnt():
    method = method_of(context=8)
    tokenizer = method.make.tokenizer
    for text, cut in (("red " * 20, True), ("red", False)):
        (ids,) = tokenizer.encode([text])
        assert (len(ids) == 8) is cut
        counted = torch.tensor([len(ids) - cut])
        expected = -method.model.log_prob(torch.tensor([ids]), counted) / (counted - 1)
        assert loss_of(method, [text]) == pytest.approx(float(expected), abs=1e-6)


def test_it_learns_the_texts_it_is_trained_on(tmp_path):
    method, source = method_of(), Toy(48, ["texts.caption"])
    before = loss_of(method, TEXTS)
    recipe = Recipe(lr=1e-2, steps=60, batch_size=16, weight_decay=0.0)
    Engine(method, recipe, {"train": source}, tmp_path, Options(quiet=True)).run()
    assert loss_of(method, TEXTS) < before / 3
    model = LanguageModel(method.model, TOKENIZER, name="toy")
    assert model.generate(["a red"], max_tokens=5)[0].split()[0] in (
        "circle",
        "square",
        "triangle",
        "bar",
    )
    right, wrong = model.log_prob(["a red circle on the left", "circle the a red left on"])
    assert right > wrong + 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table of texts alone, with validation."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "texts.csv").write_text("caption\n" + "\n".join(TEXTS) + "\n")
    diptych.train(
        "language_model",
        str(folder / "texts.csv"),
        folder / "run",
        val=str(folder / "texts.csv"),
        text_tower="text:width=32:depth=1:heads=2",
        tokenizer="bpe:vocab_size=320:context=16",
        steps=4,
        batch_size=8,
        quiet=True,
    )
    return folder / "run"


def test_a_run_on_texts_alone_loads_as_a_language_model(run):
    model = diptych.load(run)
    assert isinstance(model, LanguageModel)
    assert model.log_prob(TEXTS[:3]).shape == (3,)
    assert all(isinstance(text, str) for text in model.generate(["a red", ""], max_tokens=3))
    description = json.loads((run / "model.json").read_text())
    assert (description["dual"], description["preprocess"], description["lm"]["text"]["width"]) == (
        None,
        None,
        32,
    )
    assert diptych.load(run).identity == model.identity


def test_validation_tells_the_perplexity(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line["val/perplexity"] for line in lines if line.get("event") == "validation"]
    for model in (run, diptych.load(run)):
        result = diptych.evaluate(model, str(run.parent / "texts.csv"), ["perplexity"])[
            "perplexity"
        ]
        assert values[-1] == pytest.approx(result["perplexity"], rel=1e-4)


def test_training_goes_on_from_a_run(run, tmp_path):
    data = str(run.parent / "texts.csv")
    model = diptych.train(
        "language_model",
        data,
        tmp_path / "more",
        init=str(run),
        steps=1,
        batch_size=8,
        quiet=True,
        lr=1e-9,
        warmup=0.0,
    ).model
    old = diptych.load(run)
    assert model.tokenizer == old.tokenizer
    torch.testing.assert_close(
        model.log_prob(TEXTS[:4]), old.log_prob(TEXTS[:4]), atol=1e-3, rtol=0
    )


def test_make_builds_the_models_own_tower_or_refuses(run):
    old = diptych.load(run)
    make = Make.of(old)
    for made in (make.lm(), make.lm()):
        assert all(
            torch.equal(a, b) for a, b in zip(made.parameters(), old.lm.parameters(), strict=True)
        )
    with pytest.raises(InputError, match="has no image tower"):
        make.image()
    endless = train_bpe(TEXTS, 300, 12)
    endless.before = ()
    with pytest.raises(InputError, match="choose bpe or clip"):
        Make(image=NO_TOWER, text="text:width=32:depth=1", embed_dim=0, tokenizer=endless).lm()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"image_tower": "conv"}, "language_model reads texts alone"),
        ({"embed_dim": 64}, "language_model embeds nothing"),
    ],
)
def test_what_it_has_no_use_for_is_refused(tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        diptych.train("language_model", "texts.csv", tmp_path / "run", **option)


def test_a_run_that_was_stored_before_language_models_still_loads(tmp_path):
    """A model.json without the key `lm`."""

    method = make_method()
    description = store.describe(
        "clip", {}, method.model, method.make.tokenizer, method.model.image.preprocess
    )
    del description["lm"]
    store.save_model(tmp_path, description, method.model.state_dict())
    assert store.load(tmp_path).embed_texts(["a"]).shape == (1, 32)


def test_the_paper_preset_has_the_size_of_gpt2():
    """124 million parameters with GPT-2's vocabulary of 50,257 and context of 1,024."""
    cls = method_class("language_model")
    preset = cls.presets["paper"]
    tokenizer = train_bpe(TEXTS, 300, 1024)
    tokenizer.vocab_size = 50257
    with torch.device("meta"):
        method = cls(
            cls.configure({}),
            Make(image=preset.image, text=preset.text, embed_dim=0, tokenizer=tokenizer),
        )
    assert sum(parameter.numel() for parameter in method.parameters()) == 124_439_808
    assert replace(preset.recipe, steps=1).precision == "bfloat16"
