"""One training step of ViT-B/32 at batch 32 with real captions (forward, loss, backward, AdamW) against open_clip's.

Both begin at the same weights, and the losses of the first step must agree. open_clip's step is in float32 throughout.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from benchmarks.material import captions, peer, photographs, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.tokenizers import pad_batch
from diptych.methods.base import At, Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.towers.model import Model
from diptych.training.optim import build
from diptych.training.step import Step, whole

PACKAGES = ("open_clip_torch",)
BATCH = 32
BARS = {"float32": (1 / 1.35, 1e-4), "bfloat16": (1 / 2.5, 2e-2)}  # the bar; how far the first loss may be


def run(pairs: int = 7) -> list[dict]:
    model, preprocess, tokenize = peer()
    pixels = torch.stack([preprocess(photo) for photo in photographs(BATCH, (500, 375))])
    texts = captions(BATCH)
    with TemporaryDirectory() as folder:
        ours = {name: _ours(same_weights(model, Path(folder), "float32"), name, pixels, texts) for name in BARS}
    theirs = _theirs(model, pixels, tokenize(texts))
    first, rows, work = theirs(), [], 0
    for name, (bar, tolerance) in BARS.items():
        step = ours[name]
        found = step()
        assert abs(found - first) <= tolerance * abs(first), f"{name}: the first losses are {found} and {first}"
        work = work or flops(step)
        times = interleaved(step, theirs, pairs)
        share = roofline(work, times["ours"], getattr(torch, name))
        rows.append(judged(f"training step, batch {BATCH}, {name}", "CPU s", times, bar, share))
    return rows


def _ours(model: Model, precision: str, pixels: Tensor, texts: list[str]) -> Callable[[], float]:
    method = CLIP(CLIP.configure({}), Make.of(model)).train()
    tokenizer = method.make.tokenizer
    ids, lengths = pad_batch(tokenizer.encode(texts), tokenizer)
    batch = Batch({"main": Images(pixels[:, None])}, {"main": Tokens(ids[:, None], lengths[:, None])}, keys=texts)
    optimizer, step = build(method, Recipe(lr=1e-5), {}), Step(method, precision)
    return lambda: _step(optimizer, lambda: whole(step, batch, At(0, 1, 0, 0)).total)


def _theirs(model: Any, pixels: Tensor, ids: Tensor) -> Callable[[], float]:
    model.train()
    groups = [  # as in open_clip_train
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
    ]
    optimizer, loss = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.98), eps=1e-6), ClipLoss()

    def whole() -> Tensor:
        total = loss(*model(pixels, ids))
        total.backward()
        return total

    return lambda: _step(optimizer, whole)


def _step(optimizer: torch.optim.Optimizer, backward: Callable[[], Tensor]) -> float:
    optimizer.zero_grad()
    total = backward()
    optimizer.step()
    return total.item()
