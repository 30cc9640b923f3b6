"""ViT-B/32 by the fastest backend of each tower, against open_clip and against OpenVINO used by hand.

By hand means: open_clip's model, converted by OpenVINO, in its own choice of precision or in
float32; captions padded to 77, or to the longest of a batch, whichever is faster. diptych's side
begins at uint8 pixels and strings, that of OpenVINO at scaled pixels and ids. Images are compared
with `backend="auto"` and with torch alone. In float32 the least cosine is 1 - 1e-6, otherwise .999.
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

from benchmarks.material import captions, least_cosine, peer, photographs, same_weights
from benchmarks.measure import fastest, interleaved, judged, torch_is_slow

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
        x = model.ln_final(x)[torch.arange(ids.shape[0]), ids.argmax(-1)] @ model.text_projection
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
    with TemporaryDirectory() as folder:
        twins = {
            (precision, backend): same_weights(model, Path(folder), precision, backend)
            for precision in ("float32", "auto")
            for backend in ("auto", "torch")
        }
        pixels, scaled = _same_pixels(photos, twins["float32", "torch"].preprocess)
        theirs = {
            "open_clip": partial(_peers_images, model, scaled),
            "OpenVINO": partial(_in_batches, by_hand(_Images(model), scaled[:2], "f32"), scaled),
            "OpenVINO's default": partial(
                _in_batches, by_hand(_Images(model), scaled[:2], None), scaled
            ),
        }
        rows = []
        for precision, backend, name, bar in _bars():
            twin = twins[precision, backend]
            ours = partial(twin.embed_images, pixels, batch_size=BATCH)
            what = f"ViT-B/32, {images} images, {precision}, backend {backend}, against {name}"
            least = 1 - 1e-6 if precision == "float32" else 0.999
            rows.append(_row(what, ours, theirs[name], pairs, bar, least, twin))
        twin = twins["auto", "auto"]
        read = by_hand(_Texts(model), ids[:2], None)
        ways = {"77": partial(_in_batches, read, ids), "longest": partial(_cut, read, ids)}
        padding = fastest(ways)
        ours = partial(twin.embed_texts, words, batch_size=BATCH)
        what = f"ViT-B/32, {texts} captions, auto, backend auto, against OpenVINO's default"
        line = _row(what, ours, ways[padding], pairs, 0.5, 0.999, twin)
        tokens = float((ids != 0).sum(1).double().mean())
    return [*rows, {**line, "padding": padding, "tokens": tokens}]


def _bars() -> list[tuple[str, str, str, float]]:
    """Rows of images: precision, backend, the other side, and the bar. Where torch's product is slow,
    more is asked of float32 against open_clip, which runs on it."""
    open_clip = 1 / 1.6 if torch_is_slow() else 1.0
    return [
        ("float32", "auto", "open_clip", open_clip),
        ("float32", "auto", "OpenVINO", 1 / 0.85),
        ("float32", "torch", "OpenVINO", 1 / 0.85),
        ("auto", "auto", "OpenVINO's default", 1 / 0.97),
        ("auto", "torch", "OpenVINO's default", 1 / 0.90),
    ]


def _same_pixels(photos: Tensor, preprocess: Any) -> tuple[Tensor, Tensor]:
    """Photographs as uint8, and the same pixels as the model's towers read them."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    pixels = ((photos * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels, (pixels / 255 - mean) / std


def _peers_images(model: Any, photos: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model.encode_image(part, normalize=True) for part in photos.split(BATCH)])


def _in_batches(run: Callable[[np.ndarray], np.ndarray], whole: Tensor) -> Tensor:
    return torch.cat([torch.from_numpy(run(part.numpy())) for part in whole.split(BATCH)])


def _cut(run: Callable[[np.ndarray], np.ndarray], ids: Tensor) -> Tensor:
    """Batches of ids (N, 77), padded to their longest."""
    parts = []
    for part in ids.split(BATCH):
        longest = int((part != 0).sum(1).max())
        parts.append(torch.from_numpy(run(part[:, :longest].contiguous().numpy())))
    return torch.cat(parts)


def _row(
    what: str,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    pairs: int,
    bar: float,
    least: float,
    model: Any,
) -> dict:
    cosine = least_cosine(ours(), theirs())
    assert cosine >= least, (what, cosine)
    line = judged(what, "CPU s", interleaved(ours, theirs, pairs), bar)
    return {**line, "cosine": cosine, "computed_by": model.computed_by}
