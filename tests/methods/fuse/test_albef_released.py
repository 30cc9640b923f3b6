"""ALBEF's published weights: files of their layout with random numbers, against BERT of transformers and a ViT of
timm, whose parts the published code has."""

import pytest
import torch
from tests.factories import make_method, random_images
from torch.nn.functional import gelu, layer_norm, linear

import diptych
from diptych.errors import InputError
from diptych.methods.fuse.albef import ALBEF, released
from diptych.methods.make import Make
from diptych.models.model import Model

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

D, LAYERS, FIRST = 64, 4, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "bar", "##s"]
TEXTS = ["a red circle", "blue bars"]


def shaken(module):
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    return module.eval()


@pytest.fixture(scope="module")
def parts():
    """BERT with cross-attention in its upper layers, a ViT, and the heads."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=D,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        intermediate_size=128,
        max_position_embeddings=24,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation="eager",
    )
    bert = shaken(transformers.BertModel(config, add_pooling_layer=False))
    vit = shaken(
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=16, embed_dim=D, depth=2, num_heads=1, num_classes=0
        )
    )
    heads = {"vision_proj": (32, D), "text_proj": (32, D), "itm_head": (2, D)}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in heads.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in heads.items()}
    return bert, vit, state | {"temp": torch.tensor(0.05)}


def layout(parts):
    """The state dict of a pre-training checkpoint."""
    bert, vit, state = parts
    lower = tuple(f"encoder.layer.{layer}.crossattention" for layer in range(FIRST))
    state = dict(state)
    for name, value in bert.state_dict().items():
        if not name.startswith(lower):
            state[f"text_encoder.bert.{name}"] = value
    head = "text_encoder.cls.predictions."
    state |= {
        f"{head}bias": torch.randn(20),
        f"{head}transform.dense.weight": torch.randn(D, D),
        f"{head}transform.dense.bias": torch.randn(D),
        f"{head}transform.LayerNorm.weight": torch.randn(D),
        f"{head}transform.LayerNorm.bias": torch.randn(D),
        f"{head}decoder.weight": bert.embeddings.word_embeddings.weight.detach(),
    }
    state[f"{head}decoder.bias"] = state[f"{head}bias"]
    state |= {f"visual_encoder.{name}": value for name, value in vit.state_dict().items()}
    copies = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    for name in [name for name in state if name.startswith(copies)]:
        part, _, rest = name.partition(".")
        state[f"{part}_m.{rest}"] = torch.randn_like(state[name])
    queues = {"image_queue": torch.randn(32, 8), "text_queue": torch.randn(32, 8)}
    return state | queues | {"queue_ptr": torch.zeros(1, dtype=torch.long)}


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    place = tmp_path_factory.mktemp("albef")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(place / "vocab.txt")).save_pretrained(place)
    torch.save(
        {"model": layout(parts), "epoch": 29, "config": {"image_res": 32}}, place / "ALBEF.pth"
    )
    return place


def run(layers, hidden, *given):
    for layer in layers:
        found = layer(hidden, *given)
        hidden = found[0] if isinstance(found, tuple) else found
    return hidden


@torch.no_grad()
def test_outputs_are_those_of_bert_and_the_vit(parts, folder):
    bert, vit, heads = parts
    model = diptych.load(f"albef:{folder}")
    assert isinstance(model, Model)
    matcher, words = model.delivered, model.tokenizer
    assert words.encode(TEXTS) == [[2, 5, 6, 8, 3], [2, 7, 9, 10, 3]]
    ids = torch.tensor([[2, 5, 6, 8, 3, 0], [2, 7, 9, 10, 6, 3]])
    lengths = torch.tensor([5, 6])
    real = torch.arange(6) < lengths[:, None]
    mask = torch.zeros(2, 1, 6, 6).masked_fill(~real[:, None, None], torch.finfo(torch.float).min)
    pixels = torch.randn(2, 3, 32, 32)
    seen = vit.forward_features(pixels)
    read = run(bert.encoder.layer[:FIRST], bert.embeddings(input_ids=ids), mask)
    both = run(bert.encoder.layer[FIRST:], read, mask, seen)

    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # noqa: E731
    own_seen = matcher.encoder.encode_image(pixels)
    own_read = matcher.encoder.encode_text(ids, lengths)
    close(own_seen.tokens, seen)
    close(own_read.tokens[real], read[real])
    own_both = matcher.multimodal(own_read.tokens, lengths, own_seen.tokens)
    close(own_both[real], both[real])
    head = lambda x, name: linear(x, heads[f"{name}.weight"], heads[f"{name}.bias"])  # noqa: E731
    close(matcher.encoder.image_vectors(own_seen), head(seen[:, 0], "vision_proj"))
    close(matcher.encoder.project_text(own_read.pooled), head(read[:, 0], "text_proj"))
    close(matcher.match_logits(own_seen.tokens, own_read.tokens, lengths), head(both[:, 0], "itm_head"))  # fmt: skip
    assert float(matcher.encoder.logit_scale()) == pytest.approx(20)

    state = torch.load(folder / "ALBEF.pth", weights_only=True)["model"]
    cls = lambda name: state[f"text_encoder.cls.predictions.{name}"]  # noqa: E731
    hidden = gelu(linear(both[real], cls("transform.dense.weight"), cls("transform.dense.bias")))
    of_norm = (cls("transform.LayerNorm.weight"), cls("transform.LayerNorm.bias"))
    logits = linear(layer_norm(hidden, (D,), *of_norm, 1e-12), cls("decoder.weight"), cls("bias"))
    table = matcher.encoder.text.table.weight
    close(matcher.multimodal.words(own_both[real], table), logits)


def test_the_model_is_used_saved_and_trained_on(folder, tmp_path):
    model = diptych.load(f"albef:{folder}/ALBEF.pth")
    images = random_images(2)
    assert model.match(images, TEXTS).shape == (2,)
    assert model.heat(images, TEXTS).shape == (2, 2, 2, 2)
    model.save(tmp_path / "run")
    again = diptych.load(tmp_path / "run")
    assert torch.equal(again.match(images, TEXTS), model.match(images, TEXTS))
    assert torch.equal(again.embed_texts(TEXTS), model.embed_texts(TEXTS))
    made = make_method(ALBEF, make=Make.of(model), task="classes", images=2)
    layers = made.model.multimodal.transformer.layers
    given = model.delivered.multimodal.transformer.layers
    assert len(layers) == 4
    assert torch.equal(layers[3].norm_cross.weight, given[1].norm_cross.weight)


def test_files_of_retrieval_have_no_head_of_words(parts, folder, tmp_path):
    kept = {
        name.replace("text_encoder.bert.", "text_encoder."): value
        for name, value in layout(parts).items()
        if not name.startswith("text_encoder.cls.")
    }
    for path in folder.glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save(
        {"model": {**kept, "idx_queue": torch.full((1, 8), -100)}}, tmp_path / "flickr30k.pth"
    )
    matcher, _ = released.read(tmp_path)
    whole, _ = released.read(folder)
    assert torch.equal(matcher.match_head.weight, whole.match_head.weight)
    assert torch.isfinite(matcher.multimodal.words.dense.weight).all()


def test_files_that_do_not_fit_are_refused(parts, folder, tmp_path):
    with pytest.raises(InputError, match="no weights at"):
        diptych.load(f"albef:{folder}/ALBE.pth")
    with pytest.raises(InputError, match="clip|CLIP reads no published weights"):
        diptych.load(f"clip:{folder}")
    torch.save({"model": {"visual_encoder.pos_embed": torch.zeros(1, 5, D)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="has no tokenizer"):
        diptych.load(f"albef:{tmp_path}/a.pth")
    for path in folder.glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="holds no weights of ALBEF"):
        diptych.load(f"albef:{tmp_path}/a.pth")
    state = layout(parts)
    del state["itm_head.bias"]
    torch.save({"model": state}, tmp_path / "b.pth")
    with pytest.raises(InputError, match="lacks what becomes our match_head.bias"):
        diptych.load(f"albef:{tmp_path}/b.pth")
    with pytest.raises(InputError, match="holds 2 files of weights"):
        diptych.load(f"albef:{tmp_path}")
