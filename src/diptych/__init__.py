"""Contrastive vision-language learning: train, adapt, compare, evaluate and serve models that embed
images and text in one space.

    import diptych
    model = diptych.load("openclip:ViT-B-32/laion2b_s34b_b79k")
    scores = model.similarity(model.embed_images(["cat.jpg"]), model.embed_texts(["a cat", "a dog"]))

Importing this package does not import torch; the names below do, on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from diptych import objectives, testing
    from diptych.front import evaluate, train
    from diptych.models.model import Model

    # `diptych.methods.store.load`. `Any` covers `LanguageModel`, and models that do more than
    # embed.
    def load(
        spec: str | Path,
        weights: str | Path | None = None,
        precision: str = "float32",
        *,
        share: float | None = None,
        space: str | None = None,
    ) -> Model | Any: ...


__all__ = ["Model", "evaluate", "load", "objectives", "testing", "train"]

_WHERE = {
    "load": "diptych.methods.store",
    "train": "diptych.front",
    "evaluate": "diptych.front",
    "Model": "diptych.models.model",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in __all__:
        return importlib.import_module(f"diptych.{name}")
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
