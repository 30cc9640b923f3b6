"""The towers of tips against those of transformers, with weights of its modules."""

import re

import pytest
import torch

from diptych.towers.build import image_tower, text_tower

tipsv2 = pytest.importorskip("transformers.models.tipsv2", reason="a newer transformers has it")

NAMES = [
    (r"embeddings\.mask_token", "mask_token"),
    (r"embeddings\.position_embeddings", "positions"),
    (r"embeddings\.patch_embeddings\.projection", "patch_embed"),
    (r"embeddings\.token_embedding", "table"),
    (r"encoder\.layer(s?)\.", "transformer.layers."),
    (r"layer_scale(\d)\.lambda1", r"scale\1.gamma"),
    (r"(self_attn|attention)\.", "attn."),
    (r"(\w)_proj\.", r"\1."),
    (r"attn\.(o|out)\.", "attn.out."),
    (r"layer_norm(\d)", r"norm\1"),
    (r"^(layernorm|final_layer_norm)", "norm"),
]


def renamed(state):
    """The entries by our names, without CLS tokens."""
    found = {}
    for name, value in state.items():
        if "cls_token" in name or "register_tokens" in name:
            continue
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        found[name] = value
    return found


def drawn(model):
    """A model with random numbers in all parameters, 0 in the position of its first CLS token, which
    is part of that token."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        if hasattr(model, "layernorm"):
            model.embeddings.position_embeddings[:, 0] = 0
    return model.eval()


@pytest.mark.parametrize("gated", [False, True])
def test_images_of_two_sizes_with_hidden_patches(gated):
    config = tipsv2.Tipsv2VisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7,
        use_swiglu_ffn=gated, num_register_tokens=1,
    )  # fmt: skip
    theirs = drawn(tipsv2.Tipsv2VisionModel(config))
    ours = image_tower(
        "vit:image_size=28:patch=7:width=24:depth=2:heads=3:cls=2:cls_std=0:layer_scale=1.0:mask_token=true:"
        f"any_size=true:interpolation=bilinear:eps=1e-6:activation={'swiglu' if gated else 'gelu'}"
    ).eval()
    state = renamed(theirs.state_dict())
    own = theirs.embeddings
    state |= {
        "cls": torch.cat([own.cls_token, own.register_tokens], 1)[0],
        "positions": state["positions"][0, 1:],
        "mask_token": state["mask_token"][0],
    }
    if gated:
        for layer in (0, 1):
            at = f"transformer.layers.{layer}.mlp"
            for kind in ("weight", "bias"):
                gate, up = (state.pop(f"{at}.{name}.{kind}") for name in ("gate", "up"))
                state[f"{at}.fc1.{kind}"] = torch.cat([gate, up])
                state[f"{at}.fc2.{kind}"] = state.pop(f"{at}.down.{kind}")
    ours.load_state_dict(state)
    for size in (28, 42):
        pixels = torch.rand(2, 3, size, size)
        hidden = torch.rand(2, (size // 7) ** 2) < 0.5
        with torch.no_grad():
            for mask in (None, hidden):
                expected = theirs(pixels, bool_masked_pos=mask).last_hidden_state
                torch.testing.assert_close(
                    ours(pixels, hidden=mask).tokens, expected, atol=1e-4, rtol=1e-4
                )


def test_texts():
    config = tipsv2.Tipsv2TextConfig(
        vocab_size=50, hidden_size=24, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=16,
    )  # fmt: skip
    theirs = drawn(tipsv2.Tipsv2TextModel(config))
    ours = text_tower(
        "text:width=24:depth=2:heads=3:activation=relu:causal=false:pooling=mean:positions=sinusoidal:"
        "scale_embedding=true",
        vocab_size=50,
        context=16,
    ).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    ids = torch.randint(1, 50, (3, 12))
    lengths = torch.tensor([12, 5, 1])
    mask = (torch.arange(12) < lengths[:, None]).long()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).pooler_output
        torch.testing.assert_close(ours(ids, lengths).pooled, expected, atol=1e-4, rtol=1e-4)
