"""CTP and TFT: the published numbers and identities, and the whole of it against loops."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from tests.factories import random_images
from tests.methods.adapt.helpers import CLIP_B16, NAMES, learnt, method, zero_shot

import diptych
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.adapt.ctp_tft import ClassAware
from diptych.methods.make import Make
from diptych.methods.registry import method_class
from diptych.towers.nn.attention import Attention

ATTENTION = 3 * 512**2 + 512**2 + 512


def moved(tft="query_image", heads=2, **config):
    """A method whose every part has a say, in float64."""
    made = method("ctp_tft", tft=tft, heads=heads, **config).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3
                )
    return made


def plain(size: int) -> Attention:
    """One head whose projections are the identity."""
    layer = Attention(size, 1, bias=False)
    for part in (layer.q, layer.k, layer.v, layer.out):
        torch.nn.init.eye_(part.weight)
    torch.nn.init.zeros_(layer.out.bias)
    return layer.requires_grad_(False)


def test_as_many_numbers_are_learnt_as_the_sheet_counts():
    with torch.device("meta"):
        cls = method_class("ctp_tft")
        made = cls(cls.configure({}), Make(**CLIP_B16, tokenizer=build("clip")))
    parts = {name: learnt(getattr(made.model, name)) for name in ("ctp", "meta", "norm", "tft")}
    assert parts == {"ctp": 1_049_088, "meta": 33_312, "norm": 1_024, "tft": ATTENTION}
    assert made.model.alpha.shape == ()
    assert learnt(made) == 2 * 1_049_088 + 33_312 + 1_024 + 1 + 4 * 512


def test_a_class_reads_the_image_as_worked_out_by_hand():
    layer, tokens = plain(2), torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    weights = torch.tensor([[0.575975, 0.140029, 0.283995], [0.197776, 0.401112, 0.401112]])
    torch.testing.assert_close(
        layer.weights(torch.eye(2)[None], tokens)[0, 0], weights, atol=2e-6, rtol=0
    )
    read = torch.tensor([[1.435946, 0.424025], [0.796664, 0.802224]])
    torch.testing.assert_close(layer(torch.eye(2)[None], tokens)[0], read, atol=2e-6, rtol=0)


def test_the_image_reads_the_classes_as_worked_out_by_hand():
    layer, image = plain(2), torch.tensor([[[1.0, 0.5]]])
    weights = torch.tensor([0.587479, 0.412521])
    torch.testing.assert_close(
        layer.weights(image, torch.eye(2)[None]).flatten(), weights, atol=2e-6, rtol=0
    )
    made = method("ctp_tft").model
    made.tft, made.alpha = layer, torch.nn.Parameter(torch.tensor(0.5))
    tuned = made.tuned(image, torch.zeros(1, 1, 2), torch.eye(2)[None])
    torch.testing.assert_close(
        tuned.flatten(), torch.tensor([0.877729, 0.479158]), atol=2e-6, rtol=0
    )
    made.alpha.data.zero_()
    untuned = made.tuned(image, torch.zeros(1, 1, 2), torch.eye(2)[None])
    torch.testing.assert_close(
        untuned.flatten(), torch.tensor([0.894427, 0.447214]), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("tft", ["query_image", "pool"])
def test_the_first_step_is_zero_shot_with_any_names(tft):
    made, x = method("ctp_tft", tft=tft), random_images()
    for names in (NAMES, ["a green triangle", "bar"]):
        made.model.set_classes(names)
        with torch.no_grad():
            expected = (
                made.model.encoder.logit_scale()
                * made.model.encoder.embed_images(x)
                @ zero_shot(made).T
            )
            torch.testing.assert_close(made.model(x), expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                made.model.text_features(), zero_shot(made), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("heads", [1, 4])
def test_both_attentions_are_initialised_to_the_similarity_of_the_encoder(heads):
    model = method("ctp_tft", heads=heads).double().model
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 3, 32, generator=generator, dtype=torch.float64)
    for layer in (model.ctp, model.tft):
        for query in one:
            for token in other:
                q = layer.q(query).unflatten(0, (heads, -1))
                k = layer.k(token).unflatten(0, (heads, -1))
                logits = (q * k).sum(1) / (32 / heads) ** 0.5
                expected = model.encoder.logit_scale() * (query @ token)
                torch.testing.assert_close(logits.mean(), expected, atol=1e-4, rtol=1e-5)


@cache
def scenes():
    """A new classifier on `tiny`, and scenes of many things with the things' names as classes."""
    tiny = diptych.load("tiny")
    torch.manual_seed(0)
    model = ClassAware(tiny.encoder, tiny.tokenizer)
    model.set_classes(["crab", "cup", "bus", "cat", "apple", "chair"])
    source = open_source("scenes:number=1:distractors=6:styles=plain:seed=100:count=16")
    pixels = [tiny.preprocess.read(source[at].images["main"], exact=True) for at in range(16)]
    return model, torch.stack(pixels)


