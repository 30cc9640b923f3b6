"""Models in other libraries' formats: equal embeddings through their own full path, round trips,
refusals."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from tests.models.export.models import BPE, CLIP, SIGLIP, VIT, WORDS, bpe, make, siglip_words
from tests.models.pretrained.tiny import siglip_spm
from transformers import CLIPConfig, CLIPModel

from diptych.data.tokenizers import Clip, SentencePiece, from_folder, pad_batch
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models import export as room
from diptych.models.export import LIMIT, TEXTS, export, random_images
from diptych.models.export._common import rust
from diptych.models.model import Model
from diptych.models.precision import set_precision
from diptych.models.pretrained.convert import back, fill
from diptych.models.pretrained.openclip import describe

QUICK = {"activation": "quick_gelu"}
MODELS: dict[str, Any] = {
    "own words": lambda: make(CLIP, WORDS, BPE),
    "clip's words": lambda: make(
        {**CLIP, **QUICK, "patch_bias": False, "cls_position": True}, {**WORDS, **QUICK}, Clip()
    ),
    "odd": lambda: make(
        {
            **VIT,
            "pooling": "mean",
            "norm_after_pool": True,
            "layer_scale": 0.1,
            "mlp_ratio": 3.3,
            "heads": 2,
        },
        {
            **WORDS,
            "causal": False,
            "layer_scale": 0.2,
            "activation": "gelu_tanh",
            "pooling": "first",
        },
        bpe(padding="max"),
        text_projection="affine",
    ),
    "siglip": lambda: make(
        SIGLIP,
        siglip_words(),
        bpe(padding="max"),
        64,
        logit_bias=-9.0,
        image_projection="none",
        text_projection="affine",
    ),
    "conv": lambda: make(
        {"name": "conv", "image_size": 32, "widths": (16, 32), "depths": (1, 1)},
        {**siglip_words(), "depth": 1},
        bpe(padding="max"),
        logit_bias=-9.0,
    ),
}
HOLDS = {
    "hf": ["own words", "clip's words", "siglip"],
    "sentence-transformers": ["own words", "clip's words", "siglip"],
    "openclip": ["own words", "clip's words", "odd", "siglip"],
    "onnx": ["conv"],  # "own words" below
}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("target", "name"), [(target, name) for target, names in HOLDS.items() for name in names]
)
def test_the_other_library_embeds_alike(target: str, name: str, tmp_path: Path, small_siglip: None):
    """RELIABILITY 23."""
    model = MODELS[name]()
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    report = export(model, target, tmp_path / "a" / "out")
    assert max(report.images, report.texts) <= LIMIT
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "out"]
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())
    images, texts = room._target(target).embed(report.folder, random_images(32), TEXTS)
    assert float((images - model.embed_images(random_images(32))).abs().max()) == report.images
    assert float((texts - model.embed_texts(TEXTS)).abs().max()) == report.texts
    assert len({tuple(row) for row in np.round(texts.numpy(), 4)}) == len(
        TEXTS
    )  # nothing collapsed into agreement


BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 24}  # fmt: skip
TEXTS_ALONE: dict[str, Any] = {
    "causal": lambda: make(None, {**WORDS, **QUICK}, BPE),
    "affine": lambda: make(
        None, {**WORDS, "causal": False, "pooling": "mean"}, BPE, text_projection="affine"
    ),
    "first": lambda: make(
        None, {**WORDS, "causal": False, "pooling": "first"}, BPE, 32, text_projection="none"
    ),
    "bert": lambda: make(None, {"name": "hf", "config": BERT}, BPE, 32, text_projection="none"),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", TEXTS_ALONE)
def test_texts_alone_become_modules_of_sentence_transformers(name: str, tmp_path: Path):
    model = TEXTS_ALONE[name]()
    report = export(model, "sentence-transformers", tmp_path / "out")
    assert report.images is None
    assert report.texts <= LIMIT
    [vectors] = room._target("sentence-transformers").embed(report.folder, [], TEXTS)
    torch.testing.assert_close(vectors, model.embed_texts(TEXTS), atol=LIMIT, rtol=0)
    assert len({tuple(row) for row in np.round(vectors.numpy(), 4)}) == len(TEXTS)
    listed = [each["type"] for each in json.loads((tmp_path / "out" / "modules.json").read_text())]
    dense = [] if name in ("first", "bert") else ["Dense"]
    kinds = ["Transformer", "Pooling", *dense, "Normalize"]
    assert listed == [f"sentence_transformers.models.{kind}" for kind in kinds]


@pytest.mark.parametrize(
    ("text", "dual", "words"),
    [
        ({"layer_scale": 0.1}, {}, "its text tower has layer_scale=0.1 (wanted: None)"),
        ({"positions": "sinusoidal"}, {}, "has positions='sinusoidal' (wanted: None or 'learned')"),
        ({"scale_embedding": True}, {}, "has scale_embedding=True (wanted: None or False)"),
        (
            {"name": "hf", "config": BERT, "causal": False},
            {},
            "its text tower has causal=False (wanted: True)",
        ),
        ({}, {"text_projection": "mlp"}, "it has text_projection='mlp' (wanted: a linear one)"),
    ],
)
def test_texts_alone_that_do_not_fit_are_named(text: Any, dual: Any, words: str, tmp_path: Path):
    model = make(None, text if "name" in text else {**WORDS, **text}, BPE, **dual)
    with pytest.raises(InputError, match="sentence-transformers cannot hold tiny") as caught:
        export(model, "sentence-transformers", tmp_path / "out")
    assert words in str(caught.value)
    assert "no other target can either" in str(caught.value)


@pytest.mark.parametrize("target", ["hf", "openclip"])
def test_activations_that_other_libraries_lack_are_named(target: str, tmp_path: Path):
    for side, activation in (("image", "swiglu"), ("text", "relu")):
        towers = {
            "image": {"name": "vit", "image_size": 32, "patch": 16, "width": 32, "depth": 1, "heads": 2,
                      "pre_norm": True},
            "text": WORDS,
        }  # fmt: skip
        towers[side] = {**towers[side], "activation": activation}
        with pytest.raises(InputError, match=f"its {side} tower has activation='{activation}'"):
            export(make(towers["image"], towers["text"], BPE), target, tmp_path / "out")


def test_other_targets_hold_no_texts_alone(tmp_path: Path):
    for target in ("hf", "onnx", "openclip"):
        with pytest.raises(InputError, match="it embeds texts alone; sentence-transformers can"):
            export(TEXTS_ALONE["causal"](), target, tmp_path / "out")


@pytest.mark.parity
@pytest.mark.parametrize("name", ["own words", "clip's words", "siglip"])
def test_an_hf_folder_loads_again_and_embeds_alike(name: str, tmp_path: Path):
    model = MODELS[name]()
    folder = export(model, "hf", tmp_path / "out").folder
    again = load(f"hf:{folder}")
    torch.testing.assert_close(
        again.embed_images(random_images(32)),
        model.embed_images(random_images(32)),
        atol=LIMIT,
        rtol=0,
    )
    torch.testing.assert_close(
        again.embed_texts(TEXTS), model.embed_texts(TEXTS), atol=LIMIT, rtol=0
    )
    export(again, "hf", tmp_path / "twice")
    first, second = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "twice"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(again.encoder.logit_scale(), model.encoder.logit_scale())


@pytest.mark.parity
def test_transformers_own_weights_come_back_bit_equal(tmp_path: Path):
    small = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 100,
    }
    config = CLIPConfig(
        text_config={**small, "vocab_size": 49408},
        projection_dim=20,
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path / "theirs")
    export(load(f"hf:{tmp_path / 'theirs'}"), "hf", tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert {key for key in theirs if "position_ids" not in key} == ours.keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())


@pytest.mark.parity
@pytest.mark.parametrize("name", ["own words", "odd", "siglip"])
def test_an_open_clip_config_describes_the_towers_that_it_was_made_from(
    name: str, tmp_path: Path, small_siglip: None
):
    model = MODELS[name]()
    folder = export(model, "openclip", tmp_path / "out").folder
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    dual, rules = describe(config, "out")
    dual["image"]["preprocess"] = model.preprocess.to_dict()
    state = load_file(folder / "open_clip_model.safetensors")
    kept = {key: value.clone() for key, value in state.items()}
    encoder = fill(dual, state, rules, "out")
    torch.testing.assert_close(
        Model(encoder, model.tokenizer, model.preprocess, name="out").embed_texts(TEXTS),
        model.embed_texts(TEXTS),
        atol=LIMIT,
        rtol=0,
    )
    again = back(encoder.state_dict(), kept, rules)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[key], value) for key, value in kept.items())


@pytest.mark.parity
def test_graphs_take_any_batch_and_length_and_need_only_onnxruntime(tmp_path: Path):
    import onnxruntime
    from tokenizers import Tokenizer

    model = make(
        {**CLIP, "depth": 1}, {**WORDS, "depth": 1}, BPE
    )  # the exporter's time grows with depth
    set_precision(model, "float32")  # as `load` does: q, k and v lie in one storage
    report = export(model, "onnx", tmp_path / "out")
    assert 0 < max(report.images, report.texts) <= LIMIT
    folder = report.folder
    session = onnxruntime.InferenceSession(str(folder / "text.onnx"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for texts in (["a red cat"], ["a", "two dogs " * 40, ""], ["a red cat sits"] * 7):
        encoded = tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encoded])
        lengths = np.array([sum(e.attention_mask) for e in encoded])
        assert torch.equal(
            torch.from_numpy(ids), pad_batch(model.tokenizer.encode(texts), model.tokenizer)[0]
        )
        [vectors] = session.run(None, {"ids": ids, "lengths": lengths})
        np.testing.assert_allclose(vectors, model.embed_texts(texts), atol=LIMIT)
    session = onnxruntime.InferenceSession(str(folder / "image.onnx"))
    pixels = torch.stack([model.preprocess(image) for image in random_images(32) * 2])
    [vectors] = session.run(None, {"pixels": pixels.numpy()})
    np.testing.assert_allclose(vectors, model.embed_images(pixels), atol=LIMIT)
    stored = json.loads((folder / "diptych.json").read_text())
    assert stored["identity"] == model.identity
    assert stored["preprocess"] == model.preprocess.to_dict()
    assert stored["logit_scale"] == pytest.approx(float(model.encoder.logit_scale().detach()))


@pytest.mark.parity
def test_exported_program_and_eager_agree(tmp_path: Path):
    """RELIABILITY 23: eager against torch.export, on sizes other than those traced."""
    from diptych.models.export.onnx import TextGraph

    model = MODELS["own words"]()
    ids, lengths = pad_batch(model.tokenizer.encode(["two dogs", "a"]), model.tokenizer)
    batch, length = (
        torch.export.Dim("batch"),
        torch.export.Dim("length", max=model.tokenizer.context),
    )
    program = torch.export.export(
        TextGraph(model.encoder), (ids, lengths), dynamic_shapes=({0: batch, 1: length}, {0: batch})
    )
    rows = pad_batch(model.tokenizer.encode(TEXTS), model.tokenizer)
    torch.testing.assert_close(
        program.module()(*rows), model.encoder.embed_texts(*rows), atol=1e-6, rtol=0
    )


@pytest.mark.parity
def test_clips_rust_pipeline_gives_our_ids():
    ours = Clip()
    assert [rust(ours).encode(text).ids for text in TEXTS[:-1]] == ours.encode(TEXTS[:-1])


@pytest.mark.parity
def test_sentencepiece_goes_into_an_hf_folder_and_comes_back(tmp_path: Path):
    tokenizer = SentencePiece(siglip_spm(tmp_path).read_bytes(), context=16, pad=1, eos=1)
    model = make(
        SIGLIP,
        siglip_words(),
        tokenizer,
        64,
        logit_bias=-9.0,
        image_projection="none",
        text_projection="affine",
    )
    report = export(model, "hf", tmp_path / "out")
    assert max(report.images, report.texts) <= LIMIT
    assert load(f"hf:{tmp_path / 'out'}").tokenizer == tokenizer


def test_a_swapped_end_is_the_highest_id_in_an_hf_folder(tmp_path: Path):
    model = MODELS["own words"]()
    folder = export(model, "hf", tmp_path / "out").folder
    config = json.loads((folder / "config.json").read_text())["text_config"]
    tokenizer = from_folder(folder, context=24)
    assert config["eos_token_id"] == tokenizer.eot == model.tokenizer.vocab_size - 1
    assert model.tokenizer.eot == 2
    assert tokenizer.encode(["a red cat"])[0][:-1] == model.tokenizer.encode(["a red cat"])[0][:-1]


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("conv", "hf", "its image tower has name='conv' (wanted: 'vit'); onnx can"),
        ("conv", "openclip", "its image tower has name='conv' (wanted: 'vit'); onnx can"),
        ("odd", "hf", "its image tower has layer_scale=0.1 (wanted: None); onnx and openclip can"),
        (
            "siglip",
            "openclip",
            "timm names no SigLIP tower of its size; hf, onnx and sentence-transformers can",
        ),
        ("odd", "sentence-transformers", "layer_scale=0.1 (wanted: None); onnx and openclip can"),
    ],
)
def test_what_does_not_fit_is_named_with_the_targets_that_can(
    name: str, target: str, words: str, tmp_path: Path
):
    model = MODELS[name]()
    if name == "siglip":
        heads = {"image_projection": "none", "text_projection": "affine"}
        model = make(
            {**SIGLIP, "depth": 1}, siglip_words(), bpe(padding="max"), 64, logit_bias=-9.0, **heads
        )
    with pytest.raises(InputError, match=r"cannot hold tiny: ") as caught:
        export(model, target, tmp_path / "out")
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_difference_above_the_limit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def wrong(*parts: Any) -> dict[str, torch.Tensor]:
        state = back(*parts)
        state["text_projection.weight"][0] *= 1.01
        return state

    monkeypatch.setattr("diptych.models.export.hf.back", wrong)
    with pytest.raises(
        InputError,
        match=r"embeddings of texts by hf differ from those of tiny by .*; nothing was kept",
    ):
        export(MODELS["own words"](), "hf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diptych.models.export.hf.back", full)
    with pytest.raises(InputError, match="no space left to write"):
        export(MODELS["own words"](), "hf", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = MODELS["own words"]()
    with pytest.raises(InputError, match="unknown target 'onx'; did you mean 'onnx'"):
        export(model, "onx", tmp_path / "out")
    with pytest.raises(InputError, match="exists already; name a new folder"):
        export(model, "onnx", tmp_path)
    with pytest.raises(InputError, match="came without a tokenizer"):
        export(Model(model.encoder, None, model.preprocess, name="tiny"), "onnx", tmp_path / "out")
    half = MODELS["own words"]()
    half.precision = "bfloat16"
    with pytest.raises(InputError, match="tiny is on cpu in bfloat16; to export it"):
        export(half, "onnx", tmp_path / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"export to onnx needs onnx; pip install 'diptych\[export\]'"
    ):
        export(model, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_open_clip_is_told_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        export(MODELS["clip's words"](), "openclip", tmp_path / "out")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}").vocab_size == 49408
