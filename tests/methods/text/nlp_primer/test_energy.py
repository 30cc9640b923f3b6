"""Objectives with a noise distribution: what is counted, drawn and sampled, and their losses against
loops."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.factories import AT, TEXT, make_method

from diptych.data.batch import Batch, Tokens
from diptych.data.columns import WithColumns
from diptych.data.loader import Loader
from diptych.data.plan import InOrder
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.sources import open_source
from diptych.data.tokenizers import Bpe, build
from diptych.errors import InputError
from diptych.methods.base import At
from diptych.methods.make import NO_TOWER
from diptych.methods.text.nlp_primer.catalogue import describe
from diptych.methods.text.nlp_primer.energy import ContinuedView, NoiseWordsView, prefix_of
from diptych.rng import generator
from diptych.training.prepare import Run

SOURCE = open_source("sentences:count=24")
TEXTS = [SOURCE[i].captions()[0] for i in range(24)]
TOKENIZER = build("bpe:vocab_size=400:context=48", TEXTS)


def method_of(spec, embed_dim=32):
    parts = {
        "image": NO_TOWER,
        "text": f"{TEXT}:causal=false:pooling=mean",
        "embed_dim": embed_dim,
        "words": TOKENIZER,
    }
    return make_method("nlp_primer", objective=spec, **parts).double()


def prepared(method, source=SOURCE, epoch=0, seed=0):
    run = Run(method, {"train": source}, At(0, 0, epoch, seed), torch.device("cpu"))
    method.stages()[0].prepare(run)
    return run.columns.get("train", {})


def batch_of(method, columns=None, count=6):
    source = WithColumns(SOURCE, columns) if columns else SOURCE
    loader = Loader(source, method.views(method.stages()[0]), InOrder(), count)
    return next(iter(loader.epoch(0)))


def losses_of(method, batch):
    return method.loss(method.encode(batch, AT), batch, AT)


def halves_agree(method, batch):
    with torch.no_grad():
        whole = method.encode(batch, AT)
        halves = [method.encode(batch.rows(at, at + 3), AT) for at in (0, 3)]
        joined = {name: torch.cat([half[name] for half in halves]) for name in whole}
        found, expected = (method.loss(each, batch, AT).total for each in (joined, whole))
    return torch.allclose(found, expected, atol=1e-10)


def idle(method, batch):
    losses_of(method, batch).total.backward()
    return [
        name
        for name, parameter in method.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]


# ---- words against noise words


def counted():
    return Counter(number for text in TEXTS for number in TOKENIZER.ids(text)[:46])


@pytest.mark.parametrize("power", [1.0, 0.75])
def test_the_noise_is_the_unigram_distribution_of_the_texts(power):
    method = method_of(f"binary_nce:power={power}")
    uniform = method.noise
    assert uniform[TOKENIZER.ordinary] == pytest.approx(1 / len(TOKENIZER.ordinary))
    prepared(method)
    weights = {word: (counted()[word] + 1) ** power for word in TOKENIZER.ordinary.tolist()}
    total = sum(weights.values())
    for word in range(TOKENIZER.vocab_size):
        assert method.noise[word] == pytest.approx(weights.get(word, 0) / total)
    again = method_of("binary_nce")
    again.load_state_dict(method.state_dict())  # a run that is resumed does not count anew
    assert torch.equal(again.counts, method.counts)


def test_words_are_drawn_from_the_text_and_noise_from_its_distribution():
    q = np.array([0, 0, 0, 0.5, 0.3, 0, 0.2])
    view = NoiseWordsView(tokenizer=TOKENIZER, words=30, noise=200, cumulative=q.cumsum())
    found = view(SOURCE[0], generator(0), 0.5)
    words = found["fields.words"]
    assert words.shape == (30, 201)
    own = set(TOKENIZER.ids(TEXTS[0]))
    assert set(words[:, 0].tolist()) <= own
    assert len(set(words[:, 0].tolist())) > 4
    drawn = np.bincount(words[:, 1:].flatten().numpy(), minlength=7)
    there = q > 0
    assert drawn[~there].sum() == 0
    expected = 6000 * q[there]
    chi_square = ((drawn[there] - expected) ** 2 / expected).sum()
    assert chi_square < 13.8  # of 2 degrees of freedom, but once in a thousand


def test_a_text_without_words_is_damaged():
    tokens = Bpe((), context=2)  # room for special ids alone
    view = NoiseWordsView(tokenizer=tokens, words=1, noise=1, cumulative=np.ones(1))
    with pytest.raises(BadSample, match="has no word to tell from noise"):
        view(SOURCE[0], generator(0), 0.5)


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("embed_dim", [32, 16])
def test_binary_nce_equals_loops(correct, embed_dim):
    method = method_of(f"binary_nce:words=3:noise=4:correct={correct}", embed_dim=embed_dim).eval()
    prepared(method)
    with torch.no_grad():
        method.bias.normal_()
    batch = batch_of(method)
    table = method.model.text.table.weight
    q = method.noise
    each = []
    with torch.no_grad():
        found = losses_of(method, batch).total.item()
        for i in range(6):
            n = int(batch.text.lengths[i, 0])
            encoded = method.model.encode_text(batch.text.ids[i, :, :n], batch.text.lengths[i])
            h = method.map(method.model.project_text(encoded.pooled[0]))
            for row in batch.fields["words"][i].tolist():
                loss = 0.0
                for place, word in enumerate(row):
                    score = float(h @ table[word] + method.bias[word])
                    delta = score - math.log(4 * q[word]) if correct else score
                    sign = 1 if place == 0 else -1
                    loss -= math.log(1 / (1 + math.exp(-sign * delta)))
                each.append(loss)
    assert found == pytest.approx(sum(each) / len(each), rel=1e-9)


@pytest.mark.parametrize("correct", [True, False])
def test_binary_nce_without_knowledge(correct):
    method = method_of(f"binary_nce:noise=5:correct={correct}")
    prepared(method)
    with torch.no_grad():
        method.model.text.table.weight.zero_()
    expected = math.log(1 + 5) + 5 * math.log(1 + 1 / 5) if correct else 6 * math.log(2)
    assert losses_of(method, batch_of(method)).total.item() == pytest.approx(expected)


def test_training_comes_near_the_least_loss_of_binary_nce():
    """It is that of a classifier that knows the words of each text; noise that is also a word of the
    text keeps it above 0."""
    method = method_of("binary_nce:words=16").float()
    prepared(method)
    noise = 16 * method.noise
    start = math.log(17) + 16 * math.log(17 / 16)
    least = 0.0
    for text in TEXTS[:8]:
        ids = TOKENIZER.ids(text)[:46]
        p = np.bincount(ids, minlength=len(noise)) / len(ids)
        there = p > 0
        least += (p * np.log(1 + noise / np.where(there, p, 1)))[there].sum() / 8
        least += (noise * np.log1p(p / np.where(noise, noise, 1))).sum() / 8
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    loader = Loader(SOURCE, method.views(method.stages()[0]), InOrder(), 8)
    losses = []
    for epoch in range(100):
        loss = losses_of(method, next(iter(loader.epoch(epoch)))).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(start, rel=0.02)
    found = np.mean(losses[-20:])
    assert abs(found - least) < 0.2 * (start - least)


def test_binary_nce_learns_everywhere_and_in_halves():
    method = method_of("binary_nce")
    prepared(method)
    batch = batch_of(method)
    assert halves_agree(method, batch)
    assert not idle(method, batch)


def test_a_word_that_was_not_counted_has_a_finite_loss():
    method = method_of("binary_nce")
    prepared(method, open_source("sentences:count=1"))
    assert torch.isfinite(losses_of(method, batch_of(method)).total)


# ---- texts against those of a language model


class Letters:
    """A tokenizer that begins a word at each capital letter."""

    @staticmethod
    def starts_word(ids):
        return [65 <= number < 97 for number in ids]


@pytest.mark.parametrize(
    ("text", "share", "kept"),
    [
        ("AbCdEfGh", 0.5, "AbCd"),
        ("AbCdEfGh", 0.99, "AbCdEf"),
        ("AbCdEfGh", 0.0, ""),
        ("AbCdEf", 0.5, "Ab"),
        ("abCd", 0.5, "ab"),
        ("Abc", 0.9, ""),
        ("", 0.5, ""),
    ],
)
def test_the_prefix_is_a_share_of_the_words(text, share, kept):
    found = prefix_of([ord(letter) for letter in text], share, Letters())
    assert "".join(map(chr, found)) == kept


def said(columns, tokenizer, row):
    ids = columns["sampled"][row]
    return ids[ids >= 0].tolist()


@pytest.fixture(scope="module")
def sampled():
    method = method_of("residual_energy:length=24")
    return method, prepared(method)


def test_samples_begin_as_their_texts(sampled):
    method, columns = sampled
    words = method.lm.model.tokenizer
    assert columns["sampled"].shape == (24, 24)
    different = 0
    for row, text in enumerate(TEXTS):
        ids = words.ids(text)[:24]
        prefix = list(prefix_of(ids, 0.5, words))
        found = said(columns, words, row)
        assert prefix
        assert found[: len(prefix)] == prefix
        assert words.eot not in found
        different += found != ids
    assert different > 20


def test_samples_follow_seed_epoch_and_row_alone(sampled):
    method, columns = sampled
    same = prepared(method)["sampled"]
    assert np.array_equal(same, columns["sampled"])
    for other in (prepared(method, epoch=1), prepared(method, seed=1)):
        assert not np.array_equal(other["sampled"], columns["sampled"])
    first = prepared(method, open_source("sentences:count=5"))["sampled"]
    assert np.array_equal(first, columns["sampled"][:5])  # in another batch


def test_samples_follow_the_language_model():
    """The first id that follows a prompt, by its frequency."""
    method = method_of("residual_energy")
    lm = method.lm.model
    prompt = [*lm.tokenizer.before, *lm.tokenizer.ids("the red")]
    count = 1000
    method.config = replace(method.config, length=len(prompt))
    lengths = torch.full((count,), len(prompt))
    batch = Batch(
        texts={"main": Tokens(torch.tensor([prompt] * count)[:, None], lengths[:, None])},
        fields={"prompt": lengths, "sampled_row": torch.arange(count)},
    )
    found = method.continued(batch, 3)
    assert (found[:, : len(prompt) - 1] == torch.tensor(prompt[1:])).all()
    observed = np.bincount(found[:, -1].clamp(min=0).numpy(), minlength=lm.tokenizer.vocab_size)
    with torch.no_grad():
        p = lm.lm.start(torch.tensor([prompt])).logits.double().softmax(-1)[0].numpy()
    likely = np.flatnonzero(count * p > 10)
    likely = likely[likely != lm.tokenizer.eot]
    expected = count * p[likely]
    chi_square = ((observed[likely] - expected) ** 2 / expected).sum()
    assert len(likely) > 3
    assert chi_square < len(likely) + 4 * math.sqrt(2 * len(likely))


def test_both_texts_are_read_through_the_same_tokenizer(sampled):
    method, _ = sampled
    words = method.lm.model.tokenizer
    ids = words.ids("A Red cat  there.")
    sample = Sample(
        key="a",
        source="",
        texts=(Text(text="A Red cat  there."),),
        arrays={"sampled": np.array([*ids, -1, -1])},
    )
    view = ContinuedView(tokenizer=TOKENIZER, lm=words, length=24)
    found = view(sample, generator(0), 0.5)
    assert found["texts.main"] == found["texts.sampled"]
    assert view.reads == ("texts.caption", "arrays.sampled")


def test_residual_energy_equals_loops(sampled):
    method, columns = sampled
    batch = batch_of(method, columns)
    words = method.lm.model.tokenizer
    each = []
    right = 0
    with torch.no_grad():
        found = losses_of(method, batch)
        for i in range(6):
            energies = []
            for ids in (words.ids(TEXTS[i])[:24], said(columns, words, i)):
                (row,) = TOKENIZER.encode([words.decode(ids)])
                encoded = method.model.encode_text(torch.tensor([row]), torch.tensor([len(row)]))
                vector = method.model.project_text(encoded.pooled)[0]
                energies.append(float(method.energy(vector)))
            data, noise = energies
            each.append(-math.log(1 / (1 + math.exp(data))) - math.log(1 / (1 + math.exp(-noise))))
            right += (data < 0) + (noise > 0)
    assert found.total.item() == pytest.approx(sum(each) / 6, rel=1e-9)
    assert found.logged["right"].item() == pytest.approx(right / 12)


def test_the_language_model_is_frozen_and_not_saved(sampled):
    method, columns = sampled
    batch = batch_of(method, columns)
    assert halves_agree(method, batch)
    assert not idle(method, batch)
    assert not [name for name in method.state_dict() if "lm" in name and "checksum" not in name]
    assert not any(p.requires_grad for p in method.lm.model.lm.parameters())


def test_models_that_are_no_language_models_are_refused():
    with pytest.raises(InputError, match="lm=tiny is no language model; name one"):
        prepared(method_of("residual_energy:lm=tiny"))
    with pytest.raises(InputError, match="the language model cannot be loaded"):
        prepared(method_of("residual_energy:lm=nowhere"))


def test_places_in_the_taxonomy():
    assert describe("binary_nce").negatives == "noise distribution"
    assert describe("residual_energy").negatives == "generator"
