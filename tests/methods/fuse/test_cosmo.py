"""COSMO: both losses against a slow reference, media time with and without a cache, what sees what, the
numbers of the sheet, targets of documents, what a run writes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.factories import AT, make_batch, make_method, random_images
from torch.nn.functional import normalize

from diptych.cli import main
from diptych.data.batch import Images, Tokens
from diptych.data.clips import FrameStack
from diptych.data.held import encoded
from diptych.data.sample import BadSample, Sample, Text
from diptych.data.tokenizers import build
from diptych.data.views import ImageView
from diptych.errors import InputError
from diptych.methods.fuse.cosmo import COSMO, Config
from diptych.methods.fuse.cosmo.documents import DocumentView, with_marks
from diptych.methods.fuse.cosmo.gated import GatedLM
from diptych.methods.store import describe, load, save_model
from diptych.models.causal_lm import CausalLM
from diptych.models.export import reason, targets
from diptych.models.generate import generate
from diptych.models.pretrained.hf_lm import HFCausalLM
from diptych.objectives import info_nce
from diptych.towers.build import text_tower

V, CONTEXT = 90, 24
IMAGE = "vit:image_size=32:patch=16:width=48:depth=1:heads=2"
LM = "text:width=32:depth=2:heads=2"
SHAPE = {"vocab_size": V, "max_position_embeddings": CONTEXT, "num_hidden_layers": 3}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def ours():
    spec = "text:width=32:depth=3:heads=2"
    return CausalLM(text_tower(spec, vocab_size=V, context=CONTEXT))  # type: ignore[arg-type]


LMS = {
    "ours": ours,
    "llama": lambda: HFCausalLM.fresh({"model_type": "llama", **SHAPE, **WIDTHS}),
    "gpt2": lambda: HFCausalLM.fresh(
        {
            "model_type": "gpt2",
            "vocab_size": V,
            "n_positions": CONTEXT,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 2,
        }
    ),
}


def gated(kind="ours", opened=True, **options):
    """A language model with gated blocks, their gates open, and two media of 2 tokens to read."""
    torch.manual_seed(0)
    lm = LMS[kind]()
    if kind != "ours":  # transformers' weights are too small to see anything
        with torch.no_grad():
            for value in lm.parameters():
                value.mul_(5)
    made = GatedLM(lm, vocab_size=V - 2, memory_width=16, tokens=2, unimodal=1, **options).eval()
    if opened:
        with torch.no_grad():
            for name, value in made.blocks.named_parameters():
                value.fill_(0.8) if "gate" in name else value.add_(torch.randn_like(value) * 0.2)
    return made


def written(rows=2, seed=1):
    """Ids with two media marks a row, at places of their own, and the media (B, 4, 16)."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V - 2, (rows, 9), generator=draw)
    for row in range(rows):
        ids[row, 1 + row % 2] = V - 2
        ids[row, 4 + row % 2] = V - 2
    return ids, torch.randn(rows, 4, 16, generator=draw)


@pytest.mark.parametrize("kind", LMS)
def test_closed_gates_leave_the_language_model_as_it_is(kind):
    made = gated(kind, opened=False)
    ids, media = written()
    hidden = made(ids, memory=media)
    with torch.no_grad():
        alone = made.lm(prefix=made.embeddings(ids))
    assert torch.equal(made.logits(hidden)[..., : V - 2], made.lm.logits(alone)[..., : V - 2])
    made.logits(hidden)[:, -1].logsumexp(-1).sum().backward()
    for name, value in made.blocks.named_parameters():
        assert value.grad is not None
        assert bool(value.grad.any()) == ("gate" in name)
    assert all(value.grad is None for value in made.lm.parameters())  # it is frozen


