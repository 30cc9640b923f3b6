"""Tiny models of open_clip, registered by their configs, with stirred weights on disk."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import tiny

VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def configs(t5: Path, bert: Path) -> dict[str, dict[str, Any]]:
    """One config for each kind of model that is rebuilt, in open_clip's own words."""
    return {
        "nano": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
        "nano-quickgelu": {
            "embed_dim": 24,
            "vision_cfg": VISION,
            "text_cfg": TEXT,
            "quick_gelu": True,
        },
        "nano-large": {
            "embed_dim": 24,
            "vision_cfg": {**VISION, "image_size": 64},
            "text_cfg": TEXT,
        },
        "nano-scaled": {
            "embed_dim": 24,
            "custom_text": True,
            "vision_cfg": {**VISION, "ls_init_value": 0.1, "mlp_ratio": 3.3},
            "text_cfg": {**TEXT, "ls_init_value": 0.1},
        },
        "nano-clipa": {
            "embed_dim": 24,
            "vision_cfg": {
                **VISION,
                "no_ln_pre": True,
                "pool_type": "avg",
                "final_ln_after_pool": True,
            },
            "text_cfg": {
                **TEXT,
                "context_length": 32,
                "vocab_size": 40,
                "hf_tokenizer_name": str(bert),
                "tokenizer_kwargs": {"strip_sep_token": True},
                "pool_type": "last",
                "no_causal_mask": True,
            },
        },
        "nano-siglip": {
            "embed_dim": 48,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {
                "image_size": 32,
                "timm_model_name": "vit_nano_siglip",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                "context_length": 64,
                "vocab_size": 200,
                "hf_tokenizer_name": str(t5),
                "width": 48,
                "heads": 3,
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "layers": 2,
                "no_causal_mask": True,
                "proj_bias": True,
                "pool_type": "last",
                "norm_kwargs": {"eps": 1e-6},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
    }


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one folder a model: weights.pt, and the tokenizer where the model has its
    own."""
    import open_clip
    from timm.models import is_model, register_model
    from timm.models.vision_transformer import _create_vision_transformer

    if not is_model("vit_nano_siglip"):

        def vit_nano_siglip(pretrained: bool = False, **options: Any):
            small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 3,
                     "class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"}  # fmt: skip
            return _create_vision_transformer(
                "vit_nano_siglip", pretrained=pretrained, **{**small, **options}
            )

        vit_nano_siglip.__module__ = "timm.models.vision_transformer"
        register_model(vit_nano_siglip)

    root = tmp_path_factory.mktemp("nano")
    for name, make in (("t5", tiny.t5_like), ("bert", tiny.bert_like)):
        (root / name).mkdir()
        make(root / name)
    for name, config in configs(root / "t5", root / "bert").items():
        (root / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(root)
    for name in configs(root, root):
        (root / name).mkdir()
        if name.endswith(("-siglip", "-clipa")):
            own = root / ("t5" if name == "nano-siglip" else "bert")
            shutil.copytree(own, root / name, dirs_exist_ok=True)
        if name != "nano-large":
            model = open_clip.create_model(name, pretrained_text=False)
            torch.save(tiny.stir(model).state_dict(), root / name / "weights.pt")
    return root


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of transformers."""
    tiny.clip_like(folder := tmp_path_factory.mktemp("clip"))
    return folder


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP of transformers."""
    tiny.siglip_like(folder := tmp_path_factory.mktemp("siglip"))
    return folder
