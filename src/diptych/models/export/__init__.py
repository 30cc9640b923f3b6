"""Export of models to the formats of other libraries, with a check of the result; one module per
target.

A target's module has `PACKAGES` (which it imports), `INSTALL` (pip's arguments for them),
`misfit(model)` (why it cannot hold a model, or None), `notes(model)` (inherent differences of the
target), `write(model, folder)`, and `embed(folder, images, texts)`, which returns the unit vectors
that the other library computes from images and strings with the written files. A target with
`TEXTS_ALONE` holds models of texts alone too, for which `images` is empty and has no vectors.
"""

import importlib
import importlib.util
import os
import pkgutil
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from diptych.errors import InputError, brief, unknown
from diptych.files import followed, is_full, sync
from diptych.models.export._card import card
from diptych.models.export._forms import Form, form_for
from diptych.models.model import Model, TextModel

Stage = Callable[[str], AbstractContextManager[Any]]

LIMIT = 1e-5  # the largest accepted difference of an entry of a unit vector

TEXTS = (
    "a photo of a cat",
    "Two dogs, running on a beach at 10 pm!",
    "a",
    "",
    "It's the 3rd red apple (half-eaten).",
    "Überall liegt Schnee",
    "snow and ice " * 60,
)
"""Texts on which tokenizers must agree: short, empty, too long for any context, capitals, digits,
punctuation."""


@dataclass(frozen=True)
class Report:
    """The result of an export: the largest differences of the other library's embeddings (`images`
    is None for a model of texts alone), and notes on the target."""

    target: str
    folder: Path
    images: float | None
    texts: float
    notes: tuple[str, ...]


def targets() -> list[str]:
    """The names of the targets, one per module of this folder.

    >>> targets()
    ['hf', 'onnx', 'openclip', 'sentence-transformers']
    """
    return sorted(
        item.name.replace("_", "-")
        for item in pkgutil.iter_modules(__path__)
        if item.name[0] != "_"
    )


def reason(model: Any, target: str) -> str | None:
    """Why a target cannot hold a model, or None if it can.

    Raises InputError for an unknown target.
    """
    module = _target(target)
    if not isinstance(model, TextModel):
        return "it is neither a dual encoder nor an encoder of texts, and only these are exported"
    if model.encoder.text is None:
        return "it reads texts as pixels" if model.reads_texts else "it embeds images alone"
    if model.tokenizer is None:
        return "it came without a tokenizer; load it from a folder that holds its tokenizer files"
    return _misfit(module, model)


def lacking(target: str) -> str | None:
    """What has to be installed for a target, or None."""
    module = _target(target)
    for package in module.PACKAGES:
        if importlib.util.find_spec(package) is None:
            return f"export to {target} needs {package}; pip install {module.INSTALL}"
    return None


def export(
    model: TextModel, target: str, folder: str | Path, *, stage: Stage = nullcontext
) -> Report:
    """Write a model (float32, on the CPU) to a new folder in the format of `target`, and compare
    embeddings. README.md is the model's card for the hub.

    The other library loads the written files and embeds images and texts. The folder is created
    only if no entry of its unit vectors differs from ours by more than 1e-5. `stage` is given what is
    done and returns a context around it, such as one that tells it. Raises InputError for an unknown
    target, a missing package, an existing folder, a model that the target cannot hold (with the
    targets that can), and a larger difference.
    """
    folder = followed(folder)
    module = _target(target)
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder")
    if (missing := lacking(target)) is not None:
        raise InputError(missing)
    if (why := reason(model, target)) is not None:
        raise InputError(f"{target} cannot hold {model.name}: {why}; {_others(model, target)}")
    if model.device.type != "cpu" or model.precision != "float32":
        raise InputError(
            f"{model.name} is on {model.device} in {model.precision}; to export it, load it anew "
            "on the CPU and in float32"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        with stage(f"writing {model.name} for {target}"):
            module.write(model, temporary)
        with stage(f"comparing the embeddings by {target} with ours"):
            found = _compare(model, module, temporary, target)
        text = card(model, target, folder.name, found, module.notes(model))
        (temporary / "README.md").write_text(text, encoding="utf-8")
        for path in sorted(temporary.rglob("*")):
            sync(path)
        temporary.rename(folder)
        sync(folder.parent)
    except BaseException as error:
        if is_full(error):
            raise InputError(
                f"no space left to write {folder}; nothing was kept, make room and export again"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Report(target, folder, found.get("images"), found["texts"], tuple(module.notes(model)))


def random_images(size: int) -> list[Image.Image]:
    """Images of smooth noise in several shapes, with even margins, for which all libraries agree on
    the centre crop."""
    rng = np.random.default_rng(0)
    shapes = [(size, size), (2 * size, 2 * size), (3 * size, size), (2 * size, 6 * size)]
    noise = [rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in shapes]
    return [
        Image.fromarray(n).resize(s, Image.Resampling.BICUBIC)
        for n, s in zip(noise, shapes, strict=True)
    ]


def _target(name: str) -> ModuleType:
    if name not in targets():
        raise unknown("target", name, targets())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _misfit(module: ModuleType, model: TextModel) -> str | None:
    """Why a target cannot hold a model, or None."""
    if not isinstance(model, Model) and not getattr(module, "TEXTS_ALONE", False):
        return "it embeds texts alone"
    return module.misfit(model)


def _others(model: TextModel, target: str) -> str:
    """The targets that can hold the model, as text."""
    able = [
        other
        for other in targets()
        if other != target and lacking(other) is None and reason(model, other) is None
    ]
    if not able:
        return "no other target can either"
    return f"{' and '.join([', '.join(able[:-1]), able[-1]] if able[1:] else able)} can"


def _compare(model: TextModel, module: ModuleType, folder: Path, target: str) -> dict[str, float]:
    """The largest differences of embeddings of images, if the model embeds them, and of texts."""
    # a text without ids has no embedding: some tokenizers put nothing around the empty one
    rows = model.tokenizer.encode(TEXTS) if model.tokenizer is not None else []
    texts = [text for text, ids in zip(TEXTS, rows, strict=True) if ids]
    ours = {"texts": model.embed_texts(texts)}
    shown = []
    if isinstance(model, Model):
        shown = random_images(model.preprocess.side)
        ours = {"images": model.embed_images(shown), **ours}
    try:
        theirs = module.embed(folder, shown, texts)
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(
            f"{target} cannot read what was written of {model.name} ({brief(error)}); nothing was kept, "
            "use another target"
        ) from error
    found = {}
    for (name, a), b in zip(ours.items(), theirs, strict=True):
        found[name] = difference = _farthest(a, b)
        if not difference <= LIMIT:
            raise InputError(
                f"embeddings of {name} by {target} differ from those of {model.name} by {difference:.2g}, "
                f"above {LIMIT:g}; nothing was kept, use another target"
            )
    return found


def _farthest(a: Tensor, b: Tensor) -> float:
    return float((a - b.detach()).abs().max()) if a.shape == b.shape else float("inf")


__all__ = [
    "LIMIT",
    "TEXTS",
    "Form",
    "Report",
    "export",
    "form_for",
    "lacking",
    "random_images",
    "reason",
    "targets",
]