def read(model, x):
    """What each class reads of each image, before the meta-net: (N, C, E)."""
    image, patches = model.look(model.encoder.encode_image(x))
    texts = model.text_features().expand(len(x), -1, -1)
    return model.norm(model.ctp(texts, torch.cat([image, patches], 1)))


def between(values):
    """The share of the variance of (N, C, E) that lies between the classes of an image."""
    inside = (values - values.mean(1, keepdim=True)).square().mean()
    return float(inside / (values - values.mean((0, 1))).square().mean())


@torch.no_grad()
def test_a_new_model_attends_to_few_tokens_and_each_class_to_its_own():
    model, x = scenes()
    texts = model.text_features().expand(len(x), -1, -1)
    weights = model.ctp.weights(texts, torch.cat(model.look(model.encoder.encode_image(x)), 1))
    perplexity = torch.special.entr(weights).sum(-1).exp()
    assert weights.shape[-1] == 65
    assert perplexity.mean() < 65 / 2
    assert between(read(model, x)) > 0.1


@torch.no_grad()
def test_random_queries_and_keys_would_read_the_same_for_every_class():
    """Which is why they are not initialised so."""
    model, x = scenes()
    model = deepcopy(model)
    for part in (model.ctp.q, model.ctp.k):
        part.reset_parameters()
    assert between(read(model, x)) < 1e-3


def slow_read(layer, query, keys):
    """One query (E,) over keys (M, E), head by head."""
    heads = []
    for q, k, v in zip(
        *(
            f(x).unflatten(-1, (layer.heads, -1)).movedim(-2, 0)
            for f, x in ((layer.q, query), (layer.k, keys), (layer.v, keys))
        ),
        strict=True,
    ):
        scores = torch.stack(
            [sum(a * b for a, b in zip(q, one, strict=True)) / len(q) ** 0.5 for one in k]
        )
        share = scores.exp() / scores.exp().sum()
        heads.append(sum(s * one for s, one in zip(share, v, strict=True)))
    return layer.out(torch.cat(heads))


def slow_logits(made, x, tft):
    """Image by image and class by class, each prompt a text of its own."""
    model, rows = made.model, []
    encoder, words = model.encoder, model.tokenizer
    for image in x:
        seen = encoder.encode_image(image[None])
        whole = F.normalize(encoder.image_projection(seen.pooled[0]), dim=0)
        patches = F.normalize(encoder.image_projection(seen.patches[0]), dim=1)
        classes = []
        for name in model.classes:
            ids = torch.tensor(words.encode([f"a photo of a {name}."]))
            asks = encoder.embed_texts(ids, torch.tensor([ids.shape[1]]))[0]
            read = slow_read(model.ctp, asks, torch.cat([whole[None], patches]))
            tokens = encoder.text.table(ids)
            count = len(words.ids("a photo of a"))
            tokens[0, 1 : 1 + count] = model.context + model.meta(model.norm(read))
            classes.append(
                encoder.embed_texts(None, torch.tensor([ids.shape[1]]), embeddings=tokens)[0]
            )
        row = []
        for one in classes:
            if tft == "pool":
                read = slow_read(model.tft, one, patches)
            else:
                read = slow_read(model.tft, whole, torch.stack(classes))
            row.append(encoder.logit_scale() * F.normalize(whole + model.alpha * read, dim=0) @ one)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("tft", ["query_image", "pool"])
def test_logits_and_their_gradients_equal_loops_over_images_classes_and_heads(tft):
    made, x = moved(tft, prompts=4), random_images(3)
    grads = []
    for logits in (made.model(x), slow_logits(made, x, tft)):
        made.zero_grad()
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        grads.append(
            [logits.detach(), *(p.grad.clone() for p in made.parameters() if p.requires_grad)]
        )
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-8, rtol=1e-6)


