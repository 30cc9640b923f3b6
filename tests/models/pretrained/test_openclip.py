"""open_clip's models in our towers: equal embeddings through the full path, and refusals that say
what is wrong."""

import json
import logging
import shutil
from pathlib import Path

import open_clip
import pytest
import tiny
import torch
from safetensors.torch import save_file

from diptych.data.tokenizers.hf import FILES
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.pretrained.openclip import _tag

KINDS = ["nano", "nano-quickgelu", "nano-scaled", "nano-clipa", "nano-siglip"]


def theirs(name: str, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the images and texts by open_clip itself, from PIL and strings."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(path))
    model.eval()
    pixels = torch.stack([preprocess(image) for image in tiny.images()])
    texts = open_clip.get_tokenizer(name)(tiny.TEXTS)
    return tiny.unit(model.encode_image(pixels)), tiny.unit(model.encode_text(texts))


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parity
@pytest.mark.parametrize("name", KINDS)
def test_embeddings_equal_open_clips_from_images_and_strings(name: str, nano: Path):
    ours = load(f"openclip:{name}", weights=nano / name / "weights.pt")
    images, texts = theirs(name, nano / name / "weights.pt")
    assert_close(ours.embed_images(tiny.images()), images)
    assert_close(ours.embed_texts(tiny.TEXTS), texts)
    state = torch.load(nano / name / "weights.pt", weights_only=True)
    assert_close(ours.encoder.logit_scale(), state["logit_scale"].exp())
    assert (ours.encoder.logit_bias is None) == ("logit_bias" not in state)
    if ours.encoder.logit_bias is not None:
        assert_close(ours.encoder.logit_bias, state["logit_bias"])


@pytest.mark.parity
def test_safetensors_half_precision_and_training_checkpoints_load_as_well(
    nano: Path, tmp_path: Path
):
    state = torch.load(nano / "nano" / "weights.pt", weights_only=True)
    expected = load("openclip:nano", weights=nano / "nano" / "weights.pt").embed_texts(tiny.TEXTS)
    save_file(state, tmp_path / "a.safetensors")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}},
        tmp_path / "b.pt",
    )
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt", "c.bin"):
        assert torch.equal(
            load("openclip:nano", weights=tmp_path / name).embed_texts(tiny.TEXTS), expected
        )
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "d.safetensors")
    half = load("openclip:nano", weights=tmp_path / "d.safetensors")
    assert {value.dtype for value in half.encoder.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(half.embed_texts(tiny.TEXTS), expected, atol=2e-3, rtol=0)


@pytest.mark.parity
def test_without_a_tag_preprocessing_is_that_of_create_model_and_transforms(nano: Path):
    ours = load("openclip:nano-siglip", weights=nano / "nano-siglip" / "weights.pt").preprocess
    _, _, preprocess = open_clip.create_model_and_transforms("nano-siglip", pretrained_text=False)
    for image in tiny.images():
        pixels = (ours(image).float() / 255 - torch.tensor(ours.mean).view(3, 1, 1)) / torch.tensor(
            ours.std
        ).view(3, 1, 1)
        assert_close(pixels, preprocess(image))


def tagged(monkeypatch: pytest.MonkeyPatch, name: str, tag: str, **more) -> None:
    from open_clip.pretrained import _PRETRAINED, _pcfg

    monkeypatch.setitem(
        _PRETRAINED, name, {**_PRETRAINED.get(name, {}), tag: _pcfg(hf_hub="nobody/nano/", **more)}
    )


def test_a_tag_gives_its_preprocessing(nano: Path, monkeypatch: pytest.MonkeyPatch):
    tagged(
        monkeypatch,
        "nano",
        "web",
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        interpolation="bilinear",
        resize_mode="squash",
    )
    model = load("openclip:nano/web", weights=nano / "nano" / "weights.pt")
    found = model.preprocess
    assert (found.mean, found.std, found.interpolation, found.resize) == (
        (0.5,) * 3,
        (0.25,) * 3,
        "bilinear",
        "squash",
    )
    assert model.name == "openclip:nano/web"
    assert_close(
        model.encoder.image.pixels(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)),
        torch.full((1, 3, 1, 1), 2.0),
    )


