"""MaMMUT: both passes against a slow reference on openMaMMUT's names, what sees what, sizes and
operations as published."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests.factories import AT, make_batch, make_method
from tests.methods.fuse.helpers import batch
from torch.nn.functional import normalize

from diptych.data.tokenizers import build, pad_batch
from diptych.errors import InputError
from diptych.lab.compare.cell import gflops as count
from diptych.methods.fuse.mammut import MaMMUT
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.training.config import resolve

TEXT = "text:width=32:depth=3:heads=2:causal=false:pooling=mean:cross=0:cross_every=2:cross_blocks="
IMAGE = "vit:image_size=32:patch=8:width=48:depth=1:heads=2:pooling=all:norm_after_pool=true"


def method(blocks="apart", **config):
    made = make_method(
        MaMMUT, text=TEXT + blocks, image=IMAGE, embed_dim=32, **{"augment": None, **config}
    )
    with torch.no_grad():
        for value in made.parameters():  # norms, biases and the vocabulary's layer too
            value.add_(torch.randn_like(value) * 0.05)
    return made.eval()


# ---- a slow reference on the names of openMaMMUT's checkpoints, one head and one query after another


def norm(x, w, name):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(x, keys, w, name, heads, causal):
    """x (N, D) attends to keys (M, D)."""
    q, k, v = (
        source @ weight.T + bias
        for source, weight, bias in zip(
            (x, keys, keys),
            w[f"{name}.in_proj_weight"].chunk(3),
            w[f"{name}.in_proj_bias"].chunk(3),
            strict=True,
        )
    )
    d = q.shape[1] // heads
    rows = []
    for i in range(len(x)):
        parts = []
        for h in range(heads):
            cut = slice(h * d, (h + 1) * d)
            seen = i + 1 if causal else len(keys)
            weights = torch.softmax(k[:seen, cut] @ q[i, cut] / math.sqrt(d), 0)
            parts.append(weights @ v[:seen, cut])
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def block(x, w, name, heads, causal=False, memory=None):
    if memory is None:
        keys = queries = norm(x, w, f"{name}.ln_1")
    else:
        queries, keys = norm(x, w, f"{name}.ln_1"), norm(memory, w, f"{name}.ln_1_kv")
    x = x + attention(queries, keys, w, f"{name}.attn", heads, causal)
    if f"{name}.mlp.c_fc.weight" not in w:
        return x
    hidden = (
        norm(x, w, f"{name}.ln_2") @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
    )
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + hidden @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]


def stack(ids, w, depth, heads, memory=None):
    """The states of one text after the final norm."""
    x = w["text.token_embedding.weight"][ids] + w["text.positional_embedding"][: len(ids)]
    for layer in range(depth):
        x = block(x, w, f"text.resblocks.{layer}", heads, causal=memory is not None)
        if layer % 2 == 0 and memory is not None:
            x = block(x, w, f"text.cross_attn.{layer // 2}", heads, memory=memory)
    return norm(x, w, "text.ln_final")


def image_tokens(pixels, w, depth, heads, patch):
    """The tokens of one image before the final norm."""
    kernel = w["visual.conv1.weight"]
    size = pixels.shape[-1] // patch
    patches = [
        (kernel * pixels[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]).sum(
            (1, 2, 3)
        )
        for r in range(size)
        for c in range(size)
    ]
    x = torch.stack([w["visual.class_embedding"], *patches]) + w["visual.positional_embedding"]
    x = norm(x, w, "visual.ln_pre")
    for layer in range(depth):
        x = block(x, w, f"visual.transformer.resblocks.{layer}", heads)
    return x


def checkpoint(lean, generator):
    """Random weights of a small MaMMUT by openMaMMUT's names, and its config."""
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.2  # noqa: E731
    w = {
        "logit_scale": torch.tensor(1.5, dtype=torch.float64),
        "map_viz2txt_kv": draw(64, 32),
        "text.text_projection": draw(32, 49408),
        "text.token_embedding.weight": draw(49408, 32),
        "text.positional_embedding": draw(12, 32),
        "visual.conv1.weight": draw(64, 3, 8, 8),
        "visual.class_embedding": draw(64),
        "visual.positional_embedding": draw(17, 64),
        "visual.proj": draw(64, 32),
    }

    def norms(name, width):
        w[f"{name}.weight"], w[f"{name}.bias"] = 1 + draw(width), draw(width)

    def layer(name, width, *, cross=False, mlp=True):
        norms(f"{name}.ln_1", width)
        if cross:
            norms(f"{name}.ln_1_kv", width)
        for part, shape in (("in_proj_", (3 * width, width)), ("out_proj.", (width, width))):
            w[f"{name}.attn.{part}weight"] = draw(*shape)
            w[f"{name}.attn.{part}bias"] = draw(shape[0])
        if mlp:
            norms(f"{name}.ln_2", width)
            for part, shape in (("c_fc", (4 * width, width)), ("c_proj", (width, 4 * width))):
                w[f"{name}.mlp.{part}.weight"] = draw(*shape)
                w[f"{name}.mlp.{part}.bias"] = draw(shape[0])

    for name, width in (("text.ln_final", 32), ("visual.ln_pre", 64), ("visual.ln_post", 64)):
        norms(name, width)
    layer("visual.transformer.resblocks.0", 64)
    for at in range(3):
        layer(f"text.resblocks.{at}", 32, mlp=bool(at % 2) or not lean)
    for at in range(2):
        layer(f"text.cross_attn.{at}", 32, cross=True)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "output_tokens": True,
                       "pool_type": "avg_all", "final_ln_after_pool": True},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3,
                     "output_tokens": True, "cross_attn_ratio": 2, "does_full_decoding": True,
                     **({"has_mlp": False} if lean else {})},
        "custom_text": True,
    }  # fmt: skip
    return w, config


