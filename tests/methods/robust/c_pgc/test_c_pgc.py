"""C-PGC: its losses beside a slow reference, the bound of the change, and what is delivered."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.factories import AT, TEXT, make_method, random_images, tokenizer

from diptych.data.loader import Loader
from diptych.data.sample import Text
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.evaluation.suites.captions import correct
from diptych.inference.apply import Applied
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER, Make
from diptych.methods.robust.c_pgc import CPGC
from diptych.methods.robust.c_pgc.contrast import inverted_contrast
from diptych.methods.robust.c_pgc.words import spans_of
from diptych.methods.store import to_model
from diptych.testing import Toy
from diptych.training.prepare import Run

SMALL = {
    "eps": 4,
    "layers": 2,
    "channels": 32,
    "text_channels": 16,
    "rows": 4,
    "captions": 2,
    "scales": (0.5, 1.5),
}


def make(**config) -> CPGC:
    return make_method("c_pgc", **{**SMALL, **config}).train()


def batch_of(method, count=3):
    stage = method.stages()[0]
    return {
        stream: next(
            Loader(
                Toy(12), method.views(stage, stream), stage.plan_of(stream), count, steps=1
            ).epoch(0)
        )
        for stream in stage.streams
    }


def step(method, batch):
    torch.manual_seed(1)
    return method.loss(method.encode(batch, AT), batch, AT)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def ratio(own, far, count):
    """log(P / (P + Q)) of lists of similarities."""
    p = sum(math.exp(value / 0.1) for value in own) / count
    q = sum(math.exp(value / 0.1) for value in far) / count
    return math.log(p / (p + q))


def of_images(method, batch, images, delta):
    """The term of the images: a scale, an image and a caption at a time."""
    encoder = method.model.encoder
    tower = encoder.image
    own_texts, far_texts = (captions_of(encoder, batch[name]) for name in ("train", "targets"))
    total = 0.0
    for block in images:
        own, far = [], []
        for at, image in enumerate(block):
            changed, plain = (
                encoder.embed_images(((x - tower.mean) / tower.std)[None])[0].tolist()
                for x in (image + delta, image)
            )
            means = [np.mean([dot(plain, text) for text in texts]) for texts in far_texts]
            own += [dot(changed, text) for text in own_texts[at]]
            far += [dot(changed, text) for text in far_texts[int(np.argmin(means))]]
            total -= 0.1 * sum((a - o) ** 2 for a, o in zip(changed, plain, strict=True))
        total += ratio(own, far, len(block))
    return total


def captions_of(encoder, batch):
    return [
        [
            encoder.embed_texts(ids[None, :length], length[None])[0].tolist()
            for ids, length in zip(*texts, strict=True)
        ]
        for texts in zip(batch.text.ids, batch.text.lengths, strict=True)
    ]


def of_texts(method, batch, features, word):
    """The term of the texts: a caption at a time, each cut by its list of ids."""
    encoder = method.model.encoder
    table = encoder.text.table.weight
    images = [encoder.embed_images(pixels)[0].tolist() for pixels in batch["train"].image.pixels]
    targets = [encoder.embed_images(pixels)[0].tolist() for pixels in batch["targets"].image.pixels]
    own, far, distance = [], [], 0.0
    for at, texts in enumerate(captions_of(encoder, batch["train"])):
        for number, plain in enumerate(texts):
            length = int(batch["train"].text.lengths[at, number])
            ids = batch["train"].text.ids[at, number, :length].tolist()
            start, size = (int(features[name][at, number]) for name in ("start", "size"))
            rows = (
                [table[i] for i in ids[:start]] + [word] + [table[i] for i in ids[start + size :]]
            )
            changed = encoder.embed_texts(
                None, torch.tensor([len(rows)]), embeddings=torch.stack(rows)[None]
            )[0].tolist()
            scores = [dot(changed, target) for target in targets]
            own.append(dot(changed, images[at]))
            far.append(min(scores))
            distance += sum((a - o) ** 2 for a, o in zip(changed, plain, strict=True))
    return ratio(own, far, len(own)) - 0.1 * distance


SURROGATES = {
    "clip": {},
    "albef": {"queue": 0, "words": 0, "text": f"{TEXT}:causal=false:pooling=first"},
    "coca": {"pooler": "cascade:queries=4", "text": f"{TEXT}:pooling=cls"},
}


def surrogate(name):
    """A model of a method, with a matching head (albef) or a decoder (coca) beside its towers."""
    method = make_method(name, **SURROGATES[name])
    module = method.deliver().eval()
    encoder = getattr(module, "encoder", module)
    return to_model(module, method.make.tokenizer, encoder.image.preprocess.to_dict(), name=name)


@pytest.mark.parametrize("kind", SURROGATES)
def test_the_losses_are_those_of_a_slow_reference(kind):
    torch.set_default_dtype(torch.float64)
    try:
        method = make(make=Make.of(surrogate(kind)))
        batch = batch_of(method)
        features = method.encode(batch, AT)
        found = step(method, batch)
        torch.manual_seed(1)
        images = method._augmented(batch["train"].image.flat)
        with torch.no_grad():
            delta = found.carry["levels"] / 255
            slow = of_images(method, batch, images, delta)
            assert float(found.terms["image"].detach()) == pytest.approx(slow, rel=1e-9)
            slow = of_texts(method, batch, features, found.carry["word"])
            assert float(found.terms["text"].detach()) == pytest.approx(slow, rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


def changed_of(kind):
    """A model, and its change by one step of the method."""
    model = surrogate(kind)
    method = make(eps=40, make=Make.of(model))
    losses = step(method, batch_of(method))
    method.after_step(losses.carry, AT)
    module = method.deliver().eval()
    return model, to_model(
        module, method.make.tokenizer, module.image.preprocess.to_dict(), name="change"
    )


def test_the_surrogates_vectors_are_the_models_own():
    for kind in SURROGATES:
        model, change = changed_of(kind)
        images, texts = random_images(2), ["a red cat", "two dogs"]
        torch.testing.assert_close(change.embed_images(images), model.embed_images(images))
        torch.testing.assert_close(change.embed_texts(texts), model.embed_texts(texts))


def test_matches_are_attacked_as_those_of_changed_data_are_found():
    model, change = changed_of("albef")
    change.perturbation.embedding.zero_()  # texts stay, since equal ones are one text of the suite
    toy = Toy(12)
    settings = {"rerank": 6, "ks": (3,), "role": "caption"}
    attacked = evaluate(change, toy, ["attack"], victim=model, **settings)["attack"]
    assert 0 < attacked["largest_change"] <= 40
    data = Applied(toy, change, change.preprocess, "caption", False)
    after = evaluate(model, data, ["retrieval"], **settings)["retrieval"]
    before = evaluate(model, toy, ["retrieval"], **settings)["retrieval"]
    for name in ("i2t_r3", "reranked_i2t_r3"):
        assert attacked[name] == before[name]
        assert attacked[f"{name}_after"] == after[name]
    with pytest.raises(InputError, match="a victim needs a model with match"):
        evaluate(change, toy, ["attack"], **settings)


def test_captions_are_attacked_as_those_of_changed_images_are_written():
    model, change = changed_of("coca")
    change.perturbation.levels.fill_(255)  # all images become white, with one caption
    model.captioner.longest = 4
    toy = Toy(4)
    pixels = torch.stack([model.preprocess.read(toy[at].images["main"]) for at in range(4)])
    written = model.generate(pixels)
    data = Rows([replace(toy[at], texts=[Text(text=written[at])]) for at in range(4)])
    found = evaluate(change, data, ["attack"], victim=model, task="captions")["attack"]
    assert found["n"] == 4
    assert found["accuracy"] == 1
    other = model.generate(change.apply(pixels)[0])
    assert other != written
    wrong = [not correct(text, [own]) for text, own in zip(other, written, strict=True)]
    assert found["asr"] == np.mean(wrong)


def test_images_are_seen_with_noise_and_at_each_scale():
    method = make()
    pixels = batch_of(method)["train"].image.flat
    first, *others = method._augmented(pixels)
    x = pixels.float() / 255
    assert first.min() >= 0
    assert first.max() <= 1
    assert not torch.equal(first, x)
    assert float((first - x).abs().max()) <= 4 / 255 + 1e-6
    assert [each.shape for each in others] == [first.shape] * 2


@pytest.mark.parametrize("eps", [0, 1, 12])
def test_the_bound_holds_exactly_and_in_images_of_8_bits(eps):
    method = make(eps=eps)
    batch = batch_of(method)
    losses = step(method, batch)
    method.after_step(losses.carry, AT)
    model = method.model.to_model(None, method.model.image.preprocess, "change")
    assert float(model.delta.abs().max()) <= float(np.float32(eps / 255))
    assert model.delta.dtype == torch.float32
    assert eps == 0 or model.delta.abs().max() > 0
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    changed, _ = model.apply(pixels)
    assert changed.dtype == torch.uint8
    assert int((changed.int() - pixels.int()).abs().max()) <= eps
    exact = (pixels.float() / 255 + model.delta).clamp(0, 1) * 255
    torch.testing.assert_close(changed.float(), exact, atol=1e-3, rtol=0)


def test_training_sees_the_change_as_it_is_stored():
    method = make()
    levels, delta, saturated = method._delta(torch.zeros(3, 32))
    assert torch.equal(levels, levels.round())
    assert torch.equal(delta, levels / 255)
    assert 0 <= float(saturated) <= 1
    delta.sum().backward()
    assert float(method.image_source.merge.weight.grad.abs().sum()) > 0


def test_the_mean_condition_of_training_is_exported_or_the_last_batch():
    method = make()
    batches = [batch_of(method, 3), batch_of(method, 2)]
    torch.nn.init.normal_(method.image_source.attention["1"].out.weight)
    conditions = []
    for batch in batches:
        losses = step(method, batch)
        method.after_step(losses.carry, AT)
        features = method.encode(batch, AT)
        conditions.append(features["train.text"].mean((0, 1)))
    last = method.model.levels.clone()
    assert torch.equal(last, losses.carry["levels"].to(torch.int16))
    torch.testing.assert_close(method.conditions[0], torch.stack(conditions).mean(0))
    train, export = method.stages()
    assert not export.optimize
    assert train.plan_of("targets") != train.plan_of("train")
    export.prepare(Run(method, {}, AT, torch.device("cpu")))
    expected = method._delta(torch.stack(conditions).mean(0)[None])[0]
    assert torch.equal(method.model.levels, expected.to(torch.int16))
    assert len(make(export="last").stages()) == 1


def test_the_important_word_is_the_one_that_is_replaced():
    method = make()
    batch = batch_of(method)
    features = method.encode(batch, AT)
    text = batch["train"].text
    for at in range(3):
        row = text.ids[at, 0, : text.lengths[at, 0]].tolist()
        start, size = int(features["start"][at, 0]), int(features["size"][at, 0])
        assert (start, start + size) in spans_of(row, method.make.tokenizer)
        assert start > 0, "the start of the text is no word"


def test_a_reversed_contrast_is_another_loss_and_distance_alone_has_none():
    plain = step(make(), batch_of(make()))
    alone = step(make(contrast=0.0), batch_of(make()))
    assert float(alone.terms["image"].detach()) == pytest.approx(
        -0.1 * float(alone.logged["image_distance"])
    )
    method = make()
    method.contrast = lambda *given: -inverted_contrast(*given)
    other = step(method, batch_of(method))
    assert float((plain.terms["text"] + other.terms["text"]).detach()) == pytest.approx(
        -0.2 * float(plain.logged["text_distance"]), rel=1e-4
    )


def test_pgd_takes_signed_steps_and_stays_within_the_bound():
    method = make(by="pgd", step=0.5)
    [stage] = method.stages()
    assert stage.recipe == {"optimizer": "sgd", "lr": 0.5, "betas": (0.0, 0.999)}
    before = method.image_source.values.detach().clone()
    losses = step(method, batch_of(method))
    losses.total.backward()
    torch.optim.SGD(method.image_source.parameters(), lr=0.5).step()
    moved = (method.image_source.values.detach() - before).abs().unique()
    assert moved.max() == pytest.approx(0.5, abs=1e-6)
    method.after_step(losses.carry, AT)
    assert float(method.image_source.values.detach().abs().max()) <= 1
    assert not any(p.requires_grad for p in method.model.parameters())


def test_noise_has_random_signs_at_the_bound_and_a_random_word():
    found = []
    for seed in (0, 0, 1):
        method = make(by="noise")
        [stage] = method.stages()
        assert not stage.optimize
        stage.prepare(Run(method, {}, At(0, 0, 0, seed), torch.device("cpu")))
        found.append((method.model.levels.clone(), method.model.word))
    assert found[0][0].abs().unique().tolist() == [4]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not torch.equal(found[0][0], found[2][0])
    assert found[0][1] in method.model.words.values()


def test_the_surrogate_stays_as_it_is():
    method = make()
    assert not method.model.encoder.training
    assert method.image_source.training
    assert not any(p.requires_grad for p in method.model.encoder.parameters())


def test_a_model_without_a_text_tower_is_refused():
    with pytest.raises(InputError, match="has no text tower, no image tower or no tokenizer"):
        make_method("c_pgc", text=NO_TOWER)
    with pytest.raises(InputError, match="start from one of images and texts"):
        make_method("c_pgc", image=NO_TOWER, words=tokenizer())