def test_a_real_tag_is_read_from_open_clips_registry():
    config = open_clip.get_model_config("ViT-B-32")
    assert _tag(open_clip, "ViT-B-32", "laion2b_s34b_b79k", config)["hf_hub"].startswith(
        "laion/CLIP-ViT-B-32"
    )


# RELIABILITY 22, complaint 13
def test_a_tag_trained_with_another_activation_is_refused_and_the_right_name_told(nano: Path):
    for spec, right in [
        ("ViT-B-32/openai", "ViT-B-32-quickgelu/openai"),
        ("ViT-B-32-quickgelu/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
    ]:
        with pytest.raises(InputError, match=f"QuickGELU.*use openclip:{right}"):
            load(f"openclip:{spec}", weights=nano / "nano" / "weights.pt")


def test_the_activation_is_the_names(nano: Path):
    path = nano / "nano" / "weights.pt"
    a, b = (
        load(f"openclip:{name}", weights=path).embed_texts(["a cat"])
        for name in ("nano", "nano-quickgelu")
    )
    assert (a - b).abs().max() > 1e-4


def test_a_folders_own_config_must_describe_the_model(nano: Path, tmp_path: Path):
    shutil.copy(nano / "nano" / "weights.pt", tmp_path / "open_clip_pytorch_model.bin")
    reported = {
        "model_cfg": open_clip.get_model_config("nano"),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(reported))
    assert load("openclip:nano", weights=tmp_path).preprocess.mean == (0.5, 0.5, 0.5)
    with pytest.raises(InputError, match="quick_gelu differs"):
        load("openclip:nano-quickgelu", weights=tmp_path)
    with pytest.raises(InputError, match=r"vision_cfg.image_size differs"):
        load("openclip:nano-large", weights=tmp_path)


def test_a_tag_and_a_folder_that_disagree_on_mean_and_std_are_refused(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tagged(monkeypatch, "nano", "web")
    shutil.copy(nano / "nano" / "weights.pt", tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"preprocess_cfg": {"mean": [0.5] * 3}})
    )
    with pytest.raises(InputError, match="has mean"):
        load("openclip:nano/web", weights=tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openclip:ViT-B-33", "did you mean 'ViT-B-32'"),
        ("openclip:ViT-B-32/laion2b_s34b_b79", "did you mean 'laion2b_s34b_b79k'"),
        ("openclip:nano", "write openclip:nano/TAG .* --weights FILE"),
        ("openclip:RN50/yfcc15m", "use openclip:RN50-quickgelu/yfcc15m"),
    ],
)
def test_unknown_names_and_tags_are_one_line_errors(spec: str, message: str, nano: Path):
    with pytest.raises(InputError, match=message) as error:
        load(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("vision_cfg", {"layers": [1, 1, 1, 1]}, "no ResNet of timm has its layers"),
        ("vision_cfg", {"qk_norm": True}, "its image tower has qk_norm=True"),
        ("vision_cfg", {"pool_type": "none"}, "does not pool one vector"),
        ("vision_cfg", {"timm_model_name": "vit_none"}, "has no model vit_none; update timm"),
        ("vision_cfg", {"timm_model_name": "resnet18", "timm_pool": "rot_attn"}, "pools by rot_attn"),
        ("text_cfg", {"pool_type": "none"}, "pools no token"),
        ("text_cfg", {"hf_model_name": "roberta-base", "hf_pooler_type": "max_pooler"}, "pools by max_pooler"),
        ("text_cfg", {"hf_model_name": "no/such folder"}, "the config of no/such folder"),
    ],
)  # fmt: skip
def test_what_no_tower_computes_is_refused_by_name(
    part: str, change: dict, words: str, nano: Path, monkeypatch: pytest.MonkeyPatch
):
    config = open_clip.get_model_config("nano")
    config[part] |= change
    monkeypatch.setattr("open_clip.get_model_config", lambda name: config)
    with pytest.raises(InputError, match=r"openclip:nano\b") as error:
        load("openclip:nano", weights=nano / "nano" / "weights.pt")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_fetched_are_one_line_that_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object, **__: object) -> str:
        raise FileNotFoundError("no\nnetwork")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    with pytest.raises(InputError, match=r"laion/.*no network.*--weights FILE") as error:
        load("openclip:ViT-B-32/laion2b_s34b_b79k")
    assert "\n" not in str(error.value)