@pytest.fixture(params=[False, True], ids=["apart", "lean"])
def released(request, tmp_path):
    """Weights and the folder in which openMaMMUT is released."""
    w, config = checkpoint(request.param, torch.Generator().manual_seed(3))
    save_file({name: value.float().contiguous() for name, value in w.items()},
              tmp_path / "open_clip_model.safetensors")  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    return w, tmp_path


@torch.no_grad()
def test_released_weights_give_the_published_model(released):
    w, folder = released
    model = load("openclip:mammut_ViT-tiny", weights=folder)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    assert len(model.generate(pixels, max_tokens=2)) == 2
    model.save(folder / "mine")
    again = load(folder / "mine")
    assert torch.equal(again.embed_images(pixels), model.embed_images(pixels))
    assert again.generate(pixels, max_tokens=2) == model.generate(pixels, max_tokens=2)
    words = model.tokenizer
    texts = [[*words.before, *words.ids(text), *words.after] for text in ("a cat", "two red dogs")]
    ids, lengths = pad_batch(texts, words)
    assert ids.shape == (2, 12)  # padded to the context
    encoder, lm = model.encoder.double(), model.lm.double()
    scaled = encoder.image.pixels(pixels.double())
    seen = [image_tokens(x, w, 1, 1, 8) for x in scaled]
    image = torch.stack([norm(x.mean(0), w, "visual.ln_post") @ w["visual.proj"] for x in seen])
    found = encoder.encode_image(pixels.double())
    assert torch.allclose(encoder.image_vectors(found), image, atol=2e-5)
    text = torch.stack([stack(row, w, 3, 2).mean(0) for row in ids])
    assert torch.allclose(encoder.embed_texts(ids, lengths), normalize(text, dim=1), atol=2e-5)
    memory = model.captioner.memory_of(found)
    logits = lm.logits(lm(ids[:, :-1], memory=memory))
    for row in range(2):
        states = stack(ids[row, :-1], w, 3, 2, seen[row] @ w["map_viz2txt_kv"])
        assert torch.allclose(logits[row], states @ w["text.text_projection"], atol=2e-5)


@torch.no_grad()
def test_both_losses_are_those_of_the_sheet():
    made, given = method(caption=1.5, contrastive=0.5), batch()
    found = made.loss(made.encode(given, AT), given, AT)
    encoder, lm = made.model.encoder, made.model.lm
    image = encoder.encode_image(given.image.flat)
    x = normalize(encoder.image_vectors(image), dim=1)
    memory = image.raw @ lm.projection.weight.T
    assert image.raw.shape[1] == 17  # with CLS
    scale = encoder.logit_scale()
    total, count, texts = 0.0, 0, []
    for row in range(3):
        n = int(given.text.lengths[row, 0])
        ids = given.text.ids[row, :, :n]
        tower = encoder.text
        texts.append(tower.norm(tower.blocks(tower.embed(ids)))[0].mean(0))
        for at in range(1, n):  # each prefix by itself: nothing behind it is there to be seen
            hidden = tower.norm(
                tower.blocks(tower.embed(ids[:, :at]), causal=True, memory=memory[row : row + 1])
            )
            log_p = torch.log_softmax(hidden[0, -1] @ lm.head.weight.T, 0)
            total, count = total + log_p[ids[0, at]], count + 1
    t = normalize(torch.stack(texts), dim=1)
    logits = scale * x @ t.T
    rows = -torch.log_softmax(logits, 1).diagonal().mean()
    columns = -torch.log_softmax(logits, 0).diagonal().mean()
    assert found.terms["contrastive"] == pytest.approx(0.25 * float(rows + columns), abs=1e-5)
    assert found.terms["caption"] == pytest.approx(-1.5 * float(total) / count, abs=1e-5)


