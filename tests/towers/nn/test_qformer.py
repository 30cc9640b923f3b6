"""The Q-Former: what stands where in its four calls, which layers read the image, and which
feed-forward is whose."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm

from diptych.errors import InputError
from diptych.towers.nn.qformer import QFormer, QFormerConfig

SIZES = {
    "vocab_size": 30,
    "memory_width": 6,
    "width": 8,
    "depth": 3,
    "heads": 2,
    "queries": 3,
    "positions": 20,
}


def made(**sizes):
    torch.manual_seed(0)
    qformer = QFormer(QFormerConfig(**{**SIZES, "dropout": 0.0, **sizes})).double().eval()
    for parameter in qformer.parameters():  # as after training: no two layers alike, no zeros
        nn.init.normal_(parameter, std=0.3)
    return qformer


def given(count=2, length=5):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 30, (count, length), generator=generator)
    return (
        ids,
        torch.tensor([length, length - 2][:count]),
        torch.randn(count, 4, 6, generator=generator).double(),
    )


def norm(x, layer):
    return layer_norm(x, x.shape[-1:], layer.weight, layer.bias, 1e-12)


def attend(layer, x, memory, seen):
    """One query and one head at a time."""
    q, k, v = layer.q(x), layer.k(memory), layer.v(memory)
    out, d = torch.zeros_like(x), x.shape[-1] // layer.heads
    for h in range(layer.heads):
        part = slice(h * d, (h + 1) * d)
        for i in range(len(x)):
            weights = torch.stack(
                [(q[i, part] @ k[j, part] / d**0.5).exp() * seen[j] for j in range(len(memory))]
            )
            out[i, part] = sum(w * v[j, part] for j, w in enumerate(weights)) / weights.sum()
    return layer.out(out)


def feed(layer, x):
    return layer.fc2(gelu(layer.fc1(x)))


def slow(qformer, tokens, seen, queries, memory):
    """BERT's order of norms, token by token, for one sample."""
    x = norm(tokens, qformer.norm)
    for number, block in enumerate(qformer.layers):
        x = norm(x + attend(block.attn, x, x, seen), block.norm1)
        rows = []
        for i, row in enumerate(x):
            if memory is None or i >= queries:
                rows.append(norm(row + feed(block.mlp, row), block.norm2))
                continue
            if number % 2 == 0:
                row = norm(
                    row + attend(block.cross, row[None], memory, [1.0] * len(memory))[0],
                    block.norm_cross,
                )
            rows.append(norm(row + feed(block.query_mlp, row), block.query_norm))
        x = torch.stack(rows)
    return x


@pytest.mark.parametrize(
    "call", ["image and text", "image", "vectors and text", "vectors in a text", "text"]
)
def test_each_call_equals_the_loop_over_tokens(call):
    qformer, (ids, lengths, memory) = made(), given()
    vectors = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2)).double()
    how = {
        "image and text": {"memory": memory},
        "image": {"memory": memory},
        "vectors and text": {"queries": vectors},
        "vectors in a text": {"inserted": vectors[0]},
        "text": {},
    }[call]
    found = qformer(*(() if call == "image" else (ids, lengths)), **how)
    for at in range(2):
        words = list(qformer.table(ids[at]))
        shift = 0
        if call == "vectors in a text":
            words, shift = [words[0], *vectors[0], *words[1:]], 3
        words = [word + qformer.positions[place] for place, word in enumerate(words)]
        first = {"vectors and text": vectors[at], "vectors in a text": [], "text": []}.get(
            call, qformer.queries
        )
        tokens = [*first, *([] if call == "image" else words)]
        real = len(first) + (0 if call == "image" else int(lengths[at]) + shift)
        seen = [float(place < real) for place in range(len(tokens))]
        expected = slow(
            qformer, torch.stack(tokens), seen, len(first), how.get("memory", [None, None])[at]
        )
        torch.testing.assert_close(found.tokens[at, :real], expected[:real])
        assert found.prefix == len(first)
        assert found.mask[at].tolist() == [bool(each) for each in seen]


