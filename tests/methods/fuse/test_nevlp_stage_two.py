"""NEVLP's second stage: the loss against a slow reference, what is trained and what is not, that a model
writes as it was trained, and cached tokens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import AT, foreign_lm, make_method, random_images, small_make
from tests.methods.fuse.nevlp_helpers import NAMES, SIZES, asked, batch, first, second

from diptych.data.sample import BadSample
from diptych.errors import InputError
from diptych.evaluation.suites.answers import answers
from diptych.methods import store
from diptych.methods.fuse.nevlp import NEVLP
from diptych.methods.fuse.nevlp.base import TOKENS
from diptych.methods.fuse.nevlp.concepts import CONCEPTS
from diptych.testing import Toy
from diptych.training.prepare import Run


@pytest.fixture(scope="module")
def start():
    return first()


@torch.no_grad()
@pytest.mark.parametrize("task", ["captions", "answers"])
def test_the_loss_is_that_of_single_words_and_of_the_model(start, task):
    made, source = second(start, task), asked()
    given = batch(made, source)
    found = made.encode(given, AT)
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    words, lm, bridge = model.captioner.words, model.captioner.lm, model.captioner
    texts = [row.captions()[0] if task == "captions" else "two" for row in source]
    images = [row.images["main"].decode() for row in source]
    concepts = model.concepts(images)
    for at, text in enumerate(texts):
        before = ", ".join(concepts[at]) + "."
        before += " Question: how many? Answer:" if task == "answers" else ""
        target = [*words.ids(text), words.eot]
        ids = [*words.before, *words.ids(before)]
        tokens = bridge.norm(bridge.encoder.encode_image(given.image.flat[at : at + 1]).tokens)
        prefix = bridge.projection(bridge.qformer(memory=tokens).tokens)
        total = 0.0
        for word in target:
            read = torch.cat([prefix, lm.table(torch.tensor([ids]))], 1)
            scores = lm.logits(lm(prefix=read)[0, -1]).tolist()
            total += scores[word] - math.log(sum(math.exp(score) for score in scores))
            ids.append(word)
        assert float(found["log_prob"][at]) == pytest.approx(total, abs=1e-3)
        assert int(found["words"][at]) == len(target)
    loss = made.loss(found, given, AT).total
    assert float(loss) == pytest.approx(float(-found["log_prob"].sum() / found["words"].sum()))
    prompts = ["how many?"] * len(texts) if task == "answers" else None
    assert torch.allclose(model.log_prob(images, texts, prompts), found["log_prob"], atol=1e-3)


def test_the_q_former_and_the_projection_are_trained_from_the_first_stage_on(start):
    made = second(start)
    for name in ("qformer", "norm"):
        own = getattr(made.model, name).state_dict()
        given = getattr(start.captioner, name).state_dict()
        assert all(torch.equal(own[key], given[key]) for key in given)
    assert made.model.names == NAMES
    made.loss(made.encode(batch(made, Toy(4)), AT), None, AT).total.backward()
    trained = {name for name, value in made.named_parameters() if value.grad is not None}
    assert all(value.grad.abs().sum() > 0 for value in made.parameters() if value.requires_grad)
    assert {name.split(".")[1] for name in trained} == {"qformer", "norm", "projection"}
    assert not any("table" in name or ".mlp." in name for name in trained)
    assert all(value.grad is None for value in made.model.lm.parameters())
    assert not any("lent" in name for name, _ in made.model.named_parameters())


@torch.no_grad()
def test_a_saved_run_writes_the_same_behind_the_language_model_that_it_knows(start, tmp_path):
    made, images = second(start), random_images(2)
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    said = model.generate(images, strategy="greedy", max_tokens=4)
    assert model.generate(images[1:], strategy="greedy", max_tokens=4) == said[1:]
    assert len(model.generate(images, ["a photo of"] * 2, max_tokens=3)) == 2
    assert model.fuse(images, ["a bar", "a red circle"]).shape == (2, 128)
    options = {**SIZES, "concepts": 2, "task": "captions"}
    description = store.describe(
        "nevlp", options, made.model, made.make.tokenizer, made.model.preprocess
    )
    store.save_model(tmp_path, description, made.model.state_dict())
    again = store.load(str(tmp_path))
    assert again.generate(images, strategy="greedy", max_tokens=4) == said
    assert again.concepts(images) == model.concepts(images)
    assert torch.equal(again.embed_images(images), start.encoder.eval().embed_images(images))
    with pytest.raises(InputError, match="another tokenizer than that of tiny-lm"):
        made.model.load_extra_state({"concepts": [], "lm_tokenizer": "other"})
    with pytest.raises(InputError, match=r"needs \d+ tokens, the context of mine is 128"):
        model.generate(images, ["red " * 124] * 2)


@torch.no_grad()
def test_a_language_model_of_transformers_writes_and_one_of_another_vocabulary_does_not(
    start, tmp_path
):
    words, images = start.tokenizer, random_images(2)
    made = second(start, lm=foreign_lm(tmp_path / "lm", words), concepts=0)
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    prompts = ["a red", "the bar is"]
    said = model.generate(images, prompts, strategy="greedy", max_tokens=3)
    bridge, lm = model.captioner, model.lm
    prompt = bridge.prompted(bridge.see(images), prompts)
    for at, begun in enumerate(prompt.ids):
        ids = [*begun]
        for _ in range(3):
            read = torch.cat([prompt.prefix[at : at + 1], lm.table(torch.tensor([ids]))], 1)
            ids.append(int(lm.logits(lm(prefix=read)[0, -1]).argmax()))
            if ids[-1] == bridge.words.eot:
                break
        assert (
            said[at]
            == bridge.words.decode([i for i in ids[len(begun) :] if i != bridge.words.eot]).strip()
        )
    with pytest.raises(InputError, match="use the one it was trained with"):
        second(start, lm=foreign_lm(tmp_path / "other", words, words.vocab_size - 9))


def test_questions_are_answered(start):
    made = second(start, "answers", concepts=0)
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    found = answers(model, asked())
    assert found["n"] == 4
    assert model.validation.suite == "answers"
    with pytest.raises(InputError, match="ask one"):
        model.generate(random_images(1))


def test_bad_input(start):
    with pytest.raises(InputError, match="start it from a run of the first"):
        make_method(NEVLP, **SIZES, task="captions").setup({"train": Toy(4)})
    with pytest.raises(InputError, match="lm=tiny is no language model"):
        second(start, lm="tiny")
    with pytest.raises(InputError, match="130 queries fill the context"):
        make_method(NEVLP, **{**SIZES, "queries": 130}, task="captions", make=small_make())
    with pytest.raises(InputError, match="the options that it was trained with"):
        second(start, queries=4)
    made = second(start, concepts=0)
    view = replace(made.views(made.stages()[0])[1], length=1)
    with pytest.raises(BadSample, match="leave none"):
        view(Toy(1)[0], np.random.default_rng(0), 0.0)


# ---- cached tokens


@torch.no_grad()
def test_cached_tokens_are_those_of_the_images(start, tmp_path):
    plain, cached = (second(start, cached=each) for each in (False, True))
    expected = plain.encode(batch(plain, Toy(6)), AT)["log_prob"]
    given = batch(cached, Toy(6))
    assert not given.images
    assert given.fields[TOKENS].dtype == torch.float32
    assert torch.allclose(cached.encode(given, AT)["log_prob"], expected, atol=0.05)
    made = make_method(NEVLP, **SIZES, min_count=1, concepts=2, cached=True, warm=0)
    made.setup({"train": Toy(6)})
    run = Run(made, {"train": Toy(6)}, AT, torch.device("cpu"), out=tmp_path, batch_size=6)
    made.prepare(run)
    columns = run.columns["train"]
    assert columns[TOKENS].dtype == np.float16
    assert columns[TOKENS][:].shape == (
        6,
        *made.model.encoder.image(random_images(1)).tokens.shape[1:],
    )
    assert columns[CONCEPTS].shape == (6, 2)
    with pytest.raises(InputError, match="leave augment out"):
        make_method(NEVLP, **SIZES, cached=True, augment={"flip": True})
