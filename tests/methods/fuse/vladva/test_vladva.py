"""VladVA: both losses against the published figures and a slow reference, the state that is an embedding, what
is trained, captions of one kind, and what a run stores."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tests.factories import AT, foreign_lm, make_method, random_images, small_make, tokenizer
from tests.methods.fuse.vladva_helpers import (
    base,
    batch,
    captions,
    made,
    model_of,
    move,
    saved,
)
from torch import nn

from diptych.errors import InputError
from diptych.methods.adapters import LowRank, add_factors
from diptych.methods.fuse.vladva import contrast_of
from diptych.models.causal_lm import CausalLM
from diptych.testing import Toy
from diptych.towers.build import text_tower
from diptych.training.optim import freeze


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return base(tmp_path_factory.mktemp("vladva") / "run")


@pytest.fixture
def method(start):
    return made(start, moved=True)


# ---- published figures


def test_the_contrast_has_the_published_values():
    S = torch.tensor([[0.8, 0.1], [0.2, 0.7]], dtype=torch.float64)
    image = torch.eye(2, dtype=torch.float64)
    both = torch.ones(2, dtype=torch.bool)
    for tau, expected in ((0.5, 0.265061), (0.07, 0.000304)):
        found = contrast_of(image, S.T, torch.tensor(1 / tau), both)
        assert float(found) == pytest.approx(expected, abs=5e-7)


def test_of_uniform_logits_the_loss_is_the_logarithm_of_the_vocabulary(start):
    lm = CausalLM(text_tower("text:width=8:depth=1:heads=1", vocab_size=32000, context=4))  # type: ignore[arg-type]
    ids = torch.tensor([[7, 9]])
    found = lm.log_probs_where(torch.zeros(1, 2, 8), ids, torch.ones(1, 2, dtype=torch.bool))
    assert -found.mean().item() == pytest.approx(10.373491, abs=1e-5)
    method = made(start)
    given = batch(method, Toy(3))
    with torch.no_grad():
        method.model.lm.table.weight.zero_()
        losses = method.loss(method.encode(given, AT), given, AT)
    words = method.model.words.vocab_size
    assert float(losses.terms["predict"]) == pytest.approx(math.log(words), abs=1e-5)


def test_factors_of_rank_16_beside_4096_squared_weights_are_131072():
    with torch.device("meta"):
        layers = nn.ModuleDict({"q": nn.Linear(4096, 4096)})
        added = add_factors(layers, "layers", LowRank(r=16, layers="all"))
    assert sum(value.numel() for value in added.parameters()) == 131_072


# ---- the reference


def reference(method, images, texts, scale):
    """Both losses, sample by sample and token by token, in float64, without padding."""
    model = method.model
    words = model.words
    table = model.lm.table.weight

    def state(rows):
        return model.lm(prefix=torch.stack(rows)[None])[0]

    asked = {side: words.ids(model.prompts[side]) for side in ("image", "text")}
    total = count = 0.0
    f_v = []
    f_t = []
    for at in range(len(images)):
        tokens = model.encoder.image(images[at : at + 1])
        rows = list(model.adapter(tokens.tokens[0, tokens.prefix :]))
        rows += [table[i] for i in words.before] + list(model.soft["image"])
        rows += [table[i] for i in asked["image"]]
        h = state(rows)[-1]
        f_v.append(h / h.norm())
        for word in [*words.ids(texts[at]), *words.after]:
            scores = (table @ state(rows)[-1]).tolist()
            total -= scores[word] - math.log(sum(math.exp(score) for score in scores))
            count += 1
            rows.append(table[word])
        rows = [table[i] for i in [*words.before, *words.ids(texts[at])]] + list(model.soft["text"])
        h = state(rows + [table[i] for i in asked["text"]])[-1]
        f_t.append(h / h.norm())
    contrast = 0.0
    number = len(images)
    for i in range(number):
        rows = [scale * float(f_v[i] @ f_t[j]) for j in range(number)]
        columns = [scale * float(f_v[j] @ f_t[i]) for j in range(number)]
        for scores in (rows, columns):
            log_sum = math.log(sum(math.exp(score) for score in scores))
            contrast += (log_sum - scores[i]) / (2 * number)
    return contrast, total / count


@torch.no_grad()
def test_both_losses_are_those_of_a_slow_reference(method):
    method.double()
    source = Toy(3)
    given = batch(method, source)
    texts = [source[at].captions()[0] for at in range(3)]
    losses = method.loss(method.encode(given, AT), given, AT)
    scale = float(method.model.logit_scale())
    contrast, predict = reference(method, given.image.flat, texts, scale)
    assert scale == pytest.approx(1 / 0.07)
    assert float(losses.terms["contrast"]) == pytest.approx(contrast, abs=1e-6)
    assert float(losses.terms["predict"]) == pytest.approx(predict, abs=1e-6)
    assert float(losses.total) == pytest.approx(contrast + predict, abs=1e-6)
    weighed = made_like(method, predict=0.5, contrast=2.0)
    other = weighed.loss(weighed.encode(given, AT), given, AT)
    assert float(other.total) == pytest.approx(2 * contrast + 0.5 * predict, abs=1e-5)


def made_like(method, **config):
    """The method under other weights of the losses."""
    method.config = type(method.config)(**{**vars(method.config), **config})
    return method


# ---- the summary


@torch.no_grad()
def test_without_soft_prompts_and_training_embeddings_are_those_of_the_run(start):
    method = made(start, n_ctx=0)
    images = random_images(3)
    texts = ["a red circle", "a blue bar on the left", "a bar"]
    model = model_of(method)
    for side, found, given in (
        ("image", model.embed_images(images), {"images": images}),
        ("text", model.embed_texts(texts), {"texts": texts}),
    ):
        plain = start.summaries([method.model.prompts[side]], **given).vectors[0]
        assert torch.allclose(found, nn.functional.normalize(plain, dim=1), atol=1e-5)


@torch.no_grad()
def test_an_image_is_embedded_alike_with_a_long_caption_behind_it_and_without(method):
    method.double()
    given = batch(method, captions(["a red circle on the left"], ["a bar"]))
    both = method.read_images(given, AT)["image"]
    alone = made_like(method, predict=0.0).read_images(given, AT)["image"]
    assert float((both - alone).abs().max()) < 1e-6
    encoder = method.model.summaries()
    assert float((encoder.embed_images(given.image.flat) - alone).abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["ours", "llama"])
@torch.no_grad()
def test_padding_on_either_side_gives_the_same_embedding(kind, start, tmp_path):
    if kind == "ours":
        method = made(start, moved=True).double()
    else:
        lm = foreign_lm(tmp_path / "lm", tokenizer())
        own = base(tmp_path / "run", lm=lm, tune="none")
        method = made(own, moved=True, lm=lm).double()
    model = method.model
    texts = ["a red circle on the left", "a bar", "a pink square"]
    rows = model.captions.encode(texts)
    alone = [model.text_tokens(torch.tensor([row]), torch.tensor([len(row)])) for row in rows]
    expected = torch.cat([model.summary(*one) for one in alone])
    given = batch(method, captions(*[[text] for text in texts]))
    ids, lengths = given.texts["short"].flat
    tokens, real = model.text_tokens(ids, lengths)
    assert not bool(real.all())
    assert torch.allclose(model.summary(tokens, real), expected, atol=1e-6)
    order = real.int().argsort(dim=1, stable=True)  # padding first
    left = tokens.gather(1, order[..., None].expand_as(tokens))
    assert torch.allclose(model.summary(left, real.gather(1, order)), expected, atol=1e-6)
    right = (~real).int().argsort(dim=1, stable=True)
    behind = tokens.gather(1, right[..., None].expand_as(tokens))
    assert torch.allclose(model.summary(behind, real.gather(1, right)), expected, atol=1e-6)
    last = model.lm(prefix=behind)[:, -1]
    assert not torch.allclose(last, expected, atol=1e-3)


# ---- what is trained


def test_soft_prompts_factors_and_scale_alone_are_trained(start):
    method = made(start)
    [stage] = method.stages()
    freeze(method, stage.lr_scale)
    given = batch(method, Toy(4))
    method.loss(method.encode(given, AT), given, AT).total.backward()
    trained = {name for name, value in method.named_parameters() if value.grad is not None}
    assert {name for name in trained if ".lora_" not in name} == {
        "model.soft.image",
        "model.soft.text",
        "model.logit_scale.value",
    }
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert layers == {"q", "k", "v", "out", "fc1", "fc2"}
    assert all(name.startswith("model.own.") for name in trained if ".lora_" in name)
    assert not [name for name in trained if name.startswith("model.encoder")]


def test_prediction_alone_reaches_soft_prompt_and_factors_but_not_the_tower(start):
    method = made(start, contrast=0.0, moved=True)
    given = batch(method, Toy(3))
    losses = method.loss(method.encode(given, AT), given, AT)
    assert set(losses.terms) == {"predict"}
    losses.total.backward()
    trained = {
        name.split(".")[1] for name, value in method.named_parameters() if value.grad is not None
    }
    assert trained == {"soft", "own"}
    assert method.model.soft["text"].grad is None
    assert method.model.validation.suite == "captions"


def test_the_adapter_may_be_trained_too(start):
    method = made(start, train_adapter=True)
    given = batch(method, Toy(3))
    method.loss(method.encode(given, AT), given, AT).total.backward()
    assert all(value.grad is not None for value in method.model.adapter.parameters())
    assert all(value.requires_grad is False for value in made(start).model.adapter.parameters())


def test_soft_prompts_begin_as_the_words_of_the_prompts(start):
    method = made(start, n_ctx=7)
    for side in ("image", "text"):
        ids = method.model.words.ids(method.model.prompts[side])
        assert len(ids) < 7
        rows = [ids[at % len(ids)] for at in range(7)]
        assert torch.equal(
            method.model.soft[side], method.model.lm.table.weight[torch.tensor(rows)]
        )


# ---- captions of one kind


@torch.no_grad()
def test_a_sample_with_captions_of_one_kind_counts_in_that_loss_alone(start):
    mine = captions(
        ["a red circle", "a red circle on the left of it"],
        ["a blue bar"],
        ["a pink square on the right of it"],
        ["a bar", "a green triangle on the top of it"],
    )
    method = made(start, moved=True, short=6, long=6)
    lengths = [len(method.model.words.ids(sample.captions()[-1])) for sample in mine]
    assert lengths[1] < 6 <= min(lengths[0], *lengths[2:])
    given = batch(method, mine)
    features = method.encode(given, AT)
    losses = method.loss(features, given, AT)
    assert (features["words"] > 0).tolist() == [True, False, True, True]
    pairs = [0, 1, 3]
    expected = contrast_of(
        features["image"][pairs],
        features["text"][pairs],
        method.model.logit_scale(),
        torch.ones(3, dtype=torch.bool),
    )
    assert torch.equal(losses.terms["contrast"], expected)
    tokens = sum(lengths[at] + 1 for at in (0, 2, 3))
    assert float(losses.terms["predict"]) == pytest.approx(
        -float(features["log_prob"].sum()) / tokens
    )
    assert float(losses.logged["short"]) == float(losses.logged["long"]) == 0.75
    long = batch(
        method, captions(["a pink square on the right of it"], ["a red bar on the left of it"])
    )
    assert float(method.loss(method.encode(long, AT), long, AT).terms["contrast"]) == 0
    short = batch(method, captions(["a bar"], ["a red bar"]))
    assert float(method.loss(method.encode(short, AT), short, AT).terms["predict"]) == 0


@torch.no_grad()
def test_writing_about_an_image_follows_the_prompt_as_in_training(method):
    source = Toy(2)
    given = batch(method, source)
    texts = [source[at].captions()[0] for at in range(2)]
    model = model_of(method)
    found = model.log_prob(given.image.flat, texts)
    assert torch.allclose(found, method.encode(given, AT)["log_prob"], atol=1e-4)
    written = model.generate(given.image.flat, max_tokens=3, strategy="greedy")
    assert len(written) == 2
    asked = model.generate(given.image.flat, ["is it red?"] * 2, max_tokens=3, strategy="greedy")
    assert len(asked) == 2


# ---- what a run stores


@torch.no_grad()
def test_a_run_holds_the_products_in_the_weights_of_its_language_model(method, tmp_path):
    images = random_images(2)
    texts = ["a red circle", "a bar"]
    model = model_of(method)
    again = saved(method, tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in stored if "lora" in name or "base_layer" in name]
    assert torch.allclose(again.embed_images(images), model.embed_images(images), atol=1e-5)
    assert torch.allclose(again.embed_texts(texts), model.embed_texts(texts), atol=1e-5)
    assert torch.allclose(again.log_prob(images, texts), model.log_prob(images, texts), atol=1e-4)
    more = made(again)
    assert torch.equal(more.model.soft["text"], method.model.soft["text"])
    assert torch.allclose(model_of(more).embed_texts(texts), model.embed_texts(texts), atol=1e-5)


@torch.no_grad()
def test_of_a_language_model_by_name_a_run_stores_the_factors(tmp_path):
    lm = foreign_lm(tmp_path / "lm", tokenizer())
    method = made(base(tmp_path / "base", lm=lm, tune="none"), moved=True, lm=lm)
    layers = {name.rpartition("-")[2] for name in method.model.factors}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    again = saved(method, tmp_path / "run")
    stored = load_file(tmp_path / "run" / "model.safetensors")
    parts = {name.split(".")[0] for name in stored}
    assert parts == {"encoder", "adapter", "lent", "factors", "soft", "logit_scale"}
    texts = ["a red circle", "a bar"]
    expected = model_of(method).embed_texts(texts)
    assert torch.allclose(again.embed_texts(texts), expected, atol=1e-5)
    more = made(again, lm=lm)
    assert torch.allclose(model_of(more).embed_texts(texts), expected, atol=1e-5)
    with pytest.raises(
        InputError, match=r"which it does not hold; name that with --method.lm hf-lm"
    ):
        made(again)
    with pytest.raises(InputError, match="reads with another language model than tiny-lm"):
        made(again, lm="tiny-lm")


def test_bad_options_and_runs(start):
    with pytest.raises(InputError, match="no place for a prompt"):
        made(start, template="ask")
    with pytest.raises(InputError, match="nothing is learnt"):
        made(start, contrast=0.0, predict=0.0)
    with pytest.raises(InputError, match="lower long, or raise longest"):
        made(start, long=9, longest=8)
    with pytest.raises(InputError, match="grid None of layer last"):
        made(start, grid=1)
    with pytest.raises(InputError, match="by an adapter of its own kind"):
        made(start, adapter="linear")
    with pytest.raises(InputError, match="the image prompt '' has no words"):
        made(start, image_prompt="")
    with pytest.raises(InputError, match="another language model than tiny-lm; leave out"):
        made(start, lm="tiny-lm")
    with pytest.raises(InputError, match="has learnt nothing that low-rank factors"):
        made(start, lm="text:width=32:depth=1")
    long = made(start, n_ctx=20)
    with pytest.raises(InputError, match=r"takes 2\d without a caption; lower --method.n_ctx"):
        long.views(long.stages()[0])


def test_a_model_that_is_no_vision_language_model_is_refused(tmp_path):
    from diptych.methods.store import load

    tiny = load("tiny")
    with pytest.raises(InputError, match="has no language model; start from a RUN"):
        made(tiny)
    with pytest.raises(
        InputError, match="start from a run of cg_vlm, or give --method.train_adapter"
    ):
        made(tiny, lm="tiny-lm")
    assert move(made(tiny, lm="tiny-lm", train_adapter=True, grid=2))
    with pytest.raises(InputError, match="start from a model with an image tower"):
        make_method("vladva", make=small_make(image="none"), lm="tiny-lm")