@pytest.mark.parametrize("reach", ["latest", "previous"])
@pytest.mark.parametrize("kind", LMS)
@torch.no_grad()
def test_cached_decoding_keeps_the_media_time_of_every_row(kind, reach):
    made = gated(kind, reach=reach)
    ids, media = written(3)
    mask = torch.tensor([[True, True]] * 3)
    mask[1] = torch.tensor([True, False])
    there = mask.repeat_interleave(2, 1)
    whole = made(ids, memory=media, memory_mask=there)
    state = made.start(ids[:, :6], memory=media, memory_mask=there)
    order = torch.tensor([2, 0, 1])
    state = state.select(order)
    state = made.next(state, ids[order, 6])
    state = made.next(state, ids[order, 7:9])
    torch.testing.assert_close(state.hidden, whole[order], atol=2e-5, rtol=1e-4)
    peek = made.peek(made.start(ids[:, :8], memory=media, memory_mask=there), ids[:, 8:])
    torch.testing.assert_close(peek.hidden[:, 0], whole[:, 8], atol=2e-5, rtol=1e-4)
    padded = torch.cat([torch.zeros_like(ids[:, :2]), ids], 1)  # padding before the text
    real = torch.arange(11).expand(3, -1) >= 2
    state = made.start(padded, real, memory=media, memory_mask=there)
    torch.testing.assert_close(state.hidden[:, 2:], whole, atol=2e-5, rtol=1e-4)
    beams = generate(made, ids, memory=media, memory_mask=there, strategy="beam", max_tokens=3)
    one = generate(
        made, ids[1:2], memory=media[1:2], memory_mask=there[1:2], strategy="beam", max_tokens=3
    )
    assert beams[1] == one[0]


@torch.no_grad()
def test_a_token_reads_the_media_of_its_time_and_no_others():
    made = gated()
    ids, media = written(1)
    other = media.clone()
    other[:, :2] += 3  # the first medium
    before, after = made(ids, memory=media), made(ids, memory=other)
    assert torch.equal(before[:, 0], after[:, 0])  # no medium was before it
    assert (before[:, 1:] - after[:, 1:]).abs().amax(-1).gt(1e-4).all()  # carried by self-attention
    block, x = made.blocks[0], torch.randn(1, 9, 32)
    times = (ids == made.visual).cumsum(1)
    mask = made.allowed(times, media, None)
    seen, changed = (block(x, memory, mask) for memory in (media, other))
    assert torch.equal(seen[:, 4:], changed[:, 4:])
    assert not torch.equal(seen[:, 1:4], changed[:, 1:4])
    # of a token without media nothing is read, in either mode
    for reach in ("latest", "previous"):
        made.reach = reach
        mask = made.allowed(times, media, None)
        found = block.attn(block.norm(x), media, mask=mask)
        assert not found[:, 0].any()
        assert found[:, 1:].abs().amax(-1).gt(0).all()
    assert torch.equal(made.text_tokens(ids), made.read(ids, memory=media)[0])
    made.reach = "none"
    assert torch.equal(made(ids, memory=media), made(ids, memory=other))


def test_a_compressed_block_has_narrower_heads_at_the_same_scale():
    wide, narrow = gated().blocks[0], gated(compress=2).blocks[0]
    assert (wide.attn.q.out_features, narrow.attn.q.out_features) == (512, 256)
    assert (wide.mlp.fc1.out_features, narrow.mlp.fc1.out_features) == (128, 64)
    assert narrow.attn.heads == 8
    x, media = torch.randn(1, 3, 32), torch.randn(1, 4, 16)
    weights = narrow.attn.weights(x, media)
    q = (narrow.attn.q.weight @ x[0, 1]).view(8, 32)
    k = (narrow.attn.k.weight @ media[0].T).view(8, 32, 4)
    expected = torch.einsum("hd,hdm->hm", q, k).mul(64**-0.5).softmax(-1)
    torch.testing.assert_close(weights[0, :, 1], expected)
    with pytest.raises(InputError, match="both halves"):
        GatedLM(ours(), vocab_size=V - 2, memory_width=16, tokens=2, unimodal=3)


# ---- a slow reference, in double precision: one head, one query, one key after another


def norm(x, layer):
    mean = sum(x) / len(x)
    variance = sum((x - mean) ** 2) / len(x)
    x = (x - mean) / (variance + layer.eps) ** 0.5 * layer.weight
    return x if layer.bias is None else x + layer.bias


def affine(layer, x):
    return layer.weight @ x if layer.bias is None else layer.weight @ x + layer.bias


