"""Objectives with a generator: what it draws, what learns from which loss, and ELECTRA's and COCO-LM's
losses against loops."""

import math

import numpy as np
import pytest
import torch
from tests.factories import AT, TEXT, make_method
from torch.nn.functional import cosine_similarity

from diptych.data.batch import Tokens
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sources import open_source
from diptych.data.tokenizers import build
from diptych.errors import InputError
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer.catalogue import describe
from diptych.methods.text.nlp_primer.losses import (
    corrected_words,
    replaced_tokens,
    token_losses,
)
from diptych.methods.text.nlp_primer.tokens import ReplacedView, draw_tokens, smaller
from diptych.rng import generator
from diptych.towers.build import text_tower
from diptych.towers.nn.words import word_losses

SOURCE = open_source("sentences:count=40")
TOKENIZER = build(
    "bpe:vocab_size=512:context=48:special=mask", [SOURCE[i].captions()[0] for i in range(40)]
)
SPECS = (
    "electra",
    "electra:generator=1:depth=0.5",
    "coco_lm",
    "coco_lm:corrected=all:crop=0.5",
)


def method_of(spec, dropout=0.0, embed_dim=32, text=None):
    text = text or f"{TEXT}:causal=false:pooling=mean:dropout={dropout}"
    parts = {"image": NO_TOWER, "text": text, "embed_dim": embed_dim, "words": TOKENIZER}
    return make_method("nlp_primer", objective=spec, **parts).double()


def batch_of(method, count=6, size=None):
    loader = Loader(SOURCE, method.views(method.stages()[0]), InOrder(), size or count)
    return next(iter(loader.epoch(0)))


def losses_of(method, batch):
    return method.loss(method.encode(batch, AT), batch, AT)


# ---- losses


def test_replaced_tokens_at_zero_logits():
    marks = torch.tensor([[[-1, 7, -1, 3]], [[-1, -1, 30000, -1]]])
    found = word_losses(torch.zeros(3, 30522, dtype=torch.float64), marks)
    assert found["words"].tolist() == [2, 1]
    real = torch.tensor([[True] * 4, [True, True, True, False]])
    losses = token_losses(torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4), real)
    total = replaced_tokens(found["word_loss"], found["words"], losses, real.sum(1))
    assert total.item() == pytest.approx(44.983562042, abs=1e-9)


def test_a_method_that_knows_nothing_has_that_loss():
    method = method_of("electra")
    with torch.no_grad():
        method.text.table.weight.zero_()  # so are all logits of words
        method.discriminator[2].weight.zero_()
        method.discriminator[2].bias.zero_()
    found = losses_of(method, batch_of(method)).total.item()
    assert found == pytest.approx(math.log(TOKENIZER.vocab_size) + 50 * math.log(2), abs=1e-9)


def test_corrected_words_equal_loops():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, dtype=torch.float64, generator=rng)
    copies = torch.randn(5, dtype=torch.float64, generator=rng)
    words = torch.tensor([0, 1, 2, 3, 0])
    kept = torch.tensor([True, False, True, False, False])
    for i, found in enumerate(corrected_words(logits, copies, words, kept).tolist()):
        copy = 1 / (1 + math.exp(-copies[i]))
        said = math.exp(logits[i, words[i]]) / sum(math.exp(x) for x in logits[i])
        p = copy * bool(kept[i]) + (1 - copy) * said
        assert found == pytest.approx(-math.log(p))


def test_probabilities_of_corrected_words_sum_to_one():
    logits = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64).expand(3, 3)
    copies = torch.full((3,), 0.7, dtype=torch.float64)
    shown = torch.tensor([False, True, False])  # that of word 1
    found = corrected_words(logits, copies, torch.arange(3), shown)
    assert (-found).exp().sum().item() == pytest.approx(1)


