"""What the tests of methods that write share."""

import math

import torch
from tests.factories import make_batch

from diptych.data.batch import Batch, Tokens
from diptych.methods.make import Make


def batch(count=3):
    """Texts of 7, 4, 5, … ids, padded by zeros."""
    given = make_batch(count, {"main": 1})
    lengths = torch.tensor([7, 4, 5, 6, 3, 7])[:count]
    ids = torch.randint(4, 60, (count, 7), generator=torch.Generator().manual_seed(2))
    ids[torch.arange(7) >= lengths[:, None]] = 0
    texts = {"main": Tokens(ids[:, None], lengths[:, None])}
    return Batch(images=given.images, texts=texts, keys=given.keys)


# ---- a slow reference, in double precision, one head, one query, one key after another


def norm(x, layer):
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    return (x - mean) / (variance + layer.eps) ** 0.5 * layer.weight + layer.bias


def attention(layer, queries, keys, allowed=lambda i, j: True):
    heads, out = layer.heads, []
    k = [layer.k.weight @ key + layer.k.bias for key in keys]
    v = [layer.v.weight @ key + layer.v.bias for key in keys]
    for i, query in enumerate(queries):
        q = layer.q.weight @ query + layer.q.bias
        d = len(q) // heads
        parts = []
        for h in range(heads):
            cut = slice(h * d, (h + 1) * d)
            there = [j for j in range(len(keys)) if allowed(i, j)]
            weights = torch.stack([(q[cut] @ k[j][cut] / math.sqrt(d)).exp() for j in there])
            weights = weights / weights.sum()
            parts.append(sum(w * v[j][cut] for w, j in zip(weights, there, strict=True)))
        out.append(layer.out.weight @ torch.cat(parts) + layer.out.bias)
    return out


def mlp(layer, x):
    hidden = layer.fc1.weight @ x + layer.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return layer.fc2.weight @ hidden + layer.fc2.bias


def layers(blocks, stream, allowed, memory=None):
    for block in blocks:
        normed = [norm(x, block.norm1) for x in stream]
        found = attention(block.attn, normed, normed, allowed)
        stream = [x + y for x, y in zip(stream, found, strict=True)]
        if memory is not None:
            found = attention(block.cross, [norm(x, block.norm_cross) for x in stream], memory)
            stream = [x + y for x, y in zip(stream, found, strict=True)]
        stream = [x + mlp(block.mlp, norm(x, block.norm2)) for x in stream]
    return stream


def pooled(pooler, keys):
    queries = [norm(query, pooler.norm_query) for query in pooler.query]
    return [norm(x, pooler.norm) for x in attention(pooler.attn, queries, keys)]


# ---- published sizes


def published(cls, preset):
    """The model of a published preset, without memory."""
    given = cls.preset(preset)
    with torch.device("meta"):
        make = Make(
            image=given.image,
            text=given.text,
            embed_dim=given.embed_dim,
            tokenizer=Numbered(given),
        )
        return cls(cls.configure(given.config), make).model


class Numbered:
    """The sizes of a preset's tokenizer, which is not trained."""

    kind = "bpe"
    before = (1,)
    pad = 0
    eot = 2
    padding = "longest"

    def __init__(self, preset):
        kind, _, context = preset.tokenizer.partition(":context=")
        self.vocab_size = 49408 if kind == "clip" else 64000
        self.context = int(context)
