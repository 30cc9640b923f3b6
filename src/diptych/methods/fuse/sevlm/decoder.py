"""The decoder's transformer: that of a given language model, with cross-attention to an image in every
block and two more rows in the word table.

Dimensions: D width, V words.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.fuse.sevlm.affect import SEGMENTS
from diptych.methods.language import language_of
from diptych.methods.make import Make
from diptych.methods.teacher import LentLM
from diptych.models.causal_lm import CausalLM
from diptych.models.pretrained.hf_lm import HFCausalLM
from diptych.towers.build import text_tower
from diptych.towers.text.text import TextTower

_NEW = (".cross.", ".norm_cross.")


def decoder_of(spec: str, make: Make, memory_width: int) -> tuple[TextTower, Tokenizer]:
    """Return the tower of a language model, as `methods.language.language_of` takes it, with new
    cross-attention, and its tokenizer.

    Raises InputError for a language model of transformers that is no GPT-2.
    """
    found, words = language_of(spec, make)
    lm: CausalLM = found.model.lm if isinstance(found, LentLM) else found
    if isinstance(lm, HFCausalLM):
        described, state = gpt2(lm, spec)
    else:
        described = dict(lm.tower.spec)
        state = dict(lm.tower.state_dict())
    V = state["table.weight"].shape[0]
    changed = {"cross": 0, "memory_width": memory_width, "vocab_size": V + SEGMENTS}
    tower: Any = text_tower({**described, **changed})
    with torch.no_grad():
        state["table.weight"] = torch.cat([state["table.weight"], tower.table.weight[V:]])
    missing, unexpected = tower.load_state_dict(state, strict=False)
    assert not unexpected, "cross-attention adds parameters and takes none away"
    assert all(any(part in name for part in _NEW) for name in missing), missing
    return tower, words


def gpt2(lm: HFCausalLM, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The spec and the state of the text tower that computes what a GPT-2 of transformers does.

    Raises InputError for another kind of language model, and for one with other attention.
    """
    config: Mapping[str, Any] = lm.plain
    kind = config["model_type"]
    whole = lm.tower.config
    if kind != "gpt2" or lm.head is not None:
        raise InputError(
            f"{name} is a {kind}; cross-attention is added to a GPT-2 with a tied table, tiny-lm or a RUN of "
            "language_model, so name one of these"
        )
    if not whole.scale_attn_weights or whole.scale_attn_by_inverse_layer_idx:
        raise InputError(f"{name} scales its attention by other rules than GPT-2; name another one")
    activations = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    if whole.activation_function not in activations:
        raise InputError(
            f"{name} has the activation {whole.activation_function}, GPT-2 gelu_new; name another one"
        )
    D = whole.n_embd
    described = {
        "name": "text",
        "vocab_size": whole.vocab_size,
        "context": whole.n_positions,
        "width": D,
        "depth": whole.n_layer,
        "heads": whole.n_head,
        "mlp_ratio": (whole.n_inner or 4 * D) / D,
        "activation": activations[whole.activation_function],
        "eps": whole.layer_norm_epsilon,
        "dropout": whole.resid_pdrop,
    }
    theirs = lm.tower.state_dict()
    state = {
        "table.weight": theirs["wte.weight"],
        "positions": theirs["wpe.weight"],
        "norm.weight": theirs["ln_f.weight"],
        "norm.bias": theirs["ln_f.bias"],
    }
    for layer in range(whole.n_layer):
        state |= _block(theirs, f"h.{layer}.", f"transformer.layers.{layer}.")
    return described, state


def _block(theirs: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The state of one block; GPT-2 keeps the transposed weights of linear layers, and q, k and v as
    one."""
    found: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        joined = theirs[f"{old}attn.c_attn.{part}"]
        for name, value in zip("qkv", joined.chunk(3, -1), strict=True):
            found[f"{new}attn.{name}.{part}"] = value.T.contiguous() if part == "weight" else value
        linear = {"attn.out": "attn.c_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
        for own, other in linear.items():
            value = theirs[f"{old}{other}.{part}"]
            found[f"{new}{own}.{part}"] = value.T.contiguous() if part == "weight" else value
        found[f"{new}norm1.{part}"] = theirs[f"{old}ln_1.{part}"]
        found[f"{new}norm2.{part}"] = theirs[f"{old}ln_2.{part}"]
    return found
