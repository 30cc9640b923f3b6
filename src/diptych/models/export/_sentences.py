"""Encoders of texts alone as modules of sentence-transformers: Transformer, Pooling, Dense,
Normalize.

Our own text tower becomes transformers' MegatronBertModel, the same pre-norm blocks; a tower of
transformers stays what it is.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diptych.data.tokenizers.hf import quiet
from diptych.models.export import _common as common
from diptych.models.export.hf import NAMES
from diptych.models.model import TextModel
from diptych.models.pretrained.convert import Rule, back, under
from diptych.models.pretrained.hf_families import W

POOLING = {"mean": "mean_tokens", "first": "cls_token", "eot": "lasttoken"}
OWN = {
    "name": ["text"],
    "cross": [None],
    "layer_scale": [None],
    "padding": ["longest"],
    "pooling": list(POOLING),
    "activation": list(NAMES),
}
FOREIGN = {"name": ["hf"], "causal": [True], "padding": ["longest"], "pooling": list(POOLING)}

BLOCK = [
    Rule(rf"attention\.ln\.{W}", (r"norm1.\g<w>",)),
    Rule(rf"attention\.self\.(?P<part>[qkv])(uery|ey|alue)\.{W}", (r"attn.\g<part>.\g<w>",)),
    Rule(rf"attention\.output\.dense\.{W}", (r"attn.out.\g<w>",)),
    Rule(rf"ln\.{W}", (r"norm2.\g<w>",)),
    Rule(rf"intermediate\.dense\.{W}", (r"mlp.fc1.\g<w>",)),
    Rule(rf"output\.dense\.{W}", (r"mlp.fc2.\g<w>",)),
]
RULES = [
    *under(r"encoder\.layer\.(?P<layer>\d+)\.", r"transformer.layers.\g<layer>.", BLOCK),
    Rule(r"embeddings\.word_embeddings\.weight", ("table.weight",)),
    Rule(r"embeddings\.position_embeddings\.weight", ("positions",)),
    Rule(rf"encoder\.ln\.{W}", (r"norm.\g<w>",)),
    Rule(r"embeddings\.token_type_embeddings\.weight"),  # zeros
]


def misfit(model: TextModel) -> str | None:
    """Why these modules do not compute what this model does, or None."""
    config = model.encoder.config()
    spec = config["text"]
    foreign = spec["name"] == "hf"
    if problem := common.differs(spec, FOREIGN if foreign else OWN, "text"):
        return problem
    if foreign and not _is_whole(model.encoder.text):
        return "its text tower is the encoder of an encoder-decoder"
    if config["text_projection"] not in ("none", "linear", "affine"):
        return f"it has text_projection={config['text_projection']!r} (wanted: a linear one)"
    clean = getattr(model.tokenizer, "clean", None)
    return None if clean is None else f"its tokenizer cleans texts first (clean={clean!r})"


def _is_whole(tower: Any) -> bool:
    """Whether a tower of transformers is all that AutoModel makes of its config."""
    from transformers import AutoModel

    with torch.device("meta"):
        return type(AutoModel.from_config(tower.model.config)) is type(tower.model)


def write(model: TextModel, folder: Path) -> list[tuple[str, str]]:
    """Write the modules' folders, and return their names and types."""
    tokenizer = common.tokenizer_of(model)
    tower: Any = model.encoder.text
    modules = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    place = folder / "0_Transformer"
    place.mkdir()
    _transformer(tower, place)
    common.write_tokenizer(tokenizer, place)
    limits = {"max_seq_length": tokenizer.context, "do_lower_case": False}
    common.write_json(place / "sentence_bert_config.json", limits)
    (folder / "1_Pooling").mkdir()
    chosen = {
        f"pooling_mode_{name}": name == POOLING[tower.config.pooling] for name in POOLING.values()
    }
    common.write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": tower.width, **chosen}
    )
    if model.encoder.config()["text_projection"] != "none":
        modules.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir()
        _dense(model.encoder.text_projection, folder / "2_Dense")
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    (folder / modules[-1][0]).mkdir()
    return modules


def _transformer(tower: Any, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    from transformers import AutoModel, MegatronBertConfig

    own = tower.kind == "text"
    with quiet():
        config = MegatronBertConfig(**_config(tower.spec)) if own else tower.model.config
        with torch.device("meta"):
            made = AutoModel.from_config(config)
        config.architectures = [type(made).__name__]
        config.save_pretrained(folder)
    wanted = made.state_dict()
    state = {name: value.detach().float() for name, value in tower.state_dict().items()}
    # AutoModel has parts that no embedding depends on, such as the pooler: they are zeros
    whole = {name: torch.zeros(value.shape) for name, value in wanted.items()}
    if own:
        kept = {name: value for name, value in wanted.items() if not name.startswith("pooler.")}
        whole |= back(state, kept, RULES)
    else:
        whole |= {name.removeprefix("model."): value.contiguous() for name, value in state.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def _config(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": spec["vocab_size"],
        "max_position_embeddings": spec["context"],
        "type_vocab_size": 1,
        "hidden_size": spec["width"],
        "num_hidden_layers": spec["depth"],
        "num_attention_heads": common.heads(spec),
        "intermediate_size": common.hidden(spec),
        "hidden_act": NAMES[spec["activation"]],
        "layer_norm_eps": spec["eps"],
        "hidden_dropout_prob": spec["dropout"],
        "attention_probs_dropout_prob": 0.0,
        "is_decoder": spec["causal"],
        "use_cache": False,
        "pad_token_id": None,
    }


def _dense(projection: Any, folder: Path) -> None:
    """Write a linear projection."""
    state: dict[str, Tensor] = {
        f"linear.{name}": value.detach().float() for name, value in projection.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    common.write_json(
        folder / "config.json",
        {
            "in_features": projection.in_features,
            "out_features": projection.out_features,
            "bias": projection.bias is not None,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
