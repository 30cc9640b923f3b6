"""Attention by word: by loops over heads and ids, of our towers and those of transformers."""

import pytest
import torch

from diptych.data.tokenizers import build, pad_batch
from diptych.errors import InputError
from diptych.models.model import TextModel
from diptych.models.word_attention import pooled_attention, word_attention, words_of
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder

TEXTS = ["two dogs on a beach", "a cat", "permits must be renewed, every year"]
POOLED = ("eot", "first:causal=false", "mean:causal=false", "last:padding=max", "cls:padding=max")


def tokens(padding="longest"):
    return build(f"bpe:vocab_size=300:context=48:padding={padding}", TEXTS)


def model(pooling, spec="text:width=16:depth=2:heads=2"):
    words = tokens("max" if "padding=max" in pooling else "longest")
    torch.manual_seed(0)
    tower = text_tower(
        f"{spec}:pooling={pooling}",
        vocab_size=words.vocab_size,
        context=words.context,
        pad=words.pad,
        eot=words.eot,
    )
    return TextModel(DualEncoder(None, tower, 8), words, name="small")


def slow(tower, ids, lengths):
    """One text at a time, without its padding where the tower does not attend to it; each head and
    each pair of tokens by itself."""
    config = tower.config
    found = []
    for row, length in zip(ids, lengths.tolist(), strict=True):
        own = row if config.padding == "max" else row[:length]
        x = tower.embed(own[None])
        allowed = torch.ones(x.shape[1], dtype=torch.bool)
        if config.pooling == "cls":
            allowed[1:] = own != (config.pad or 0)
        for block in list(tower.transformer.layers)[:-1]:
            x = block(x, causal=config.causal, mask=allowed[None])
        last = list(tower.transformer.layers)[-1]
        x = last.norm1(x)[0]
        N, D = x.shape
        d = D // last.attn.heads
        queries = {
            "eot": [length - 1],
            "first": [0],
            "last": [N - 1],
            "cls": [N - 1],
            "mean": range(N),
        }[config.pooling]
        total = torch.zeros(N, dtype=torch.float64)
        for query in queries:
            for head in range(last.attn.heads):
                cut = slice(head * d, (head + 1) * d)
                q = last.attn.q(x)[query, cut]
                weights = []
                for key in range(N):
                    seen = bool(allowed[key]) and not (config.causal and key > query)
                    k = last.attn.k(x)[key, cut]
                    weights.append(torch.exp(q @ k / d**0.5) if seen else torch.zeros(()))
                whole = sum(weights)
                total += torch.stack([each / whole for each in weights]).double()
        found.append(total / len(queries) / last.attn.heads)
    return found


@pytest.mark.parametrize("pooling", POOLED)
def test_what_is_pooled_attends_as_by_loops(pooling):
    own = model(pooling)
    tower = own.encoder.text.double().eval()
    ids, lengths = pad_batch(own.tokenizer.encode(TEXTS), own.tokenizer)
    with torch.no_grad():
        found = pooled_attention(tower, ids, lengths)
        wanted = slow(tower, ids, lengths)
    for weights, row in zip(found, wanted, strict=True):
        count = min(len(row), len(weights))
        assert torch.allclose(weights[:count].double(), row[:count])
        assert not weights[count:].any()  # padding


@pytest.mark.parametrize("pooling", POOLED)
def test_the_shares_of_the_words_of_a_text_sum_to_1_in_any_batch(pooling):
    own = model(pooling)
    found = word_attention(own, TEXTS, batch_size=2)
    assert [[word for word, _ in words] for words in found] == [
        ["two", "dogs", "on", "a", "beach"],
        ["a", "cat"],
        ["permits", "must", "be", "renewed", "every", "year"],
    ]
    for text, words in zip(TEXTS, found, strict=True):
        assert sum(share for _, share in words) == pytest.approx(1)
        [alone] = word_attention(own, [text])
        assert [share for _, share in alone] == pytest.approx([share for _, share in words])


@pytest.mark.parametrize("pooling", ["first", "eot", "mean", "first:causal=false"])
def test_a_model_of_transformers_gives_the_weights_that_it_computes(pooling):
    own = model(pooling, "hf:model_type=bert:width=16:depth=2:heads=2:dropout=0.0")
    tower = own.encoder.text.eval()
    before = tower.model.config._attn_implementation
    ids, lengths = pad_batch(own.tokenizer.encode(TEXTS), own.tokenizer)
    with torch.no_grad():
        found = pooled_attention(tower, ids, lengths)
        vectors = tower(ids, lengths).pooled
    assert tower.model.config._attn_implementation == before
    assert not tower.model.config.output_attentions
    layer = tower.model.encoder.layer[-1].attention.self
    kept = []
    handle = layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        assert torch.equal(tower(ids, lengths).pooled, vectors)
    handle.remove()
    for number, length in enumerate(lengths.tolist()):
        x = kept[0][number, :length]
        queries = {"first": [0], "eot": [length - 1], "mean": range(length)}[tower.config.pooling]
        total = torch.zeros(length)
        for query in queries:
            for cut in (slice(0, 8), slice(8, 16)):
                logits = layer.key(x)[:, cut] @ layer.query(x)[query, cut] / 8**0.5
                total += logits.softmax(0)
        assert torch.allclose(found[number, :length], total / len(queries) / 2, atol=1e-6)
        assert float(found[number, length:].sum()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bpe:vocab_size=300", ["two", "dogs", "it's", "naïve", "twenty-two"]),
        ("wordpiece:vocab_size=200", ["two", "dogs", "it", "s", "naive", "twenty", "two"]),
        ("clip", ["two", "dogs", "it", "s", "naïve", "twenty", "two"]),
    ],
)
def test_ids_are_joined_into_words_without_special_ids_and_signs(spec, words):
    tokenizer = build(spec, [*TEXTS, "twenty"])
    [row] = tokenizer.encode(["two dogs: it's “naïve” twenty-two — …"])
    found = words_of(row, [1.0] * len(row), tokenizer)
    assert [word for word, _ in found] == words
    assert sum(share for _, share in found) == pytest.approx(1)


def test_texts_without_words_have_none_and_models_that_do_not_attend_are_refused():
    own = model("eot")
    assert word_attention(own, ["", "...", "a cat"], batch_size=3)[:2] == [[], []]
    own.tokenizer = None
    with pytest.raises(InputError, match="small came without a tokenizer"):
        word_attention(own, TEXTS)
    with pytest.raises(InputError, match="object has no text tower whose attention can be read"):
        word_attention(object(), TEXTS)
