"""Every way to adapt a classifier starts from models of others: open_clip's file, and folders of
CLIP and SigLIP."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from diptych.errors import InputError

OPTIONS = {
    "coop": {}, "cocoop": {}, "ivlp": {"depth": 2, "image_depth": 2}, "maple": {"depth": 2}, "mocoop": {"norms": 0.0},
    "proapo": {}, "ctp_tft": {"heads": 2}, "tip_adapter": {}, "cones": {"keep_text": True}, "lora": {},
    "fine_tune": {}, "wise_ft": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images for each class."""
    root, draw = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for name in ("cat", "dog", "bird"):
        (root / name).mkdir()
        for number in range(4):
            pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def adapted(method: str, classes: Path, out: Path, **how: object) -> torch.Tensor:
    """The logits of two classes that are new to a run of two steps."""
    options = {"steps": 2, "batch_size": 4, "quiet": True}
    model = diptych.train(method, str(classes), out, config=OPTIONS[method], **options, **how).model  # type: ignore[arg-type]
    model.set_classes(["a horse", "cow"])
    return model.class_logits([Image.open(classes / "cat" / "0.png")])


@pytest.mark.parametrize("method", OPTIONS)
def test_open_clips_file_is_adapted_to_a_folder(
    method: str, classes: Path, nano: Path, tmp_path: Path
):
    weights = nano / "nano" / "weights.pt"
    logits = adapted(method, classes, tmp_path / "run", init="openclip:nano", weights=weights)
    assert logits.shape == (1, 2)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("method", ["cocoop", "maple", "tip_adapter", "lora"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_folders_are_adapted(
    method: str, kind: str, classes: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    logits = adapted(method, classes, tmp_path / "run", init=f"hf:{request.getfixturevalue(kind)}")
    assert torch.isfinite(logits).all()


def test_weights_without_a_model_are_refused(classes: Path, tmp_path: Path):
    with pytest.raises(InputError, match="--init names"):
        diptych.train("clip", str(classes), tmp_path / "run", weights="file.safetensors")
    assert not (tmp_path / "run").exists()
