"""Text encoders of transformers behind Encoded."""

import json
import sys

import pytest
import torch

from diptych.errors import InputError
from diptych.towers.build import text_tower

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
CONFIGS = {
    "bert": {**SIZES, "max_position_embeddings": 32},
    "roberta": {**SIZES, "max_position_embeddings": 40},
    "t5": {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16},
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tower_of(kind="bert", **options):
    options = {"vocab_size": 60, "pad": 1, **options}
    return text_tower(
        {"name": "hf", "config": {"model_type": kind, **CONFIGS[kind]}, **options}
    ).eval()


def texts(length=9):
    ids, lengths = torch.randint(3, 60, (3, length)), torch.tensor([5, 2, 4])
    ids[torch.arange(length) >= lengths[:, None]] = 1
    return ids, lengths


@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_are_those_of_transformers_itself(kind):
    tower, (ids, lengths) = tower_of(kind), texts()
    encoded = tower(ids, lengths)
    expected = tower.model(input_ids=ids, attention_mask=encoded.mask.long()).last_hidden_state
    torch.testing.assert_close(
        encoded.tokens[encoded.mask], expected[encoded.mask]
    )  # pads may differ
    mean = torch.stack([row[:n].mean(0) for row, n in zip(expected, lengths, strict=True)])
    torch.testing.assert_close(encoded.pooled, mean)
    assert encoded.pooled.shape == (3, tower.width)


def test_a_fresh_bert_is_named_by_its_sizes():
    sizes = "model_type=bert:width=32:depth=2:heads=2:dropout=0.2"
    tower = text_tower(f"hf:{sizes}:pooling=first", vocab_size=60, context=24, pad=1)
    held = tower.model.config
    assert (held.hidden_size, held.intermediate_size, held.num_hidden_layers) == (32, 128, 2)
    assert held.hidden_dropout_prob == held.attention_probs_dropout_prob == 0.2
    assert held.pad_token_id == 1
    again = text_tower(tower.spec)
    again.load_state_dict(tower.state_dict())
    ids, lengths = texts()
    torch.testing.assert_close(again.eval()(ids, lengths).pooled, tower.eval()(ids, lengths).pooled)
    assert again.spec == tower.spec
    assert "width" not in tower.spec


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pooling", ["mean", "first", "eot"])
def test_padding_and_the_rest_of_the_batch_change_nothing(kind, pooling):
    tower, (ids, lengths) = tower_of(kind, pooling=pooling), texts()
    whole = tower(ids, lengths).pooled
    torch.testing.assert_close(tower(ids[:, :5], lengths).pooled, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        tower(ids[1:2, :2], lengths[1:2]).pooled, whole[1:2], atol=1e-5, rtol=0
    )


def test_a_folder_gives_its_weights_and_the_spec_rebuilds_without_it(tmp_path):
    first = tower_of()
    first.model.save_pretrained(tmp_path)
    tower = text_tower(f"hf:{tmp_path}:pooling=first", vocab_size=60).eval()
    ids, lengths = texts()
    assert torch.equal(tower(ids, lengths).tokens, first(ids, lengths).tokens)
    assert str(tmp_path) not in str(tower.spec)
    again = text_tower(json.loads(json.dumps(tower.spec))).eval()
    assert again.spec == tower.spec
    again.load_state_dict(tower.state_dict())
    assert torch.equal(again(ids, lengths).pooled, tower(ids, lengths).pooled)


def test_a_folder_of_a_type_by_code_is_read_as_a_type_that_is_named(tmp_path):
    """As CXR-BERT is published: a BERT with heads, of a type that only code of its folder knows."""
    first = tower_of()
    transformers.BertForMaskedLM(first.model.config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    weights = {f"bert.{name}": value for name, value in first.model.state_dict().items()}
    weights |= {"cls_projection_head.dense.weight": torch.zeros(8, 32)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    file = tmp_path / "config.json"
    own = {"model_type": "cxr-bert", "projection_size": 8, "auto_map": {"AutoModel": "own.Model"}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}))
    (tmp_path / "own.py").write_text("raise RuntimeError('code of a folder was run')")
    with pytest.raises(InputError, match=r"'cxr-bert'.*is not run.*model_type=bert"):
        text_tower(f"hf:{tmp_path}", vocab_size=60)
    tower = text_tower(f"hf:{tmp_path}:model_type=bert:pooling=first", vocab_size=60).eval()
    ids, lengths = texts()
    assert torch.equal(tower(ids, lengths).tokens, first(ids, lengths).tokens)
    assert text_tower(tower.spec).spec == tower.spec
    with pytest.raises(InputError, match="model_type of transformers 'brt'"):
        text_tower(f"hf:{tmp_path}:model_type=brt", vocab_size=60)
    with pytest.raises(InputError, match="lacks the weights"):
        text_tower(f"hf:{tmp_path}:model_type=distilbert", vocab_size=60)
    file.write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        text_tower(f"hf:{tmp_path}:model_type=bert", vocab_size=60)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_parameter_gets_a_gradient(kind):
    """A pooler of the foreign model that nobody reads would stall gradient exchange between
    ranks."""
    tower, (ids, lengths) = tower_of(kind), texts()
    tower(ids, lengths).pooled.square().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


def test_an_edit_and_embeddings_reach_a_foreign_model():
    tower, (ids, lengths), seen = tower_of(), texts(), []

    def edit(layer, tokens):
        seen.append(layer)
        return tokens * 2 if layer == 1 else tokens

    plain = tower(ids, lengths).pooled
    assert not torch.allclose(tower(ids, lengths, edit=edit).pooled, plain)
    assert seen == [0, 1]
    torch.testing.assert_close(tower(None, lengths, embeddings=tower.embed(ids)).pooled, plain)


def test_bad_input_names_thing_and_remedy(tmp_path, monkeypatch):
    ids, lengths = texts()
    for options, message in (
        ({"config": {"model_type": "brt"}}, "did you mean 'bert'"),
        ({"config": {"model_type": "vit"}}, "choose text tower text"),
        ({}, "either a folder"),
        ({"folder": str(tmp_path)}, "holds no config.json"),
        (
            {"config": {"model_type": "bert"}, "pooling": "cls"},
            "it must be first or eot or mean or last",
        ),
    ):
        with pytest.raises(InputError, match=message):
            text_tower({"name": "hf", **options}, vocab_size=60)
    with pytest.raises(InputError, match="knows 60 tokens, its tokenizer gives 61"):
        text_tower(
            {"name": "hf", "config": {"model_type": "bert", **CONFIGS["bert"], "vocab_size": 60}},
            vocab_size=61,
        )
    with pytest.raises(InputError, match="no memory"):
        tower_of()(ids, lengths, memory=torch.zeros(3, 1, 32))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'diptych\[language\]'"):
        tower_of()