def test_the_first_token_of_the_text_stands_behind_the_queries_or_at_0():
    qformer = QFormer(QFormerConfig(vocab_size=50, memory_width=6, width=16, depth=1)).eval()
    ids, lengths = torch.ones(2, 32, dtype=torch.long), torch.tensor([32, 7])
    both = qformer(ids, lengths, memory=torch.zeros(2, 4, 6))
    assert (both.prefix, both.tokens.shape[1]) == (32, 64)
    assert torch.equal(both.pooled, both.tokens[:, 32])
    inside = qformer(ids, lengths, inserted=qformer.queries)
    assert (inside.prefix, inside.tokens.shape[1]) == (0, 64)
    assert torch.equal(inside.pooled, inside.tokens[:, 0])
    alone = qformer(memory=torch.zeros(2, 4, 6))
    assert torch.equal(alone.pooled, alone.tokens)


def test_passes_without_a_image_use_the_words_feed_forward_for_vectors_too():
    """Stock BLIP-2 would use the queries' own; this is the pitfall that is easily missed."""
    qformer, (ids, lengths, memory) = made(), given()
    calls = {
        "image and text": lambda: qformer(ids, lengths, memory=memory).tokens,
        "image": lambda: qformer(memory=memory).tokens,
        "vectors": lambda: qformer(ids, lengths, queries=qformer.queries).tokens,
        "inserted": lambda: qformer(ids, lengths, inserted=qformer.queries).tokens,
    }

    def moved(part):
        before = {name: call() for name, call in calls.items()}
        kept = {name: value.clone() for name, value in qformer.state_dict().items()}
        for block in qformer.layers:
            for parameter in getattr(block, part).parameters():
                parameter.data.add_(
                    0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
                )
        after = {name: not torch.allclose(before[name], call()) for name, call in calls.items()}
        qformer.load_state_dict(kept)
        return after

    with torch.no_grad():
        own = {"image and text": True, "image": True, "vectors": False, "inserted": False}
        assert moved("query_mlp") == moved("query_norm") == own
        words = {"image and text": True, "image": False, "vectors": True, "inserted": True}
        assert moved("mlp") == moved("norm2") == words


def test_every_second_layer_reads_the_image_and_words_never_do():
    assert [block.cross is not None for block in made(depth=5).layers] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert [block.cross is not None for block in made(depth=4, every=3).layers] == [
        True,
        False,
        False,
        True,
    ]
    qformer, (ids, lengths, memory) = made(depth=1), given()
    one, other = (qformer(ids, lengths, memory=each).tokens for each in (memory, -memory))
    assert torch.equal(one[:, 3:], other[:, 3:])
    assert not torch.allclose(one[:, :3], other[:, :3])


def test_the_queries_feed_forward_begins_as_the_words():
    for block in QFormer(QFormerConfig(**SIZES)).layers:
        for one, other in zip(block.mlp.parameters(), block.query_mlp.parameters(), strict=True):
            assert torch.equal(one, other)
            assert one is not other


def test_padding_changes_nothing_and_queries_have_no_places():
    qformer, (ids, lengths, memory) = made(), given()
    padded = torch.cat([ids, torch.zeros(2, 4, dtype=torch.long)], 1)
    for how in ({"memory": memory}, {"queries": qformer.queries}, {"inserted": qformer.queries}):
        torch.testing.assert_close(
            qformer(padded, lengths, **how).pooled, qformer(ids, lengths, **how).pooled
        )
    order = torch.tensor([2, 0, 1])
    turned = qformer(ids, lengths, memory=memory, queries=qformer.queries[order])
    straight = qformer(ids, lengths, memory=memory)
    torch.testing.assert_close(turned.tokens[:, :3], straight.tokens[:, :3][:, order])
    torch.testing.assert_close(turned.pooled, straight.pooled)
    inside = [
        qformer(ids, lengths, inserted=qformer.queries[each]).pooled
        for each in (order, torch.arange(3))
    ]
    assert not torch.allclose(*inside)


