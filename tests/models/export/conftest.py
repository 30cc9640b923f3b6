"""timm's SigLIP tower in a size that a test can afford."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_siglip() -> None:
    from timm.models import is_model, register_model
    from timm.models.vision_transformer import _create_vision_transformer

    if is_model("vit_tiny_patch8_siglip_32"):
        return

    def vit_tiny_patch8_siglip_32(pretrained: bool = False, **options: Any):
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "class_token": False,
                 "global_pool": "map", "act_layer": "gelu_tanh"}  # fmt: skip
        return _create_vision_transformer(
            "vit_tiny_patch8_siglip_32", pretrained=pretrained, **{**small, **options}
        )

    vit_tiny_patch8_siglip_32.__module__ = "timm.models.vision_transformer"
    register_model(vit_tiny_patch8_siglip_32)
