"""Each family of dual encoders of transformers: equal embeddings through the full path."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.models.pretrained import tiny, tiny_families

from diptych.methods.store import load
from diptych.models.export import export

TEXTS = ["a photo of a cat", "Two dogs, running", "a", "snow " * 90]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return tiny_families.write(request.param, tmp_path_factory.mktemp("family"))


@torch.no_grad()
def theirs(folder: Path, ours: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the images and texts by transformers itself, from PIL and strings."""
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS,
        truncation=True,
        max_length=ours.tokenizer.context,
        padding="max_length" if ours.tokenizer.padding == "max" else "longest",
        return_tensors="pt",
    )
    if model.config.model_type == "siglip":
        ids = {"input_ids": ids["input_ids"]}  # SigLIP reads its padding
    if model.config.model_type == "tipsv2":  # its processor has no form with Pillow
        pixels = torch.stack([ours.preprocess(image) for image in tiny.images()]) / 255
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        pixels = processor(tiny.images(), return_tensors="pt")["pixel_values"]
    return (
        tiny.unit(model.get_image_features(pixel_values=pixels)),
        tiny.unit(model.get_text_features(**ids)),
    )


@pytest.mark.parity
@pytest.mark.parametrize("folder", tiny_families.KINDS, indirect=True)
def test_embeddings_equal_transformers_from_images_and_strings(folder: Path):
    model = load(f"hf:{folder}")
    images, texts = theirs(folder, model)
    torch.testing.assert_close(model.embed_texts(TEXTS), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.embed_images(tiny.images()), images, atol=1e-5, rtol=0)
    assert model.tokenizer.lost(TEXTS[-1]) > 0


@pytest.mark.parity
@pytest.mark.parametrize("folder", tiny_families.KINDS, indirect=True)
def test_a_family_is_saved_back_with_equal_weights(folder: Path, tmp_path: Path):
    model = load(f"hf:{folder}")
    report = export(model, "hf", tmp_path / "out")
    assert max(report.images, report.texts) <= 1e-5
    ours, own = (
        transformers.AutoModel.from_pretrained(place).state_dict()
        for place in (report.folder, folder)
    )
    assert ours.keys() == own.keys()
    for name, value in own.items():
        assert "pooler" in name or torch.equal(ours[name], value), name
    again = load(f"hf:{report.folder}")
    assert type(again.encoder.text) is type(model.encoder.text)
    torch.testing.assert_close(again.embed_texts(TEXTS), model.embed_texts(TEXTS))
    assert again.tokenizer.encode(TEXTS) == model.tokenizer.encode(TEXTS)
    assert again.preprocess == model.preprocess
