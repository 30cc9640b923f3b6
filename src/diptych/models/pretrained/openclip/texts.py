"""Text towers of transformers in open_clip's models: their configs, which are on the hub, and their
poolers and projections."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.errors import InputError, brief

_ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
_XLM_R = {**_ROBERTA, "model_type": "xlm-roberta", "vocab_size": 250002}
_MT5 = {"model_type": "mt5", "vocab_size": 250112, "d_kv": 64, "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
_NLLB = {"model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "max_position_embeddings": 1024,
         "scale_embedding": True, "activation_function": "relu", "pad_token_id": 1, "bos_token_id": 0,
         "eos_token_id": 2, "encoder_attention_heads": 16, "decoder_attention_heads": 16}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA,
    "xlm-roberta-base": _XLM_R,
    "xlm-roberta-large": {
        **_XLM_R,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "google/mt5-base": {**_MT5, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": {**_MT5, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": {**_NLLB, "encoder_layers": 12, "encoder_ffn_dim": 4096},
    "facebook/nllb-200-distilled-1.3B": {**_NLLB, "encoder_layers": 24, "encoder_ffn_dim": 8192},
}
"""config.json of the repositories that open_clip's own configurations name
(https://huggingface.co/NAME/blob/main/config.json), without what is transformers' default. The models
that they make have the parameters of open_clip's docs/model_profile.csv."""

PROJECTIONS = {"linear": "linear", "mlp": "mlp:hidden=mean:norm=none:activation=gelu", None: "fit"}
"""open_clip's `hf_proj_type` as heads of ours."""


def hf_text(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The spec of a text tower of transformers; pads are masked, so texts are padded to the
    longest.

    Raises InputError for a pooler that the tower lacks, and for a config that cannot be read.
    """
    from open_clip.model import CLIPTextCfg

    full = CLIPTextCfg(**cfg)
    config = _config(str(full.hf_model_name), where)
    pooler = full.hf_pooler_type or "mean_pooler"
    poolings = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "first"}
    if config.is_encoder_decoder:  # its encoder has no pooling layer, only the first token
        poolings["cls_pooler"] = "first"
    if pooler not in poolings:
        raise InputError(
            f"{where} is not supported: its text tower pools by {pooler}; {' and '.join(poolings)} are"
        )
    return {
        "name": "hf",
        "config": {**config.to_diff_dict(), "model_type": config.model_type},
        "pooling": poolings[pooler],
        "padding": "longest",
        "vocab_size": config.vocab_size,
        "context": full.context_length,
    }


def _config(name: str, where: str) -> Any:
    """transformers' config of a name in the table, of a folder, or of a repository."""
    try:
        from transformers import AutoConfig
    except ImportError:
        raise InputError(
            f"the text tower of {where} needs transformers; pip install 'diptych[language]'"
        ) from None
    if name in CONFIGS:
        return AutoConfig.for_model(**CONFIGS[name])
    try:
        return AutoConfig.from_pretrained(
            name, local_files_only=Path(name).is_dir(), trust_remote_code=False
        )
    except Exception as error:  # the network and transformers' validation raise many kinds
        raise InputError(
            f"the config of {name}, the text tower of {where}, cannot be read ({brief(error)}); fetch "
            "it elsewhere and name its folder as hf_model_name"
        ) from error
