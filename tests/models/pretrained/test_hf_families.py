"""Each family of dual encoders of transformers: equal embeddings through the full path."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.models.pretrained import tiny, tiny_families

import diptych
from diptych.errors import InputError
from diptych.methods.store import load
from diptych.models.export import LIMIT, export
from diptych.models.pretrained.hf_families import FAMILIES

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
    assert (images[1:] - images[0]).abs().amax(1).min() > 1e-3  # nothing collapsed into agreement


@pytest.mark.parity
@pytest.mark.parametrize("folder", tiny_families.KINDS, indirect=True)
def test_a_family_is_saved_back_with_equal_weights(folder: Path, tmp_path: Path):
    model = load(f"hf:{folder}")
    report = export(model, "hf", tmp_path / "out")
    assert max(report.images, report.texts) <= LIMIT
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


@pytest.mark.parity
@pytest.mark.parametrize("folder", tiny_families.KINDS, indirect=True)
def test_sentence_transformers_holds_a_family_too(folder: Path, tmp_path: Path):
    model = load(f"hf:{folder}")
    report = export(model, "sentence-transformers", tmp_path / "out")
    assert max(report.images, report.texts) <= LIMIT
    again = load(f"hf:{report.folder}")
    torch.testing.assert_close(again.embed_texts(TEXTS), model.embed_texts(TEXTS))


@pytest.mark.parametrize("folder", ["align", "altclip"], indirect=True)
def test_a_run_that_starts_from_a_family_needs_its_folder_no_more(folder: Path, tmp_path: Path):
    start = tmp_path / "start"
    shutil.copytree(folder, start)
    source = "scenes:number=3:count=16"
    run = diptych.train("clip", source, tmp_path / "run", init=f"hf:{start}", steps=1, batch_size=8)
    model = run.model
    shutil.rmtree(start)
    again = load(tmp_path / "run")
    assert torch.equal(again.embed_images(tiny.images()), model.embed_images(tiny.images()))
    assert not torch.equal(
        again.embed_texts(TEXTS), load(f"hf:{folder}").embed_texts(TEXTS)
    )  # it was trained
    assert diptych.evaluate(again, source)["retrieval"]["i2t_r10"] > 0
    assert export(again, "hf", tmp_path / "out").images <= LIMIT


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "siglip2"}, "SigLIP 2 NaFlex reads an image as a list of patches"),
        ({"model_type": "owlvit", "vision_config": {}}, "its model type is owlvit"),
        ({"model_type": "flava", "image_config": {}}, "its model type is flava"),
    ],
)
def test_a_dual_encoder_that_is_not_supported_is_named_beside_those_that_are(
    values: dict[str, Any], message: str, tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message) as error:
        load(f"hf:{tmp_path}")
    for family in FAMILIES.values():
        assert family.title in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["altclip"], indirect=True)
def test_a_dual_encoder_among_other_modules_is_refused(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "model")
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"}
        for path, kind in (("", "Transformer"), ("1_Dense", "Dense"))
    ]
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match="its modules are Transformer, Dense; supported are"):
        load(f"hf:{tmp_path / 'model'}")


@pytest.mark.parametrize("folder", ["altclip"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("text_projection.weight"), "lacks text_projection.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "has the unknown extra"),
        (
            lambda state: state.update({"text_projection.weight": torch.zeros(2, 2)}),
            "name the model of these weights",
        ),
    ],
)
def test_weights_of_another_architecture_are_one_line(
    change: Any, message: str, folder: Path, tmp_path: Path
):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=message) as error:
        load(f"hf:{folder}", weights=tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["chinese_clip"], indirect=True)
def test_a_folder_without_files_for_images_and_texts_warns(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    model = load(f"hf:{tmp_path}")
    assert "in the standard way of Chinese-CLIP" in caplog.text
    assert "it can embed images only" in caplog.text
    assert model.embed_images(tiny.images()).shape == (4, 24)
