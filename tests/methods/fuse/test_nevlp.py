"""NEVLP: the losses against a slow reference, the sheet's numbers, probabilities of noise and concepts
of the right pairs, and what the delivered model compares, matches and writes."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.evaluation.helpers import Rows
from tests.factories import AT, make_method, random_images
from tests.methods.fuse.helpers import batch as plain_batch
from torch.nn.functional import normalize

from diptych.data.batch import Tokens
from diptych.data.columns import WithColumns
from diptych.data.sample import Field, Text
from diptych.data.tokenizers import pad_batch
from diptych.errors import InputError
from diptych.evaluation.suites.noisy_pairs import noisy_pairs, report
from diptych.methods.base import At
from diptych.methods.fuse.nevlp import NEVLP, NOISE
from diptych.methods.fuse.nevlp.concepts import CONCEPTS, vocabulary
from diptych.methods.fuse.nevlp.losses import noisy_nce, noisy_rows
from diptych.methods.fuse.nevlp.mixture import (
    Mixture,
    fixed_batches,
    noise_probabilities,
    two_gaussians,
)
from diptych.methods.fuse.nevlp.model import losses_of
from diptych.objectives import info_nce
from diptych.testing import Toy
from diptych.training.prepare import Run

NAMES = ("red", "blue", "circle", "bar")


def method(**config):
    sizes = {"width": 32, "depth": 2, "heads": 2, "queries": 3, "dropout": 0.0, "embed": 16}
    made = make_method(NEVLP, **{**sizes, "min_count": 1, "concepts": 2, **config}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    made.model.know(NAMES)
    return made.eval()


def batch(made, noise, count=3):
    given = plain_batch(count)
    words = made.make.tokenizer
    rows = words.encode(["red, bar", "circle", "blue, bar"][:count])
    ids, lengths = pad_batch(rows, words)
    texts = {**given.texts, CONCEPTS: Tokens(ids[:, None], lengths[:, None])}
    fields = {NOISE: torch.tensor(noise[:count])}
    return replace(given, texts=texts, fields=fields)


def losses(made, given):
    features = made.encode(given, AT)
    if made.exchanged:
        features |= made.among(features, slice(0, len(given)), given, AT)
    return made.loss(features, given, AT)


# ---- a slow reference, one pair and one word after another


def reference(made, given, mode):
    """The losses, of unpadded texts; negatives are those that the method draws."""
    model, words, B = made.model, made.make.tokenizer, len(given)
    tau = float(model.logit_scale.value.detach())
    unit = lambda x: x / x.square().sum(-1, keepdim=True).sqrt()  # noqa: E731
    row = lambda tokens, i: tokens.ids[i, 0, : int(tokens.lengths[i, 0])].tolist()  # noqa: E731
    text = [row(given.text, i) for i in range(B)]
    names = [row(given.texts[CONCEPTS], i)[1:] for i in range(B)]
    tokens = [
        model.norm(model.encoder.encode_image(given.image.pixels[i]).tokens) for i in range(B)
    ]

    def read(i, ids):
        ids = torch.tensor([ids])
        return model.qformer(ids, torch.tensor([ids.shape[1]]), memory=tokens[i])

    x = [unit(model.image_projection(model.qformer(memory=each).tokens[0])) for each in tokens]
    t = []
    for ids in text:
        found = model.qformer(torch.tensor([ids]), torch.tensor([len(ids)]))
        t.append(unit(model.text_projection(found.pooled[0])))
    S = [[max(float(q @ t[j]) for q in x[i]) / tau for j in range(B)] for i in range(B)]

    def log_p(values, at):
        return values[at] - math.log(sum(math.exp(value) for value in values))

    contrastive = 0.0
    for i in range(B):
        w = 0.5 * float(given.fields[NOISE][i])
        for scores in (S[i], [S[j][i] for j in range(B)]):
            contrastive -= (1 - w) * log_p(scores, i) / (2 * B)
            if mode == "smooth":
                contrastive -= sum(w / (B - 1) * log_p(scores, j) for j in range(B) if j != i) / (2 * B)  # fmt: skip

    drawn = made.among(made.encode(given, AT), slice(0, B), given, AT)["matches"]
    matching = 0.0
    for i in range(B):
        for number in range(3):
            # the negative is not returned: it is the pair that has these logits
            others = [j for j in range(B) if j != i]
            pairs = [[(i, i)], [(j, i) for j in others], [(i, j) for j in others]][number]
            scores = []
            for image, of in pairs:
                found = read(image, [text[of][0], *names[image], *text[of][1:]])
                each = [model.match_head(found.tokens[0, q]) for q in range(found.prefix)]
                scores.append((sum(each) / len(each)).tolist())
            mine = [s for s in scores if np.allclose(s, drawn[i, number].tolist(), atol=1e-9)]
            assert len(mine) == 1
            matching -= log_p(mine[0], 1 if number == 0 else 0) / (3 * B)

    total = count = 0
    table = model.qformer.table.weight[: words.vocab_size]
    for i in range(B):
        ids = [words.vocab_size, *names[i], *text[i][1:]]
        for at in range(1 + len(names[i]), len(ids)):
            before, n = torch.tensor([ids[:at]]), torch.tensor([at])
            hidden = model.qformer(before, n, memory=tokens[i], visible="causal").tokens[0, -1]
            scores = model.lm.head(hidden, table).tolist()
            mean = sum(log_p(scores, word) for word in range(len(scores))) / len(scores)
            total -= 0.9 * log_p(scores, ids[at]) + 0.1 * mean
            count += 1
    return {"contrastive": contrastive, "matching": matching, "caption": total / count}


@torch.no_grad()
@pytest.mark.parametrize("mode", ["smooth", "weight"])
def test_the_losses_are_those_of_the_reference(mode):
    made = method(mode=mode)
    given = batch(made, [0.0, 0.4, 1.0])
    expected = reference(made, given, mode)
    for name, value in losses(made, given).terms.items():
        assert float(value) == pytest.approx(expected[name], abs=1e-9), name


# ---- the sheet's numbers

S = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.3, 0.7]], dtype=torch.float64)
EPS = torch.tensor([0, 0.5, 1], dtype=torch.float64)


@pytest.mark.parametrize(("share", "expected"), [(0, 0.701631), (0.5, 0.853714), (1, 1.005798)])
def test_contrast_has_the_published_values(share, expected):
    assert float(noisy_nce(S, share * EPS)) == pytest.approx(expected, abs=1e-6)


def test_rows_have_the_published_values_and_no_noise_is_info_nce():
    rows = [noisy_rows(logits, 0.5 * EPS, "smooth").tolist() for logits in (S, S.T)]
    assert rows[0] == pytest.approx([0.618369, 0.878092, 1.048300], abs=1e-6)
    assert rows[1] == pytest.approx([0.643513, 0.893420, 1.040592], abs=1e-6)
    x, t = normalize(torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    for mode in ("smooth", "weight"):
        found = noisy_nce(9 * x @ t.T, torch.zeros(4), mode)
        assert float(found) == pytest.approx(float(info_nce(x, t, torch.tensor(9.0))), abs=1e-6)
    assert torch.allclose(noisy_rows(S, EPS, "weight"), (1 - EPS) * pair_losses_of_rows(S))


def pair_losses_of_rows(logits):
    return -logits.log_softmax(1).diagonal()


def test_a_uniform_target_has_no_gradient_in_a_uniform_row():
    even = torch.full((3, 3), 2 / 3, dtype=torch.float64)[0]
    for logits, still in ((torch.zeros(3, 3).double(), True), (S.clone(), False)):
        logits.requires_grad_()
        [gradient] = torch.autograd.grad(noisy_nce(logits, even), logits)
        assert bool(gradient.abs().max() < 1e-12) is still
    torch.autograd.gradcheck(noisy_nce, (S.clone().requires_grad_(), EPS))


def test_posteriors_have_the_published_values():
    mixture = Mixture((0.7, 0.3), (1, 3), (0.5, 0.8))
    at = np.array([0, 0.5, 1.5, 2, 3, -0.282, -0.5, -2.5, -3])
    expected = [0.001746, 0.003334, 0.070757, 0.475382, 0.998749, 0.001585, 0.001679, 0.389334, 0.928089]  # fmt: skip
    assert mixture.posterior(at) == pytest.approx(expected, abs=1e-6)
    assert mixture.noise(at) == pytest.approx([0, 0, *expected[2:5], 0, 0, 0, 0], abs=1e-6)


def test_two_components_are_found_and_one_is_not_taken_for_two():
    rng = np.random.default_rng(0)
    draws = np.concatenate([rng.normal(1, 0.3, 700), rng.normal(3, 0.5, 300)])
    found = two_gaussians(draws)
    assert found is not None
    assert found.means == pytest.approx((1, 3), abs=0.1)
    taken = found.noise(draws) > 0.5
    assert taken[700:].mean() > 0.97
    assert taken[:700].mean() < 0.01
    assert np.allclose(noise_probabilities(draws), noise_probabilities(5 * draws + 2), atol=1e-6)
    for degenerate in (np.ones(9), np.array([1.0, np.nan, 2.0]), np.array([1.0])):
        assert noise_probabilities(degenerate) is None


# ---- probabilities of the right pairs


def test_a_loss_belongs_to_a_key_in_whatever_order_the_data_are():
    vectors = torch.randn(11, 3, 8), torch.randn(11, 8)
    images, texts = (normalize(each.double(), dim=-1).numpy() for each in vectors)

    def vectors_of(rows, order=None):
        rows = rows if order is None else order[rows]
        return torch.from_numpy(images[rows]), torch.from_numpy(texts[rows])

    keys = list(Toy(11).keys())
    found = losses_of(vectors_of, keys, 5.0, 4, seed=3)
    for rows in fixed_batches(keys, 4, 3)[:2]:
        for i in rows:
            scores = [[5 * (images[a] @ texts[b]).max() for b in rows] for a in rows]
            at = list(rows).index(i)
            own = [scores[at], [row[at] for row in scores]]
            loss = sum(math.log(sum(map(math.exp, s))) - s[at] for s in own) / 2
            assert found[i] == pytest.approx(loss)
    order = np.random.default_rng(1).permutation(11)
    other = losses_of(partial(vectors_of, order=order), [keys[i] for i in order], 5.0, 4, seed=3)
    assert np.allclose(other, found[order])


def test_each_caption_of_an_image_has_a_probability_of_its_own(tmp_path):
    made = method(warm=0, concepts=1)
    rows = [
        replace(Toy(4)[at], key=str(at), texts=[Text(text=text) for text in texts])
        for at, texts in enumerate([["a bar", "a blue bar"], ["a red circle"], ["a bar", "red"], ["blue"]])
    ]  # fmt: skip
    source = Rows(rows)
    made.setup({"train": source})
    assert made.model.names == ("bar", "blue", "red", "circle")
    run = Run(made, {"train": source}, AT, torch.device("cpu"), out=tmp_path, batch_size=4)
    made._noise = lambda run, pairs, keys: np.arange(len(keys)) / 10  # type: ignore[method-assign]
    made.prepare(run)
    columns = run.columns["train"]
    assert np.allclose(columns[NOISE], [[0, 0.1], [0.2, 0], [0.3, 0.4], [0.5, 0]])
    pairs = made.samples(made.stages()[0], "train", WithColumns(source, columns))
    found = [
        (pair.captions()[0], round(pair.labels[NOISE], 1))
        for pair in (pairs[0], pairs[1], pairs[2])
    ]
    assert found == [("a bar", 0.0), ("a blue bar", 0.1), ("a red circle", 0.2)]
    *_, view = made.views(made.stages()[0])
    rows = view(pairs[2], np.random.default_rng(), 0.0)[f"texts.{CONCEPTS}"]
    assert made.make.tokenizer.decode(rows[0]) in made.model.names
    lines = (tmp_path / "noise-0.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["0#0", "0#1", "1#0", "2#0", "2#1", "3#0"]


def test_noise_is_0_in_the_first_epochs_and_where_there_is_one_component(caplog):
    made = method(warm=1)
    source = Toy(8)
    made.setup({"train": source})
    for epoch, text in ((0, ""), (1, "of one component")):
        run = Run(made, {"train": source}, At(0, 0, epoch, 0), torch.device("cpu"), batch_size=8)
        if epoch:
            made.model.logit_scale.value.data.fill_(math.inf)  # all losses are equal
        made.prepare(run)
        assert not run.columns["train"][NOISE].any()
        assert text in caplog.text


# ---- concepts


def test_the_vocabulary_are_frequent_nouns():
    captions = ["A red cat on a mat.", "the Cat", "a dog", "dog, cat"]
    assert vocabulary(captions, min_count=2, max_concepts=9) == ("cat", "dog")
    assert vocabulary(captions, min_count=1, max_concepts=9, nouns=frozenset(["mat", "cat"])) == (
        "cat",
        "mat",
    )


def test_a_wrong_text_has_the_concepts_of_the_image():
    """So that the label cannot be read from whether concepts and caption agree in source."""
    made = method()
    given = batch(made, [0.0, 0.0, 0.0])
    words = made.make.tokenizer
    ids, lengths = made._enriched(given, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 2]))
    own = [given.text.ids[i, 0, : int(given.text.lengths[i, 0])].tolist() for i in range(3)]
    for at, (named, text) in enumerate((("red, bar", 0), ("circle", 0), ("red, bar", 2))):
        expected = [own[text][0], *words.encode([named])[0][1:], *own[text][1:]]
        assert ids[at, : int(lengths[at])].tolist() == expected


def test_concepts_are_the_nearest_prompts_of_the_frozen_model():
    made = method()
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    images = random_images(2)
    frozen = made.model.encoder.eval()
    words = made.make.tokenizer
    ids, lengths = pad_batch(words.encode([f"a photo of a {name}" for name in NAMES]), words)
    scores = frozen.embed_images(images) @ frozen.embed_texts(ids, lengths).T
    expected = [[NAMES[at] for at in row.argsort(descending=True)[:2].tolist()] for row in scores]
    assert model.concepts(images) == expected
    assert not any(value.requires_grad for value in frozen.parameters())
    made.model.know(())
    with pytest.raises(InputError, match="without concepts"):
        model.concepts(images)


# ---- the delivered model


@pytest.fixture(scope="module")
def model():
    made = method()
    return made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")


@torch.no_grad()
def test_one_query_is_a_dual_encoder_and_matches_are_those_of_single_pairs(model):
    made = method(queries=1)
    one = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    images, texts = random_images(2), ["a red circle", "a blue bar on the top"]
    index, vectors = one.index(images), one.embed_texts(texts)
    assert torch.allclose(one.similarity(index, vectors), index[:, 0] @ vectors.T)
    images, texts = random_images(2)[[0, 0, 1]], ["a red circle", "a blue bar on the top", "a bar"]
    found = model.match(images, texts)
    single = [float(model.match(images[i : i + 1], texts[i : i + 1])) for i in range(3)]
    assert found.tolist() == pytest.approx(single, abs=1e-5)
    assert torch.allclose(model.match(images, texts, probability=True), found.sigmoid())
    with pytest.raises(InputError, match="3 images came with"):
        model.match(images, texts[:2])


@torch.no_grad()
def test_what_is_written_is_the_likeliest_word_after_another(model):
    images, bridge, words = random_images(2), model.captioner, model.tokenizer
    said = model.generate(images, strategy="greedy", max_tokens=4)
    for i in range(2):
        [alone] = model.generate(images[i : i + 1], strategy="greedy", max_tokens=4)
        assert said[i] == alone
    seen = bridge.see(images)
    for i, prompt in enumerate(bridge.prompted(seen, None).ids):
        ids = list(prompt)
        assert ids[0] == words.vocab_size
        for _ in range(4):
            given = torch.tensor([ids]), torch.tensor([len(ids)])
            read = bridge.qformer(*given, memory=seen.tokens[i : i + 1], visible="causal")
            ids.append(int(bridge.lm.logits(read.tokens[0, -1]).argmax()))
            if ids[-1] == words.eot:
                break
        assert said[i] == words.decode(ids[len(prompt) :]).strip()
    texts = ["a red circle", "a bar"]
    single = [float(model.log_prob(images[i : i + 1], texts[i : i + 1])) for i in range(2)]
    assert model.log_prob(images, texts).tolist() == pytest.approx(single, abs=1e-4)
    assert model.generate(images, strategy="contrastive:k=2:alpha=0.5", max_tokens=2)


def test_noise_of_pairs_of_ones_own(model):
    pairs = [Toy(32)[i] for i in range(32)]
    index = model.index([pair.images["main"].decode() for pair in pairs])
    texts = model.embed_texts([pair.captions()[0] for pair in pairs])
    found = model.noise_probability(index, texts, batch_size=8)
    assert found.shape == (32,)
    assert 0 <= found.min() < found.max() <= 1
    with pytest.raises(InputError, match="32 images came with 2 texts"):
        model.noise_probability(index, texts[:2])
    flagged = Rows(
        [replace(pair, labels={"noise": at % 2}) for at, pair in enumerate(pairs)],
        fields={"labels.noise": Field(kind="int")},
    )
    result = noisy_pairs(model, flagged, by="noise", batch_size=8)
    expected = report(found.numpy(), np.arange(32) % 2)
    assert result["auroc"] == pytest.approx(expected["auroc"], abs=1e-6)


def test_bad_input():
    for config, message in (
        ({"role": "a,b"}, "a mixture"),
        ({"prompt": "a photo"}, "no place for a concept"),
        ({"text": "none"}, "tokenizer|text"),
    ):
        with pytest.raises(InputError, match=message):
            method(**config)
    made = method(min_count=5, concepts=4)
    with pytest.raises(InputError, match="--method.min_count"):
        made.setup({"train": Toy(2)})


def test_parts_without_weight_are_not_trained():
    made = method(matching=0.0, caption=0.0, concepts=0)
    given = replace(batch(made, [0.0, 0.5, 1.0]))
    found = losses(made, given)
    assert list(found.terms) == ["contrastive"]
    found.total.backward()
    assert all((value.grad is not None) is value.requires_grad for value in made.parameters())
    model = made.model.to_model(made.make.tokenizer, made.model.preprocess, "mine")
    with pytest.raises(InputError, match="matching=0"):
        model.match(random_images(1), ["a bar"])
    with pytest.raises(InputError, match="caption=0"):
        model.generate(random_images(1))
    first, *others = NEVLP.next_steps({"matching": 0.0, "caption": 0.0})
    assert "rerank" not in first
    assert "match" not in str(others)
