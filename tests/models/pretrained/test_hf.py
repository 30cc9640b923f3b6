"""transformers' CLIP and SigLIP in our towers: equal embeddings through the full path, and
refusals."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipModel, SiglipTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from diptych.data.tokenizers import from_dict
from diptych.errors import InputError
from diptych.methods.store import load

TEXTS = [*tiny.TEXTS[:4], "<|endoftext|> a b", "snow " * 90]


def copied(source: Path, target: Path, *without: str) -> Path:
    shutil.copytree(source, target)
    for name in without:
        (target / name).unlink()
    return target


@torch.no_grad()
def theirs(
    folder: Path, model: Any, processor: Any, **padding: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the images and texts by transformers itself, from PIL and strings."""
    model = model.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(
        TEXTS, truncation=True, return_tensors="pt", **padding
    )
    pixels = processor.from_pretrained(folder)(tiny.images(), return_tensors="pt")["pixel_values"]
    if model.config.model_type == "siglip":
        ids = {"input_ids": ids["input_ids"]}  # SigLIP reads its padding
    return tiny.unit(model.get_image_features(pixel_values=pixels)), tiny.unit(
        model.get_text_features(**ids)
    )


def assert_equal_embeddings(ours: Any, images: torch.Tensor, texts: torch.Tensor) -> None:
    torch.testing.assert_close(ours.embed_images(tiny.images()), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.embed_texts(TEXTS), texts, atol=1e-5, rtol=0)


@pytest.mark.parity
def test_clip_embeddings_equal_transformers_from_images_and_strings(clip: Path):
    assert_equal_embeddings(
        load(f"hf:{clip}"), *theirs(clip, CLIPModel, CLIPImageProcessorPil, padding=True)
    )


@pytest.mark.parity
def test_siglip_embeddings_equal_transformers_with_texts_padded_to_64(siglip: Path):
    expected = theirs(
        siglip, SiglipModel, SiglipImageProcessorPil, padding="max_length", max_length=64
    )
    model = load(f"hf:{siglip}")
    assert_equal_embeddings(model, *expected)
    assert (model.tokenizer.padding, model.tokenizer.context) == ("max", 64)
    assert model.encoder.logit_bias is not None


@pytest.mark.parity
def test_vocab_and_merges_in_place_of_tokenizer_json_give_the_same_ids(clip: Path, tmp_path: Path):
    folder = copied(clip, tmp_path / "old", "tokenizer.json")
    model = json.loads((clip / "tokenizer.json").read_text())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    assert load(f"hf:{folder}").tokenizer.encode(TEXTS) == load(f"hf:{clip}").tokenizer.encode(
        TEXTS
    )


@pytest.mark.parity
def test_siglips_sentencepiece_gives_transformers_ids(siglip: Path, tmp_path: Path):
    folder = copied(siglip, tmp_path / "sp", "tokenizer.json", "tokenizer_config.json")
    slow = SiglipTokenizer(str(tiny.siglip_spm(folder)))
    slow.save_pretrained(folder)
    texts = [
        "A photo of a cat!",
        "snow, on the ▁ hills",
        "",
        "unknown: 漢字 z_z",
        " lead  ing\n space",
        "red " * 90,
    ]
    model = load(f"hf:{folder}")
    assert model.tokenizer.kind == "sentencepiece"
    assert model.tokenizer.encode(texts) == [
        slow(text, truncation=True, max_length=64).input_ids for text in texts
    ]
    alphabet = "aehnorst tdgxz.,!-_'▁\t漢é1"
    draws = random.Random(0)
    noise = ["".join(draws.choices(alphabet, k=draws.randrange(40))) for _ in range(1000)]
    assert model.tokenizer.encode(noise) == [
        slow(text, truncation=True, max_length=64).input_ids for text in noise
    ]
    assert model.embed_texts(texts).shape == (6, 48)
    copy = from_dict(json.loads(json.dumps(model.tokenizer.to_dict())))
    assert copy == model.tokenizer
    assert copy.encode(texts) == model.tokenizer.encode(texts)


