"""The decoder of sevlm: given language models keep their function, and a GPT-2 is that of transformers,
with its cross-attention."""

import json

import pytest
import torch
from tests.factories import foreign_lm, small_make, tokenizer

from diptych.errors import InputError
from diptych.methods.fuse.sevlm.decoder import decoder_of
from diptych.methods.store import load
from diptych.models.causal_lm import CausalLM


def folder_of(place, **changed):
    """A random GPT-2 in a folder of transformers, with the words of the toy."""
    import transformers

    torch.manual_seed(0)
    words = tokenizer()
    config = transformers.GPT2Config(
        vocab_size=words.vocab_size, n_embd=32, n_layer=2, n_head=2, n_positions=48, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, **changed,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    (place / "tokenizer.json").write_text(words.pipeline)
    (place / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48})
    )
    return f"hf-lm:{place}"


@torch.no_grad()
def test_a_gpt2_computes_what_it_did(tmp_path):
    spec = folder_of(tmp_path / "gpt2")
    tower, words = decoder_of(spec, small_make(), 24)
    assert words.context == 48
    theirs = load(spec).lm
    own = CausalLM(tower).eval()
    ids = torch.randint(4, 300, (2, 9))
    hidden = own(ids)
    assert torch.allclose(hidden, theirs(ids), atol=1e-4)
    assert torch.allclose(own.logits(hidden)[..., :-2], theirs.logits(theirs(ids)), atol=1e-3)
    assert own.table.num_embeddings == theirs.table.num_embeddings + 2


@torch.no_grad()
def test_its_cross_attention_is_that_of_transformers(tmp_path):
    import transformers

    tower, _ = decoder_of(folder_of(tmp_path / "gpt2"), small_make(), 32)
    model: CausalLM = CausalLM(tower).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    config = transformers.GPT2Config(
        vocab_size=tower.config.vocab_size, n_embd=32, n_layer=2, n_head=2, n_positions=48, add_cross_attention=True
    )  # fmt: skip
    theirs = transformers.GPT2Model(config).eval()
    theirs.wte.weight.copy_(tower.table.weight)
    theirs.wpe.weight.copy_(tower.positions)
    theirs.ln_f.load_state_dict(tower.norm.state_dict())
    for block, own in zip(theirs.h, tower.transformer.layers, strict=True):
        block.ln_1.load_state_dict(own.norm1.state_dict())
        block.ln_2.load_state_dict(own.norm2.state_dict())
        block.ln_cross_attn.load_state_dict(own.norm_cross.state_dict())
        pairs = [
            (block.attn.c_attn, (own.attn.q, own.attn.k, own.attn.v)),
            (block.attn.c_proj, (own.attn.out,)),
            (block.crossattention.q_attn, (own.cross.q,)),
            (block.crossattention.c_attn, (own.cross.k, own.cross.v)),
            (block.crossattention.c_proj, (own.cross.out,)),
            (block.mlp.c_fc, (own.mlp.fc1,)),
            (block.mlp.c_proj, (own.mlp.fc2,)),
        ]
        for conv, linears in pairs:
            conv.weight.copy_(torch.cat([linear.weight for linear in linears]).T)
            conv.bias.copy_(torch.cat([linear.bias for linear in linears]))
    ids = torch.randint(4, 300, (2, 9))
    memory = torch.randn(2, 5, 32)
    expected = theirs(input_ids=ids, encoder_hidden_states=memory).last_hidden_state
    assert torch.allclose(model(ids, memory=memory), expected, atol=1e-4)


@torch.no_grad()
def test_our_language_models_keep_their_function():
    tower, words = decoder_of("tiny-lm", small_make(), 24)
    given = load("tiny-lm")
    assert words == given.tokenizer
    ids = torch.randint(4, 300, (2, 9))
    own = CausalLM(tower).eval()
    assert torch.allclose(own(ids), given.lm(ids), atol=1e-5)
    read = own(ids, memory=torch.randn(2, 3, 24))
    assert not torch.allclose(read, given.lm(ids), atol=1e-3)


def test_other_language_models_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a llama; cross-attention is added to a GPT-2"):
        decoder_of(foreign_lm(tmp_path / "llama", tokenizer()), small_make(), 24)
    other = folder_of(tmp_path / "scaled", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(InputError, match="scales its attention by other rules"):
        decoder_of(other, small_make(), 24)
    silu = folder_of(tmp_path / "silu", activation_function="silu")
    with pytest.raises(InputError, match="the activation silu, GPT-2 gelu_new"):
        decoder_of(silu, small_make(), 24)