def test_what_cannot_be_read_is_refused():
    qformer, (ids, lengths, _) = made(), given()
    for how in ({}, {"queries": qformer.queries}):
        with pytest.raises(InputError, match="a text, an image or both"):
            qformer(**how)
    with pytest.raises(
        InputError, match="22 tokens, with what is inserted, exceeds the Q-Former's 20 places"
    ):
        qformer(ids.repeat(1, 4)[:, :19], lengths, inserted=qformer.queries)
    with pytest.raises(InputError, match="queries of a Q-Former is 0"):
        QFormerConfig(**{**SIZES, "queries": 0})


@pytest.mark.parity
@pytest.mark.parametrize("text", [True, False])
def test_with_a_image_it_is_transformers_q_former(text):
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=6,
        cross_attention_frequency=2,
        use_qformer_text_input=True,
    )
    theirs, qformer, (ids, lengths, memory) = (
        Blip2QFormerModel(config).double().eval(),
        made(),
        given(),
    )
    names = {"attn": "attention", "cross": "crossattention"}
    state = {"layernorm.weight": qformer.norm.weight, "layernorm.bias": qformer.norm.bias}
    for number, block in enumerate(qformer.layers):
        parts = {}
        for ours, their in names.items():
            if (layer := getattr(block, ours)) is not None:
                parts |= {
                    f"{their}.attention.{each}": getattr(layer, each[0])
                    for each in ("query", "key", "value")
                }
                norm_of = block.norm1 if ours == "attn" else block.norm_cross
                parts |= {f"{their}.output.dense": layer.out, f"{their}.output.LayerNorm": norm_of}
        for end, mlp, norm_of in (
            ("", block.mlp, block.norm2),
            ("_query", block.query_mlp, block.query_norm),
        ):
            parts |= {
                f"intermediate{end}.dense": mlp.fc1,
                f"output{end}.dense": mlp.fc2,
                f"output{end}.LayerNorm": norm_of,
            }
        for name, layer in parts.items():
            state |= {
                f"encoder.layer.{number}.{name}.{end}": getattr(layer, end)
                for end in ("weight", "bias")
            }
    assert theirs.load_state_dict(state, strict=False).unexpected_keys == []
    assert not [
        name
        for name in theirs.load_state_dict(state, strict=False).missing_keys
        if "position" not in name
    ]
    words = qformer.table(ids) + qformer.positions[: ids.shape[1]]
    embeds = (
        torch.cat([qformer.queries.expand(2, -1, -1), words], 1)
        if text
        else qformer.queries.expand(2, -1, -1)
    )
    found = qformer(*((ids, lengths) if text else ()), memory=memory)
    with torch.no_grad():
        wanted = theirs(
            query_embeds=embeds,
            query_length=3,
            attention_mask=found.mask.long(),
            encoder_hidden_states=memory,
        ).last_hidden_state
    real = found.mask
    torch.testing.assert_close(found.tokens[real], wanted[real], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_apart_is_each_alone_and_causal_sees_no_later_word():
    qformer, (ids, lengths, memory) = made(), given()
    image, text = qformer(memory=memory).tokens, qformer(ids, lengths)
    apart = qformer(ids, lengths, memory=memory, visible="apart")
    torch.testing.assert_close(apart.tokens[:, :3], image)
    torch.testing.assert_close(apart.pooled, text.pooled)
    causal = qformer(ids, lengths, memory=memory, visible="causal").tokens
    torch.testing.assert_close(causal[:, :3], image)
    cut = qformer(ids[:, :2], lengths.clamp(max=2), memory=memory, visible="causal").tokens
    torch.testing.assert_close(causal[:, :5], cut)
    for other in (
        qformer(ids, lengths, memory=memory + 1, visible="causal").tokens,
        qformer(ids.flip(1), lengths, memory=memory, visible="causal").tokens,
    ):
        assert not torch.allclose(other[:, 4], causal[:, 4])