def test_a_tokenizer_survives_plain_values(clip: Path):
    tokenizer = load(f"hf:{clip}").tokenizer
    copy = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert copy == tokenizer
    assert copy.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert copy.lost("snow " * 90) == 90 - 75


@pytest.mark.parity
def test_a_bare_clip_folder_gets_the_standard_preprocessor_and_tokenizer(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    names = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
    with caplog.at_level(logging.WARNING):
        bare, full = load(f"hf:{copied(clip, tmp_path / 'bare', *names)}"), load(f"hf:{clip}")
    assert "no preprocessor_config.json" in caplog.text
    assert "no tokenizer files" in caplog.text
    assert torch.equal(bare.embed_images(tiny.images()), full.embed_images(tiny.images()))
    assert torch.equal(
        bare.embed_texts(TEXTS[:2]), full.embed_texts([TEXTS[0], TEXTS[1].replace("&amp;", "&")])
    )


def test_siglip_without_its_tokenizer_embeds_images_only(siglip: Path, tmp_path: Path):
    model = load(
        f"hf:{copied(siglip, tmp_path / 'bare', 'tokenizer.json', 'tokenizer_config.json')}"
    )
    assert model.embed_images(tiny.images()).shape == (4, 48)
    with pytest.raises(InputError, match="without a tokenizer"):
        model.embed_texts(["a cat"])


def test_weights_may_be_a_folder_in_place_of_a_repository_or_one_file(clip: Path):
    expected = load(f"hf:{clip}").embed_texts(TEXTS)
    assert torch.equal(
        load("hf:openai/clip-vit-base-patch32", weights=clip).embed_texts(TEXTS), expected
    )
    assert torch.equal(
        load(f"hf:{clip}", weights=clip / "model.safetensors").embed_texts(TEXTS), expected
    )


def test_weights_in_parts_are_put_together(clip: Path, tmp_path: Path):
    folder = copied(clip, tmp_path / "parts", "model.safetensors")
    CLIPModel.from_pretrained(clip).save_pretrained(folder, max_shard_size="4MB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert torch.equal(
        load(f"hf:{folder}").embed_texts(TEXTS), load(f"hf:{clip}").embed_texts(TEXTS)
    )


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """A change to one JSON file of a folder; a key `a__b` is inside `a`."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        for key, value in changes.items():
            outer, _, inner = key.partition("__")
            if inner:
                values[outer][inner] = value
            else:
                values[outer] = value
        (folder / name).write_text(json.dumps(values))

    return apply


# RELIABILITY 22
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("config.json", model_type="clop"), "did you mean 'clip'"),
        (edit("config.json", text_config__hidden_act="quick_gulu"), "did you mean 'quick_gelu'"),
        (
            edit("config.json", vision_config__image_size=64),
            "images of 32 pixels, its image tower takes 64",
        ),
        (
            edit("config.json", text_config__eos_token_id=7),
            "at id 7, its tokenizer ends texts with 49407",
        ),
        (
            edit("config.json", text_config__max_position_embeddings=40),
            "77x48 where 40x48 is expected .trained on",
        ),
        (edit("preprocessor_config.json", crop_size=40), "crops to 40"),
        (edit("preprocessor_config.json", do_resize=False), "do_resize=False"),
        (edit("preprocessor_config.json", resample=0), "resample=0"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "no tokenizer that transformers can read",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"junk"),
            "not a readable safetensors",
        ),
    ],
)
def test_a_folder_that_contradicts_itself_is_a_one_line_error(
    change: Callable[[Path], None], message: str, clip: Path, tmp_path: Path
):
    folder = copied(clip, tmp_path / "bad")
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        load(f"hf:{folder}")
    assert "\n" not in str(error.value)


def test_a_repository_that_cannot_be_fetched_is_one_line_that_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object, **__: object) -> str:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=r"openai/clip.*no network.*--weights FOLDER") as error:
        load("hf:openai/clip-vit-base-patch32")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="there is no folder"):
        load("hf:./nothing")
