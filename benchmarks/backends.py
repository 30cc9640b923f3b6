"""ViT-B/32 by the fastest backend of each tower, against open_clip and against OpenVINO used by hand.

By hand means: open_clip's model, converted by OpenVINO, in its own choice of precision or in
float32; captions padded to 77, or to the longest of a batch, whichever is faster.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
import torch
from torch import Tensor, nn

import diptych
from benchmarks.material import (
    NAME,
    captions,
    least_cosine,
    peer,
    photographs,
    same_weights,
)
from benchmarks.measure import interleaved, judged, seconds

PACKAGES = ("open_clip_torch", "openvino", "onnxruntime")
IMAGES = 128
TEXTS = 256
BATCH = 64


class _Images(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels, normalize=True)


class _Texts(nn.Module):
    """The text tower at any length: open_clip's mask and positions, cut."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        model = self.model
        length = ids.shape[1]
        x = model.token_embedding(ids) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(ids)), ids.argmax(-1)] @ model.text_projection
        return nn.functional.normalize(x, dim=-1)


def by_hand(
    module: nn.Module, example: Tensor, precision: str | None
) -> Callable[[np.ndarray], np.ndarray]:
    """A module by OpenVINO, in its default precision or another."""
    with torch.no_grad():
        converted = openvino.convert_model(module.eval(), example_input=example)
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    return lambda batch: compiled(batch)[0].copy()


def run(images: int = IMAGES, texts: int = TEXTS, pairs: int = 7) -> list[dict]:
    model, preprocess, tokenize = peer()
    photos = torch.stack([preprocess(photo) for photo in photographs(images, (500, 375))])
    words = captions(texts)
    ids = tokenize(words)
    rows = []
    with TemporaryDirectory() as folder:
        same_weights(model, Path(folder), "float32")  # writes the file
        load = partial(
            diptych.load, f"openclip:{NAME}", Path(folder) / "peer.safetensors", backend="auto"
        )
        exact = load(precision="float32")
        fast = load(precision="auto")
        mean, std = (
            torch.tensor(value)[:, None, None]
            for value in (exact.preprocess.mean, exact.preprocess.std)
        )
        pixels = ((photos * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        photos = (pixels / 255 - mean) / std  # of the same pixels

        def in_batches(run: Callable[[np.ndarray], np.ndarray], whole: Tensor) -> Tensor:
            return torch.cat([torch.from_numpy(run(part.numpy())) for part in whole.split(BATCH)])

        def peers_images() -> Tensor:
            with torch.inference_mode():
                return torch.cat(
                    [model.encode_image(part, normalize=True) for part in photos.split(BATCH)]
                )

        hand = {
            name: partial(in_batches, by_hand(_Images(model), photos[:2], hint), photos)
            for name, hint in (("OpenVINO", "f32"), ("OpenVINO's default", None))
        }
        for twin, precision, name, theirs, bar in (
            (exact, "float32", "open_clip", peers_images, 1.0),
            (exact, "float32", "OpenVINO", hand["OpenVINO"], 1 / 0.85),
            (fast, "auto", "OpenVINO's default", hand["OpenVINO's default"], 1 / 0.97),
        ):
            ours = partial(twin.embed_images, pixels, batch_size=BATCH)
            what = f"ViT-B/32, {images} images, {precision}, backend auto, against {name}"
            rows.append(_row(what, ours, theirs, pairs, bar, twin))
        read = by_hand(_Texts(model), ids[:2], None)
        padded = partial(in_batches, read, ids)

        def cut() -> Tensor:
            parts = []
            for part in ids.split(BATCH):
                longest = int((part != 0).sum(1).max())
                parts.append(torch.from_numpy(read(part[:, :longest].contiguous().numpy())))
            return torch.cat(parts)

        best = min((padded, cut), key=lambda way: (way(), seconds(way))[1])
        ours = partial(fast.embed_texts, words, batch_size=BATCH)
        what = f"ViT-B/32, {texts} captions, auto, backend auto, against OpenVINO's default"
        rows.append(_row(what, ours, best, pairs, 0.5, fast))
    return rows


def _row(
    what: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    pairs: int,
    bar: float,
    model: Any,
) -> dict:
    cosine = least_cosine(ours(), theirs())
    assert cosine >= 0.999, (what, cosine)
    line = judged(what, "CPU s", interleaved(ours, theirs, pairs), bar)
    return {**line, "cosine": cosine, "computed_by": model.computed_by}
