"""What the rows measure on: real captions, photographs, and ViT-B/32 with weights that open_clip
drew at random."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

import diptych
from diptych.data.sources import open_source
from diptych.models.model import Model

NAME = "ViT-B-32"


def captions(count: int) -> list[str]:
    """The first captions of multi30k's test split where DIPTYCH_DATA has it, else names of the
    shipped glyphs."""
    home = os.environ.get("DIPTYCH_DATA")
    path = Path(home or "") / "multi30k-text" / "test.jsonl"
    if home and path.exists():
        with path.open(encoding="utf-8") as lines:
            found = [json.loads(line)["en"] for line in lines]
    else:
        glyphs = open_source("glyphs:design=noto")
        found = [glyphs[i].captions()[0] for i in range(len(glyphs))]
    return [found[i % len(found)] for i in range(count)]


def peer() -> tuple[Any, Any, Any]:
    """open_clip's ViT-B/32 (random weights, seed 0, evaluation mode), its preprocessing and its
    tokenizer."""
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(NAME, pretrained=None)
    return model.eval(), preprocess, open_clip.get_tokenizer(NAME)


def same_weights(
    model: torch.nn.Module, folder: Path, precision: str, backend: str = "torch"
) -> Model:
    """The same model as ours, as `diptych.load` makes it of a file of the weights."""
    path = folder / "peer.safetensors"
    if not path.exists():
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return diptych.load(f"openclip:{NAME}", weights=path, precision=precision, backend=backend)


def photographs(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Windows of (width, height) into scikit-learn's two photographs, mirrored side by side and
    never scaled."""
    from sklearn.datasets import load_sample_images

    width, height = size
    draws = np.random.default_rng(0)
    grounds = []
    for photo in load_sample_images().images:
        row = np.concatenate([photo, photo[:, ::-1]], axis=1)
        both = np.concatenate([row, row[::-1]])
        times = (-(-2 * height // len(both)), -(-2 * width // both.shape[1]), 1)
        grounds.append(np.tile(both, times))
    found = []
    for i in range(count):
        ground = grounds[i % len(grounds)]
        y = draws.integers(ground.shape[0] - height + 1)
        x = draws.integers(ground.shape[1] - width + 1)
        found.append(Image.fromarray(ground[y : y + height, x : x + width]))
    return found


def least_cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest cosine of two lists of vectors (N, E), pair by pair."""
    return torch.nn.functional.cosine_similarity(a.double(), b.double()).min().item()
