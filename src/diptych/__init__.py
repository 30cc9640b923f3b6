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
    from diptych import objectives, testing
    from diptych.front.checking import check
    from diptych.front.loading import load
    from diptych.front.training import Run, train
    from diptych.front.trying import compare, reproduce
    from diptych.front.using import classify, embed, evaluate, export, index, search
    from diptych.models.language import LanguageModel
    from diptych.models.model import Model, TextModel


__all__ = [
    "LanguageModel",
    "Model",
    "Run",
    "TextModel",
    "check",
    "classify",
    "compare",
    "embed",
    "evaluate",
    "export",
    "index",
    "load",
    "objectives",
    "reproduce",
    "search",
    "testing",
    "train",
]

_WHERE = {
    "LanguageModel": "models.language",
    "Model": "models.model",
    "Run": "front.training",
    "TextModel": "models.model",
    "check": "front.checking",
    "classify": "front.using",
    "compare": "front.trying",
    "embed": "front.using",
    "evaluate": "front.using",
    "export": "front.using",
    "index": "front.using",
    "load": "front.loading",
    "reproduce": "front.trying",
    "search": "front.using",
    "train": "front.training",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"diptych.{_WHERE[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"diptych.{name}")
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