# RELIABILITY 21
def test_weights_of_another_shape_name_size_or_type_are_named(nano: Path, tmp_path: Path):
    def attempt(name: str = "nano", **changes: torch.Tensor | None) -> str:
        state = torch.load(nano / "nano" / "weights.pt", weights_only=True)
        state.update({key.replace("__", "."): value for key, value in changes.items()})
        save_file(
            {key: value for key, value in state.items() if value is not None},
            tmp_path / "w.safetensors",
        )
        with pytest.raises(InputError) as error:
            load(f"openclip:{name}", weights=tmp_path / "w.safetensors")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert (
        "visual.positional_embedding of shape 5x64 where 17x64 is expected (trained on"
        in attempt("nano-large")
    )
    assert "has ln_final.weight of shape 9 where 32" in attempt(ln_final__weight=torch.zeros(9))
    assert "has the unknown extra 2x1" in attempt(extra=torch.zeros(2, 1))
    assert "lacks what becomes our text.norm.bias" in attempt(ln_final__bias=None)
    assert "has ln_final.bias of int64" in attempt(
        ln_final__bias=torch.zeros(32, dtype=torch.int64)
    )
    assert "more differences" in attempt("nano-siglip")


def test_siglip_without_its_tokenizer_embeds_images_and_says_what_texts_need(
    nano: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(nano / "nano-siglip" / "weights.pt", tmp_path)
    config = {**open_clip.get_model_config("nano-siglip")}
    config["text_cfg"]["hf_tokenizer_name"] = "nobody/nothing"
    monkeypatch.setattr("open_clip.get_model_config", lambda name: config)
    with caplog.at_level(logging.WARNING):
        model = load("openclip:nano-siglip", weights=tmp_path / "weights.pt")
    assert "without a tokenizer" in caplog.text
    assert model.embed_images(tiny.images()).shape == (4, 48)
    with pytest.raises(InputError, match=FILES[0]):
        model.embed_texts(["a cat"])


def test_a_tokenizer_of_more_words_than_the_tower_is_refused(nano: Path, tmp_path: Path):
    shutil.copytree(nano / "t5", tmp_path / "model")
    shutil.copy(nano / "nano-clipa" / "weights.pt", tmp_path / "model")
    with pytest.raises(InputError, match="has 40 words, its tokenizer"):
        load("openclip:nano-clipa", weights=tmp_path / "model" / "weights.pt")


def test_loaded_weights_can_be_trained_and_saved(nano: Path, tmp_path: Path):
    model = load("openclip:nano", weights=nano / "nano" / "weights.pt")
    encoder = model.encoder.train()
    assert all(
        value.requires_grad and value.is_contiguous() and not value.is_meta
        for value in encoder.parameters()
    )
    assert not any(value.is_meta for value in encoder.buffers())
    encoder.embed_images(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).sum().backward()
    before = load("openclip:nano", weights=nano / "nano" / "weights.pt").identity
    assert model.identity == before
    with torch.no_grad():
        encoder.image.cls += 1.0
    assert load("openclip:nano", weights=nano / "nano" / "weights.pt").identity == before, (
        "training wrote into the file"
    )
    save_file(encoder.state_dict(), tmp_path / "out.safetensors")