def attention(layer, queries, keys, scale, allowed=lambda i, j: True):
    out = []
    for i, query in enumerate(queries):
        q = affine(layer.q, query)
        d = len(q) // layer.heads
        there = [j for j in range(len(keys)) if allowed(i, j)]
        parts = []
        for h in range(layer.heads):
            cut = slice(h * d, (h + 1) * d)
            if not there:
                parts.append(torch.zeros_like(q[cut]))
                continue
            dots = [scale * (q[cut] @ affine(layer.k, keys[j])[cut]) for j in there]
            weights = torch.stack(dots).exp()
            weights = weights / weights.sum()
            parts.append(
                sum(w * affine(layer.v, keys[j])[cut] for w, j in zip(weights, there, strict=True))
            )
        out.append(affine(layer.out, torch.cat(parts)))
    return out


def mlp(layer, x):
    hidden = affine(layer.fc1, x)
    return affine(layer.fc2, hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def resampled(pooler, sequence, raw_query=False):
    latents = list(pooler.latents)
    for layer in pooler.layers:
        normed = [norm(x, layer.norm_latents) for x in latents]
        keys = [norm(x, layer.norm) for x in sequence] + normed
        found = attention(layer.attn, latents if raw_query else normed, keys, 64**-0.5)
        latents = [x + y for x, y in zip(latents, found, strict=True)]
        latents = [x + mlp(layer.mlp, norm(x, layer.norm2)) for x in latents]
    return [norm(x, pooler.norm) for x in latents]


def decoded(lm, ids, media):
    """The tokens below the first medium's block, and the logits."""
    tower = lm.own.tower
    words = torch.cat([tower.table.weight[: lm.vocab_size], lm.added])
    stream = [words[id] + tower.positions[at] for at, id in enumerate(ids)]
    times = [sum(int(id == lm.vocab_size) for id in ids[: at + 1]) for at in range(len(ids))]
    memory = [token for medium in media for token in medium]
    owner = [number for number, medium in enumerate(media, 1) for _ in medium]
    half = None
    for layer, block in enumerate(tower.transformer.layers):
        if layer in lm.places:
            half = stream if half is None else half
            gate = lm.blocks[lm.places.index(layer)]
            found = attention(
                gate.attn,
                [norm(x, gate.norm) for x in stream],
                memory,
                64**-0.5,
                lambda i, j: times[i] == owner[j],
            )
            stream = [x + gate.gate_attn.tanh() * y for x, y in zip(stream, found, strict=True)]
            stream = [x + gate.gate_mlp.tanh() * mlp(gate.mlp, norm(x, gate.norm2)) for x in stream]
        normed = [norm(x, block.norm1) for x in stream]
        found = attention(block.attn, normed, normed, 16**-0.5, lambda i, j: j <= i)
        stream = [x + y for x, y in zip(stream, found, strict=True)]
        stream = [x + mlp(block.mlp, norm(x, block.norm2)) for x in stream]
    return half, [words @ norm(x, tower.norm) for x in stream]


def method(**config):
    options = {"lm": LM, "unimodal": 1, "tokens": 2, "depth": 1, "embed": 16, "media": 2, **config}
    made = make_method(COSMO, image=IMAGE, **options)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return made.eval()


def pairs(made, texts=("a red circle", "a pink bar on the left", "a blue bar")):
    rows = made.words.encode(texts)
    lengths = torch.tensor([[len(row)] for row in rows])
    ids = torch.zeros(len(rows), 1, int(lengths.max()), dtype=torch.long)
    for row, own in zip(ids, rows, strict=True):
        row[0, : len(own)] = torch.tensor(own)
    return replace(make_batch(len(rows), {"main": 1}), texts={"main": Tokens(ids, lengths)})


def documents(made):
    """Two documents, of two media and of one."""
    visual, end = made.words.special_id("visual"), made.words.special_id("endofchunk")
    ids = torch.tensor(
        [[1, 9, visual, 8, 7, end, 6, visual, 5, end, 2], [1, visual, 9, 5, end, 2, 0, 0, 0, 0, 0]]
    )
    marks = torch.full_like(ids, -1)
    for row, places in ((0, [3, 4, 5, 8, 9]), (1, [2, 3, 4])):
        marks[row, places] = ids[row, places]
    there = torch.tensor([[True, True], [True, False]])
    texts = {"main": Tokens(ids[:, None], torch.tensor([[11], [6]]), marks[:, None])}
    return replace(make_batch(2, {"main": 2}, seed=3), texts=texts, fields={"main.there": there})


@torch.no_grad()
def test_both_losses_are_those_of_the_sheet():
    made = method(weights={"documents": 2.0}).double()
    given = {"train": pairs(made), "documents": documents(made)}
    losses = made.loss(made.encode(given, AT), given, AT)
    image, vectors = made.model.encoder.image, ([], [])
    for stream, batch in given.items():
        total, count = 0.0, 0
        for row in range(len(batch)):
            n = int(batch.text.lengths[row, 0])
            ids = batch.text.ids[row, 0, :n].tolist()
            if stream == "train":
                visual, end = made.model.lm.vocab_size, made.model.lm.vocab_size + 1
                ids = [ids[0], visual, *ids[1:-1], end, ids[-1]]
                n += 2
            shown = ids.count(made.model.lm.vocab_size)
            tokens = image(batch.image.pixels[row, :shown]).tokens[:, 1:]  # of the patches
            latents = [resampled(made.model.resampler, list(medium)) for medium in tokens]
            half, logits = decoded(made.model.lm, ids, [each[1:] for each in latents])
            if stream == "train":
                targets = [at for at in range(1, n) if ids[at] != made.model.lm.vocab_size]
                mean = sum(each[0] for each in latents) / len(latents)
                vectors[0].append(made.model.encoder.image_projection.weight @ mean)
                [query] = resampled(made.model.text_pooler, half, raw_query=True)
                vectors[1].append(made.model.text_projection.weight @ query)
            else:
                targets = [at for at in range(n) if batch.text.marks[row, 0, at] >= 0]
            for at in targets:
                total = total + logits[at - 1][ids[at]] - logits[at - 1].exp().sum().log()
            count += len(targets)
        weight = 2.0 if stream == "documents" else 1.0
        assert losses.terms[f"log_loss_{stream}"].item() == pytest.approx(
            -weight * float(total) / count, rel=1e-9
        )
    m, t = (normalize(torch.stack(side), dim=1) for side in vectors)
    logits = made.model.encoder.logit_scale() * t @ m.T
    expected = 0.0
    for table in (logits, logits.T):
        for i in range(3):
            expected -= float(table[i, i] - table[i].exp().sum().log()) / 6
    assert losses.terms["contrastive_train"].item() == pytest.approx(expected, rel=1e-9)
    assert set(losses.terms) == {"log_loss_train", "log_loss_documents", "contrastive_train"}


def test_the_gradient_of_the_loss_is_that_of_differences():
    made = method().double()
    given = {"train": pairs(made), "documents": documents(made)}

    def loss():
        return made.loss(made.encode(given, AT), given, AT).total

    loss().backward()
    draw = np.random.default_rng(0)
    for name, value in made.named_parameters():
        if not value.requires_grad:
            assert value.grad is None
            continue
        at = tuple(int(draw.integers(size)) for size in value.shape)
        with torch.no_grad():
            was = value[at].item()
            found = []
            for step in (1e-6, -1e-6):
                value[at] = was + step
                found.append(loss().item())
            value[at] = was
        slope = (found[0] - found[1]) / 2e-6
        assert value.grad is not None
        assert value.grad[at].item() == pytest.approx(slope, abs=2e-7, rel=1e-4), name


def test_the_numbers_of_the_sheet():
    table = torch.tensor([[0.9, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.3, 0.7]], dtype=torch.float64)
    for theta, expected in ((0.2, 0.629994), (1, 0.287313), (math.log(1 / 0.07), 0.000784)):
        found = info_nce(table, torch.eye(3, dtype=torch.float64), torch.tensor(theta).exp())
        assert found.item() == pytest.approx(expected, abs=6e-7)
    scales = [
        method(**options).model.encoder.logit_scale.init for options in ({}, {"paper_init": True})
    ]
    assert scales == pytest.approx([1 / 0.07, 1.221403], abs=1e-6)


def test_equal_captions_and_documents_give_no_contrast():
    made = method()
    for given in ({"train": pairs(made, ["a red bar"] * 3)}, {"documents": documents(made)}):
        made.zero_grad()
        losses = made.loss(made.encode(given, AT), given, AT)
        losses.total.backward()
        assert not losses.terms.get("contrastive_train", torch.zeros(())).detach()
        scale = made.model.encoder.logit_scale.value.grad
        assert scale is None or not scale
    assert made.model.lm.own.tower.table.weight.grad is None


def test_padding_is_read_by_no_text():
    made = method()
    given = pairs(made)
    ids = torch.nn.functional.pad(given.text.ids, (0, 3))
    longer = replace(given, texts={"main": Tokens(ids, given.text.lengths)})
    one, two = (made.encode({"train": batch}, AT) for batch in (given, longer))
    torch.testing.assert_close(one, two)


# ---- documents


def words():
    return with_marks(build("bpe:vocab_size=300:context=24", ["a b c d e"] * 3), 24)


def drawn(count=3):
    roles = ["main", *(f"page{number}" for number in range(2, count + 1))]
    return {
        role: encoded(pixels.permute(1, 2, 0).numpy())
        for role, pixels in zip(roles, random_images(count), strict=True)
    }


def view(**options):
    preprocess = make_method(COSMO, image=IMAGE, lm=LM, unimodal=1).model.image.preprocess
    image = ImageView(preprocess=preprocess, augment=None)
    return DocumentView(image=image, tokenizer=words(), length=24, **options)


def told(found, tokenizer):
    """Ids as words, with a mark before each target."""
    [masked] = found["texts.main"]
    names = {
        tokenizer.special_id("visual"): "<v>",
        tokenizer.special_id("endofchunk"): "<e>",
        1: "<s>",
        2: "</s>",
    }
    return " ".join(
        ("!" if mark >= 0 else "") + names.get(id, tokenizer.decode([id]))
        for id, mark in zip(masked.ids, masked.marks, strict=True)
    )


def test_targets_of_documents():
    said = [("a", None), ("b", "main"), ("c", "main"), ("d", ""), ("e", "page3")]
    texts = [
        Text(text=text, role="document", attrs={} if image is None else {"image": image})
        for text, image in said
    ]
    sample = Sample(key="0", source="test", images=drawn(), texts=texts)
    made = view()
    found = made(sample, np.random.default_rng(0), None)
    assert told(found, made.tokenizer) == "<s> a <v> !b !c !<e> d <v> !e !<e> </s>"
    assert found["fields.main.there"].tolist() == [True, True, False]
    assert found["images.main"].shape == (3, 3, 32, 32)
    assert not found["images.main"][2].any()
    short = replace(made, length=7)
    found = short(sample, np.random.default_rng(0), None)
    assert told(found, made.tokenizer) == "<s> a <v> !b !c !<e> d"  # cut before the second medium
    assert found["fields.main.there"].tolist() == [True, False, False]
    with pytest.raises(BadSample, match="no-image"):
        made(replace(sample, texts=texts[:1] + texts[3:4]), np.random.default_rng(0), None)
    with pytest.raises(BadSample, match="no-caption"):
        made(replace(sample, texts=()), np.random.default_rng(0), None)


def test_documents_of_clips_hold_their_frames_side_by_side():
    a, b, c = drawn().values()
    clips = {"main": FrameStack((a, b), 2), "page2": FrameStack((c, a), 2)}
    texts = [Text(text=text, role="document") for text in "ab"]
    sample = Sample(key="0", source="test", images=clips, texts=texts)
    found = view(media=3)(sample, np.random.default_rng(0), None)
    assert found["fields.main.there"].tolist() == [True, True, False]
    frames = found["images.main"]
    assert frames.shape == (6, 3, 32, 32)
    assert torch.equal(frames[0], frames[3])
    made = method(media=3)
    given = documents(made)
    batch = replace(
        given,
        images={"main": Images(frames[None].expand(2, -1, -1, -1, -1))},
        fields={"main.there": found["fields.main.there"].expand(2, -1)},
    )
    losses = made.loss(made.encode({"films": batch}, AT), {"films": batch}, AT)
    assert set(losses.terms) == {"log_loss_films"}


def test_media_and_sentences_are_matched_by_similarity():
    texts = [Text(text=text, role="document") for text in "abc"]
    similarity = np.array([[0.30, 0.29, 0.1], [0.31, 0.1, 0.1], [0.1, 0.1, 0.2]], np.float32)
    sample = Sample(
        key="0", source="test", images=drawn(), texts=texts, arrays={"similarity": similarity}
    )
    rng = np.random.default_rng(0)
    expected = {
        "given": "<s> <v> !a !<e> <v> !b !<e> <v> !c !<e> </s>",
        "similar": "<s> <v> <v> !a !<e> b c </s>",
        "assigned": "<s> <v> !a !<e> <v> !b !<e> c </s>",
    }
    for match, text in expected.items():
        made = view(match=match, min_similarity=-1.0 if match == "given" else 0.24)
        assert told(made(sample, rng, None), made.tokenizer) == text
    made = view(match="similar")
    found = {
        told(made(sample, np.random.default_rng(seed), 0.5), made.tokenizer) for seed in range(20)
    }
    assert len(found) == 2  # the noise is large enough for .30 and .29 alone
    with pytest.raises(BadSample, match="no-similarity"):
        made(replace(sample, arrays={}), rng, None)


# ---- inference


def test_a_saved_model_embeds_and_writes_behind_examples(tmp_path, capsys):
    made = method()
    module = made.deliver()
    options = vars(made.config)
    description = describe("cosmo", options, module, made.make.words, module.image.preprocess)
    save_model(tmp_path / "run", description, module.state_dict())
    model = load(tmp_path / "run")
    images = random_images(3)
    given = pairs(made)
    features = made.encode({"train": replace(given, images={"main": Images(images[:, None])})}, AT)
    with torch.no_grad():
        torch.testing.assert_close(model.embed_images(images), features["image_train"])
        said = ["a red circle", "a pink bar on the left", "a blue bar"]
        torch.testing.assert_close(model.embed_texts(said), features["text_train"])
    assert all(reason(model, target) for target in targets() if target != "onnx")
    texts = model.generate(images, ["a red"] * 3, max_tokens=4)
    few = model.few_shot(images[:2], ["a bar", "a cat"])
    # the same, by hand
    lm, tokens = model.captioner.lm, model.captioner.words
    visual, end = tokens.special_id("visual"), tokens.special_id("endofchunk")
    ids = [
        1,
        visual,
        *tokens.ids("a bar"),
        end,
        visual,
        *tokens.ids("a cat"),
        end,
        visual,
        *tokens.ids("a red"),
    ]
    target = [*tokens.ids("circle"), end]
    with torch.no_grad():
        media = model.captioner.see(torch.cat([images[:2], images[2:]])).flatten(0, 1)[None]
        row = torch.tensor([ids + target])
        expected = lm.log_prob(row, torch.tensor([row.shape[1]]), first=len(ids), memory=media)
    found = few.log_prob(images[2:], ["circle"], ["a red"])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, model.log_prob(images[2:], ["circle"], ["a red"]))
    assert few.few_shot([], []).generate(images, ["a red"] * 3, max_tokens=4) == texts
    with pytest.raises(InputError, match="example 0 has no words"):
        model.few_shot(images[:1], [" "])
    with pytest.raises(InputError, match="with its examples.*context"):
        model.few_shot(images, ["a red bar on the left"] * 3).generate(images[:1])
    half = load(tmp_path / "run", precision="bfloat16")
    assert half.few_shot(images[:1], ["a bar"]).generate(images[:1], max_tokens=2)
    near = (half.embed_texts(said) * model.embed_texts(said)).sum(1)
    assert near.min() > 0.99
    for number, pixels in enumerate(images[:2]):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a bar")
    told = ["--images", str(tmp_path / "1.png"), "--max-tokens", "3", "--strategy", "greedy"]
    written = []
    for shots in ([], ["--shots", "1", "--examples", str(tmp_path)]):
        assert main(["generate", str(tmp_path / "run"), "a", *told, *shots]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] != written[1]
    clip = images[None].float() / 255
    assert model.embed_images(clip).shape == (1, 16)
    assert model.generate(clip, max_tokens=2)


def test_a_step_reads_one_source():
    made = method()
    sources = {"train": range(30), "documents": range(20), "clips": range(25)}
    for sampling, order in {
        "min": ("documents", "clips", "train"),
        "max": ("train", "clips", "documents"),
        "round_robin": ("train", "clips", "documents"),
    }.items():
        made.config = replace(made.config, sampling=sampling)
        made.setup(sources)
        [stage] = made.stages()
        assert stage.streams == order
        assert stage.turns
    with pytest.raises(InputError, match="pairs"):
        made.setup({"pairs": range(3)})
    with pytest.raises(InputError, match="documnts"):
        Config(weights={"documnts": 1.0})


def test_an_option_that_is_no_language_model_is_refused():
    with pytest.raises(InputError, match="lm=tiny is no language model"):
        make_method(COSMO, image=IMAGE, lm="tiny")