def test_gradients_of_the_losses():
    rng = torch.Generator().manual_seed(1)
    real = torch.tensor([[True, True, False], [True, False, False]])
    answers = torch.tensor([[1, 0, 1], [0, 1, 1]])
    logits = torch.randn(2, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: token_losses(x, answers, real), logits)
    kept = torch.tensor([True, False])
    words = torch.tensor([2, 0])
    copies = torch.tensor([0.2, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: corrected_words(x, copies.detach(), words, kept), logits
    )
    corrected_words(logits, copies, words, kept).sum().backward()
    assert copies.grad is None  # copying is learnt by its own loss


# ---- the generator


def test_draws_follow_the_distribution():
    p = np.array([0.4, 0.25, 0.2, 0.1, 0.04, 0.01])
    count = 6000
    draws = torch.from_numpy(generator(0, "draws").random(count))
    logits = torch.from_numpy(np.log(p)).expand(count, -1)
    found = np.bincount(draw_tokens(logits, draws).numpy(), minlength=6)
    chi_square = ((found - count * p) ** 2 / (count * p)).sum()
    assert chi_square < 20.5  # of 5 degrees of freedom, but once in a thousand


def test_a_text_draws_the_same_in_any_batch():
    method = method_of("electra").eval()
    one = method.replaced(batch_of(method, 6))[1]
    other = method.replaced(batch_of(method, 3))[1]
    length = int(other.lengths.max())
    assert torch.equal(one.shown[:3, :length], other.shown)
    assert (~one.kept).any()


def test_the_view_masks_and_crops_the_same_text():
    view = ReplacedView(tokenizer=TOKENIZER, crop=0.9, rate=0.5)
    mask = TOKENIZER.special_id("mask")
    for index in range(12):
        sample = SOURCE[index]
        found = view(sample, generator(index), 0.5)
        (masked,) = found["texts.masked"]
        (cropped,) = found["texts.cropped"]
        (ids,) = TOKENIZER.encode(sample.captions()[:1])
        marks = np.array(masked.marks)
        chosen = marks >= 0
        assert (marks[chosen] == np.array(ids)[chosen]).all()
        assert (np.array(masked.ids)[chosen] == mask).all()
        assert (np.array(masked.ids)[~chosen] == np.array(ids)[~chosen]).all()
        own = cropped[1:-1]
        assert len(own) == int(0.9 * (len(ids) - 2))
        assert any(own == ids[at : at + len(own)] for at in range(1, len(ids)))
        draws = found["fields.draws"]
        assert draws.shape == (48,)
        assert 0 <= draws.min() < draws.max() < 1
    assert "texts.cropped" not in ReplacedView(tokenizer=TOKENIZER).gives


def test_the_generator_shares_the_word_embeddings():
    method = method_of("electra")
    table = method.text.table
    names = [name for name, _ in method.named_parameters()]
    assert len(names) == len(set(names))
    tables = [name for name, p in method.named_parameters() if p.shape == table.weight.shape]
    assert tables == ["model.text.table.weight"]
    assert method.generator.embed.weight.shape == (method.generator.tower.width, 32)
    assert isinstance(method_of("electra:generator=1").generator.embed, torch.nn.Identity)
    tokens = batch_of(method).texts["masked"]
    before = method.generator(tokens, table)
    with torch.no_grad():
        table.weight.mul_(1.5)
    assert not torch.allclose(method.generator(tokens, table), before)


def test_the_generator_learns_by_its_own_loss_alone():
    method = method_of("electra")
    features = method.encode(batch_of(method), AT)
    features["token_loss"].sum().backward(retain_graph=True)
    assert all(p.grad is None for p in method.generator.parameters())
    assert method.text.table.weight.grad.any()
    assert method.discriminator[0].weight.grad.any()
    method.zero_grad()
    features["word_loss"].sum().backward()
    assert all(p.grad is not None for p in method.generator.parameters())
    assert method.discriminator[0].weight.grad is None
    assert method.text.positions.grad is None  # the encoder does not


@pytest.mark.parametrize("right", [True, False])
def test_a_drawn_token_that_equals_the_original_counts_as_original(right):
    method = method_of("electra:rate=0.4")
    batch = batch_of(method)
    marks = batch.texts["masked"].marks.flatten(0, 1)
    words = marks[marks >= 0]

    def sure(tokens, table):
        logits = torch.zeros(len(words), TOKENIZER.vocab_size, dtype=torch.float64)
        logits[torch.arange(len(words)), words if right else (words + 1) % 300] = 1e4
        return logits

    method.generator.forward = sure
    found, texts = method.replaced(batch)
    assert found["words_right"].sum() == (len(words) if right else 0)
    assert bool(texts.kept.all()) is right
    features = method.questions(torch.full(texts.shown.shape, -30.0), ~texts.kept, texts)
    assert features["replaced"].sum() == (0 if right else len(words))
    wrong = features["tokens"].sum() - features["right"].sum()
    assert wrong == (0 if right else len(words))


# ---- the whole loss, by loops


def by_loops(method, batch):
    """Sums over texts, each read alone without padding, of generator, question and correction, with
    counts; and the texts' vectors."""
    tokens = batch.texts["masked"]
    table = method.text.table
    sums = dict.fromkeys(("word", "words", "token", "tokens", "correction", "corrections"), 0.0)
    views = ([], [])
    coco = hasattr(method, "copies")
    for i in range(len(batch)):
        length = int(tokens.lengths[i, 0])
        own = tokens.map(
            lambda x, i=i, n=length: x[i : i + 1, ..., :n] if x.ndim == 3 else x[i : i + 1]
        )
        logits = method.generator(own, table)
        ids = own.ids[0, 0].tolist()
        marks = own.marks[0, 0].tolist()
        shown = list(ids)
        original = list(ids)
        places = [at for at in range(length) if marks[at] >= 0]
        for row, at in zip(logits, places, strict=True):
            p = row.softmax(0).tolist()
            original[at] = marks[at]
            sums["word"] -= math.log(p[marks[at]])
            sums["words"] += 1
            draw = float(batch.fields["draws"][i, at]) * math.fsum(p)
            total = 0.0
            for word, share in enumerate(p):
                total += share
                if total > draw:
                    shown[at] = word
                    break
        lengths = torch.tensor([length])
        encoded = method.model.encode_text(torch.tensor([shown]), lengths)
        ask = method.copies if coco else method.discriminator
        asked = ask(encoded.tokens)[0].tolist()
        for at in range(length):
            answer = (shown[at] == original[at]) == coco
            p = 1 / (1 + math.exp(-asked[at]))
            sums["token"] -= math.log(p if answer else 1 - p)
            sums["tokens"] += 1
        if not coco:
            continue
        for at in range(length) if method.config.corrected == "all" else places:
            row = method.words(encoded.tokens[0, at], table.weight).softmax(0)
            copy = 1 / (1 + math.exp(-asked[at]))
            p = copy * (shown[at] == original[at]) + (1 - copy) * float(row[original[at]])
            sums["correction"] -= math.log(p)
            sums["corrections"] += 1
        views[0].append(method.model.project_text(encoded.pooled)[0])
        cropped: Tokens = batch.texts["cropped"]
        n = int(cropped.lengths[i, 0])
        views[1].append(method.model.embed_texts(cropped.ids[i, :, :n], cropped.lengths[i])[0])
    return sums, views


@pytest.mark.parametrize("spec", SPECS)
def test_the_loss_equals_loops(spec):
    method = method_of(f"{spec}:rate=0.3").eval()
    batch = batch_of(method)
    with torch.no_grad():
        found = losses_of(method, batch)
        sums, (shown, cropped) = by_loops(method, batch)
    expected = sums["word"] / sums["words"] + 50 * sums["token"] / sums["tokens"]
    if spec.startswith("coco"):
        expected += sums["correction"] / sums["corrections"]
        vectors = torch.stack([*shown, *cropped])
        count = len(vectors)
        for i in range(count):
            scores = [float(cosine_similarity(vectors[i], vectors[j], dim=0)) for j in range(count)]
            partner = scores[(i + count // 2) % count]
            others = sum(math.exp(scores[j]) for j in range(count) if j != i)
            expected -= math.log(math.exp(partner) / others) / count
    assert found.total.item() == pytest.approx(expected, rel=1e-8)
    assert found.logged["generator"].item() == pytest.approx(sums["word"] / sums["words"])


@pytest.mark.parametrize("spec", SPECS)
def test_halves_of_a_batch_give_the_loss_of_the_whole(spec):
    """Texts have different numbers of masked and of real tokens; all of the batch count alike."""
    method = method_of(spec).eval()
    batch = batch_of(method)
    with torch.no_grad():
        whole = method.encode(batch, AT)
        halves = [method.encode(batch.rows(at, at + 3), AT) for at in (0, 3)]
        joined = {name: torch.cat([half[name] for half in halves]) for name in whole}
        found, expected = (method.loss(each, batch, AT).total for each in (joined, whole))
    assert torch.allclose(found, expected, atol=1e-10)
    assert len(set(whole["words"].tolist())) > 1


@pytest.mark.parametrize("spec", SPECS)
def test_every_parameter_learns(spec):
    method = method_of(spec, dropout=0.1)
    losses_of(method, batch_of(method)).total.backward()
    idle = [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not idle


# ---- towers and runs


def test_smaller_towers():
    spec = text_tower("text:width=48:heads=3:depth=3", vocab_size=50, context=8).spec
    assert [smaller(spec, s)["width"] for s in (0.25, 0.5, 0.7, 1)] == [16, 32, 32, 48]
    assert smaller(spec, 1.0, 0.1)["depth"] == 1
    assert smaller({"name": "text", "width": 256, "depth": 2, "heads": None}, 0.5)["heads"] == 2
    with pytest.raises(InputError, match="grounded_sentences.gru"):
        smaller({"name": "grounded_sentences.gru", "hidden": 8}, 0.5)
    config = {"model_type": "bert", "num_hidden_layers": 4}  # the rest as transformers has it
    found = smaller({"name": "hf", "config": config}, 1 / 3, 0.5)["config"]
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers")
    assert [found[name] for name in sizes] == [256, 4, 1024, 2]
    config = {"model_type": "distilbert", "dim": 24, "n_heads": 2, "hidden_dim": 48}
    found = smaller({"name": "hf", "config": config}, 0.5)["config"]
    assert [found[name] for name in ("dim", "n_heads", "hidden_dim")] == [12, 1, 24]
    with pytest.raises(InputError, match="has no num_attention_heads"):
        smaller({"name": "hf", "config": {"model_type": "mamba"}}, 0.5)


def test_a_tower_of_transformers_has_a_generator_too():
    text = "hf:model_type=bert:width=32:depth=1:heads=4:dropout=0.0"
    method = method_of("electra", text=text)
    assert method.generator.tower.width == 8
    losses_of(method, batch_of(method)).total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    shapes = [p.shape for p in method.parameters()]
    assert shapes.count(method.text.table.weight.shape) == 1


def test_what_electra_cannot_train_is_refused():
    with pytest.raises(InputError, match="ELECTRA trains the text tower alone.*--embed-dim 32"):
        method_of("electra", embed_dim=16)
    method_of("coco_lm", embed_dim=16)  # which trains the projection
    with pytest.raises(InputError, match="generator"):
        method_of("electra:generator=0")


def test_places_in_the_taxonomy():
    assert describe("electra").contrast == "input-label"
    assert describe("coco_lm").contrast == "input-input"