def test_the_first_step():
    """The vocabulary's layer begins at 0: the caption loss is ln V whatever the image, and the
    contrast has no gradient in the cross-attention."""
    made = make_method(MaMMUT, text=TEXT + "lean", image=IMAGE, embed_dim=32, augment=None)
    given = batch()
    found = made.loss(made.encode(given, AT), given, AT)
    V = made.model.lm.head.out_features
    assert float(found.terms["caption"].detach()) == pytest.approx(math.log(V), abs=1e-5)
    other = replace(given, images=make_batch(3, {"main": 1}, seed=5).images)
    assert made.loss(made.encode(other, AT), other, AT).terms["caption"] == found.terms["caption"]
    found.terms["contrastive"].backward()
    read = [p for name, p in made.named_parameters() if ".cross." in name or "norm_memory" in name]
    assert len(read) > 0
    assert all(p.grad is None or not p.grad.any() for p in read)


@torch.no_grad()
def test_what_sees_what():
    made, given = method(), batch()
    ids, lengths = given.text.flat
    encoder, lm = made.model.encoder, made.model.lm
    image = encoder.encode_image(given.image.flat)
    memory = made.model.memory_of(image)
    changed = ids.clone()
    changed[:, 3] = 50
    before, after = lm(ids, memory=memory), lm(changed, memory=memory)
    assert torch.equal(before[:, :3], after[:, :3])  # a token is not seen by those before it
    assert not torch.equal(before[:, 3:], after[:, 3:])
    assert not torch.equal(before, lm(ids, memory=memory.flip(0)))  # the image is
    two_ways = encoder.text.blocks(encoder.text.embed(ids))
    assert not torch.equal(two_ways[:, :3], encoder.text.blocks(encoder.text.embed(changed))[:, :3])
    more = torch.nn.functional.pad(ids, (0, 4))
    assert torch.allclose(
        encoder.embed_texts(ids, lengths), encoder.embed_texts(more, lengths), atol=1e-6
    )


@pytest.mark.parametrize(
    ("preset", "text", "total", "gflops"),
    [("base", 94_778_880, 183.02, 26.91), ("s32", 62_826_624, 85.62, None), ("paper", 203_542_272, 508.29, 202.56)],
)  # fmt: skip
def test_sizes_and_operations_are_those_published(preset, text, total, gflops):
    """Products with weights of one forward pass, the vocabulary's layer in both passes."""
    chosen = MaMMUT.preset(preset)
    with torch.device("meta"), torch.no_grad():
        make = Make(image=chosen.image, text=chosen.text, embed_dim=chosen.embed_dim,
                    tokenizer=build(chosen.tokenizer))  # fmt: skip
        made = MaMMUT.of(MaMMUT.configure(chosen.config), make).eval()
        encoder, lm = made.model.encoder, made.model.lm
        sizes = {
            part: sum(p.numel() for p in part.parameters())
            for part in (made, encoder.text, lm.head)
        }
        assert sizes[encoder.text] + sizes[lm.head] == text
        assert round(sizes[made] / 1e6, 2) == total
        if gflops is None:
            return
    model = SimpleNamespace(
        encoder=encoder,
        delivered=made.model,
        preprocess=SimpleNamespace(shape=(3, 224, 224)),
        tokenizer=SimpleNamespace(context=77),
    )
    assert round(count(model)["weight_gflops"], 2) == gflops


def test_a_run_writes(tmp_path):
    made = method()
    model = made.deliver().to_model(made.make.tokenizer, made.model.image.preprocess, "mine")
    images = torch.rand(2, 3, 32, 32)
    greedy = model.generate(images, strategy="greedy", max_tokens=5)
    assert len(greedy) == 2
    assert model.log_prob(images, ["a cat", "a dog"]).shape == (2,)


def test_bad_input():
    with pytest.raises(InputError, match="cross_blocks=apart"):
        make_method(
            MaMMUT,
            text="text:width=32:depth=1:causal=false:pooling=mean",
            image=IMAGE,
            embed_dim=32,
        )


def test_the_space_is_as_wide_as_the_text_tower():
    assert resolve("mammut", {"train": "glyphs"}).embed_dim == 128
    assert resolve("mammut", {"train": "glyphs"}, text_tower=f"{TEXT}apart").embed_dim == 32