def test_gradients_are_those_of_finite_differences():
    made, x = moved(classes=("bar", "car")), random_images(1)
    model = made.model
    image, patches = (part.detach() for part in model.look(model.encoder.encode_image(x)))
    texts = model.text_features()

    def loss(alpha, bias):
        model.alpha.data.copy_(alpha)
        classes = model.aware(image + bias, patches, texts)
        return (F.normalize(image + alpha * model.tft(image, classes), dim=-1) * classes).sum(-1)

    generator = torch.Generator().manual_seed(0)
    bias = torch.randn(1, 1, 32, generator=generator, dtype=torch.float64) * 0.1
    inputs = (torch.tensor(0.7, dtype=torch.float64, requires_grad=True), bias.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


def test_a_query_of_no_class_shifts_all_classes_alike():
    """Which is CoCoOp's structure: the same shift of every class."""
    model, x = moved().model, random_images(2)
    shifts = []
    pairs = model.pair_features
    model.pair_features = lambda shift: shifts.append(shift) or pairs(shift)
    own = model.class_features(x)
    mean = model.text_features().mean(0, keepdim=True).expand(3, -1)
    model.text_features = lambda: mean
    alike = model.class_features(x)
    assert not torch.allclose(shifts[0][:, 0], shifts[0][:, 1])
    torch.testing.assert_close(shifts[1], shifts[1][:, :1].expand(-1, 3, -1))
    torch.testing.assert_close(alike, pairs(shifts[1][:, :1]))
    assert not torch.allclose(own, alike)


@pytest.mark.parametrize("tft", ["query_image", "pool"])
def test_the_order_of_patches_does_not_matter_and_that_of_classes_is_the_logits(tft):
    made, x = moved(tft), random_images(2)
    model = made.model
    with torch.no_grad():
        image, patches = model.look(model.encoder.encode_image(x))
        turned = patches[:, torch.tensor([2, 0, 3, 1])]
        classes = model.aware(image, patches, model.text_features())
        torch.testing.assert_close(model.aware(image, turned, model.text_features()), classes)
        torch.testing.assert_close(
            model.tuned(image, turned, classes), model.tuned(image, patches, classes)
        )
        logits = model(x)
        order = [2, 0, 1]
        model.set_classes([NAMES[at] for at in order])
        torch.testing.assert_close(model(x), logits[:, order])


@pytest.mark.parametrize(("tft", "independent"), [("query_image", False), ("pool", True)])
def test_it_says_whether_a_class_hangs_on_the_others(tft, independent):
    made, x = moved(tft), random_images(2)
    with torch.no_grad():
        whole = made.model(x)
        made.model.set_classes(NAMES[:2])
        assert torch.allclose(made.model(x), whole[:, :2]) == independent == made.model.independent


def test_one_class_alone_teaches_nothing():
    made = moved(classes=("bar",))
    loss = F.cross_entropy(made.model(random_images(2)), torch.zeros(2, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert all(bool((p.grad == 0).all()) for p in made.parameters() if p.requires_grad)


def test_without_alpha_the_classes_learn_as_without_tuning():
    made, x, y = moved(), random_images(3), torch.tensor([0, 1, 2])
    model = made.model
    model.alpha.data.zero_()
    F.cross_entropy(model(x), y).backward()
    with_it = {
        name: p.grad.clone()
        for name, p in made.named_parameters()
        if p.requires_grad and "tft" not in name
    }
    made.zero_grad()
    image = model.encoder.embed_images(x)[:, None]
    F.cross_entropy(
        model.encoder.logit_scale() * (image * model.class_features(x)).sum(-1), y
    ).backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and "tft" not in name and "alpha" not in name:
            torch.testing.assert_close(parameter.grad, with_it[name])


def test_the_names_that_ask_get_no_gradient_and_are_encoded_once_in_training():
    made, calls = method("ctp_tft").train(), []
    encode = made.model.encoder.encode_text
    made.model.encoder.encode_text = lambda ids, lengths, **how: (
        calls.append(ids) or encode(ids, lengths, **how)
    )
    for _ in range(3):
        F.cross_entropy(made.model(random_images()), torch.tensor([0, 1, 2, 0])).backward()
    assert sum(ids is not None for ids in calls) == 1
    assert not made.model.text_features().requires_grad
    asks = made.model.text_features().requires_grad_()
    made.model.logits(random_images(), asks).sum().backward()
    assert asks.grad is None


def test_maps_say_where_each_class_looks():
    model, x = moved().model, random_images(2)
    maps = model.attention(x)
    assert maps.shape == (2, 3, 2, 2)
    assert not maps.requires_grad
    image, patches = model.look(model.encoder.encode_image(x))
    tokens = torch.cat([image, patches], 1)
    weights = model.ctp.weights(model.text_features().expand(2, -1, -1), tokens).mean(1)
    torch.testing.assert_close(maps.flatten(2).sum(-1), 1 - weights[..., 0])
    torch.testing.assert_close(maps.flatten(2), weights[..., 1:])
    seen = model.encoder.encode_image(x)
    model.encoder.encode_image = lambda x: replace(seen, grid=None)
    with pytest.raises(InputError, match="grid"):
        model.attention(x)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"tft": "query"}, "did you mean 'query_image'"),
        ({"heads": 0}, "'heads' of method CTPTFT is 0"),
        ({"heads": 5}, "cannot be split over 5 heads"),
        ({"prompts": 0}, "'prompts' of method CTPTFT is 0"),
    ],
)
def test_bad_options_are_refused(config, said):
    with pytest.raises(InputError, match=said):
        method("ctp_tft", **config)
