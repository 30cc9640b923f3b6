"""The tower that groups patches against transformers' GroupViT, with the same random weights."""

import re

import pytest
import torch
import transformers

from diptych.methods.dense.cocu.groupvit import GroupViT, GroupViTConfig
from diptych.methods.dense.cocu.model import Grouped
from diptych.towers.build import text_tower
from diptych.towers.dual import DualEncoder

NAMES = (  # of transformers, and ours
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed."),
    (r"^embeddings\.layernorm\.", "norm_patches."),
    (r"^embeddings\.position_embeddings$", "positions"),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.", ""),
    (r"\.group_token$", ".groups"),
    (r"\.group_projector\.", ".follow."),
    (r"\.layers\.", ".transformer.layers."),
    (r"\.(self_attn|attn)\.([qkv]|out)_proj\.", r".attn.\2."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.downsample\.assign\.proj\.", ".grouping.out."),
    (r"\.downsample\.assign\.([qkv])_proj\.", r".grouping.\1."),
    (r"\.downsample\.pre_assign_attn\.attn\.", ".grouping.cross."),
    (r"\.downsample\.pre_assign_attn\.norm2\.", ".grouping.norm_cross."),
    (r"\.downsample\.pre_assign_attn\.norm_post\.", ".grouping.norm_asked."),
    (r"\.downsample\.pre_assign_attn\.mlp\.", ".grouping.mlp_cross."),
    (r"\.downsample\.norm_tokens\.", ".grouping.norm_groups."),
    (r"\.downsample\.norm_post_tokens\.", ".grouping.norm_mixed."),
    (r"\.downsample\.norm_x\.", ".grouping.norm_tokens."),
    (r"\.downsample\.norm_new_x\.", ".grouping.norm_out."),
    (r"\.downsample\.mlp_inter\.", ".grouping.mixer."),
    (r"\.downsample\.mlp_channels\.", ".grouping.mlp_out."),
)
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "depths": [2, 1, 1],
    "num_group_tokens": [6, 3, 0],
    "num_output_groups": [6, 3, 3],
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def ours(name: str) -> str:
    for theirs, own in NAMES:
        name = re.sub(theirs, own, name)
    return name


@pytest.fixture(scope="module")
def pair():
    """Their model and our encoder, in float64 with the same weights, none of which is 0."""
    torch.manual_seed(0)
    texts = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.GroupViTConfig(
        text_config={**texts, "intermediate_size": 64, "vocab_size": 50},
        vision_config=SHAPE,
        projection_dim=24,
        projection_intermediate_dim=40,
    )
    theirs = transformers.GroupViTModel(config).double().eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.normal_(float("norm" in name and name.endswith("weight")), 0.3)
    tower = GroupViT(
        GroupViTConfig(image_size=32, patch=8, width=48, heads=4, depths=(2, 1, 1), groups=(6, 3))
    )
    head = "mlp:hidden=40:bias=true:last_bias=true"
    text = text_tower("text:width=32:depth=1:heads=2", vocab_size=50, context=8)
    encoder = DualEncoder(tower, text, 24, image_projection=head, text_projection=head).double()
    state = {ours(name): value for name, value in theirs.vision_model.state_dict().items()}
    tower.load_state_dict(
        {name: value.squeeze(0) if value.dim() == 3 else value for name, value in state.items()}
    )
    encoder.image_projection.load_state_dict(theirs.visual_projection.state_dict())
    return theirs, encoder.eval()


def test_segments_and_their_vectors_are_those_of_transformers(pair):
    theirs, encoder = pair
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.vision_model(pixel_values=x, output_attentions=True)
        found = encoder.image(x)
        shares = encoder.image.segments(x).shares
        torch.testing.assert_close(found.tokens, expected.last_hidden_state)
        torch.testing.assert_close(found.pooled, expected.pooler_output)
        first, second = expected.attentions
        torch.testing.assert_close(shares.flatten(2), second @ first)
        projected = theirs.visual_projection(expected.pooler_output)
        torch.testing.assert_close(encoder.image_vectors(found), projected)
    assert first.shape[1] == 6
    assert second.shape[1] == 3


def test_training_without_noise_has_their_gradients(pair):
    theirs, encoder = pair
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    weights = torch.randn(2, 48, dtype=torch.float64)
    for pooled, module in (
        (theirs.vision_model(pixel_values=x).pooler_output, theirs.vision_model),
        (encoder.image(x).pooled, encoder.image),
    ):
        module.zero_grad()
        (pooled * weights).sum().backward()
    own = dict(encoder.image.named_parameters())
    for name, value in theirs.vision_model.named_parameters():
        mine = own[ours(name)]
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, value.grad.reshape(mine.shape))
        else:  # biases that change nothing
            assert float(value.grad.abs().max()) < 1e-9


def test_the_published_size_has_as_many_weights():
    with torch.device("meta"):
        theirs = transformers.GroupViTVisionModel(transformers.GroupViTVisionConfig())
        tower = GroupViT(GroupViTConfig())
    counts = [sum(p.numel() for p in module.parameters()) for module in (theirs, tower)]
    assert counts[0] == counts[1]
    assert isinstance(Grouped(DualEncoder(tower, None, 256), 5, 0.95).image, GroupViT)
