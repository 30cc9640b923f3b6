"""One training step of ViT-B/32 at batch 32 with real captions (forward, loss, backward, AdamW)
against open_clip's.

Both begin at the same weights, and the losses of the first step must agree. open_clip's step is in
float32 throughout.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from open_clip.loss import ClipLoss
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from torch import Tensor

from benchmarks.material import captions, peer, photographs, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.tokenizers import pad_batch
from diptych.methods.adapters import adapter
from diptych.methods.base import At, Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.training.optim import build
from diptych.training.step import Step, forward_backward

PACKAGES = ("open_clip_torch",)
BATCH = 32
BARS = {
    "float32": (1 / 1.35, 1e-4),
    "bfloat16": (1 / 2.5, 2e-2),
}  # the bar; how far the first loss may be


def run(pairs: int = 7) -> list[dict]:
    sides = Sides(photographs(BATCH, (500, 375)), captions(BATCH))
    ours = {name: sides.ours(name) for name in BARS}
    theirs = sides.theirs("float32")
    first = theirs()
    rows = []
    work = 0
    for name, (bar, tolerance) in BARS.items():
        step = ours[name]
        found = step()
        assert abs(found - first) <= tolerance * abs(first), (
            f"{name}: the first losses are {found} and {first}"
        )
        work = work or flops(step)
        times = interleaved(step, theirs, pairs)
        share = roofline(work, times["ours"], name)
        rows.append(judged(f"training step, batch {BATCH}, {name}", "CPU s", times, bar, share))
    return rows


class Sides:
    """Steps of both libraries on the same batch from the same weights; a call takes one and returns
    its loss.

    `adapters` are our spec of low-rank adapters and the names of open_clip's layers that are theirs;
    None trains all weights.
    """

    def __init__(
        self,
        photos: list[Image.Image],
        texts: list[str],
        device: str = "cpu",
        adapters: tuple[str, list[str]] | None = None,
    ):
        self.adapters = adapters
        self.model, preprocess, self.tokenize = peer()
        self.pixels = torch.stack([preprocess(photo) for photo in photos]).to(device)
        self.texts = texts
        self.device = device

    def ours(self, precision: str) -> Callable[[], float]:
        with TemporaryDirectory() as folder:
            twin = same_weights(self.model, Path(folder), "float32")
        make = Make.of(twin)
        if self.adapters is not None:
            make.adapter = adapter(self.adapters[0])
        method = CLIP(CLIP.configure({}), make).train().to(self.device)
        tokenizer = method.make.tokenizer
        ids, lengths = (
            part.to(self.device) for part in pad_batch(tokenizer.encode(self.texts), tokenizer)
        )
        images = Images(self.pixels[:, None])
        tokens = Tokens(ids[:, None], lengths[:, None])
        batch = Batch({"main": images}, {"main": tokens}, keys=self.texts)
        optimizer = build(method, Recipe(lr=1e-5), {})
        step = Step(method, precision)
        return lambda: _step(optimizer, lambda: forward_backward(step, batch, At(0, 1, 0, 0)).total)

    def theirs(self, precision: str) -> Callable[[], float]:
        """As open_clip_train takes it; `ours` is to be made before, as this step changes the
        weights."""
        model = self.model
        if self.adapters is not None:
            options = adapter(self.adapters[0])
            config = LoraConfig(
                r=options.r, lora_alpha=options.alpha, target_modules=self.adapters[1]
            )
            inject_adapter_in_model(config, model)  # which freezes all other weights
            model.logit_scale.requires_grad_(True)
        model = model.to(self.device).train()
        ids = self.tokenize(self.texts).to(self.device)
        learnt = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learnt if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in learnt if p.ndim >= 2], "weight_decay": 0.1},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.98), eps=1e-6)
        loss = ClipLoss()

        def forward() -> Tensor:
            with torch.autocast(
                torch.device(self.device).type, torch.bfloat16, enabled=precision == "bfloat16"
            ):
                total = loss(*model(self.pixels, ids))
            total.backward()
            return total

        return lambda: _step(optimizer, forward)


def _step(optimizer: torch.optim.Optimizer, backward: Callable[[], Tensor]) -> float:
    optimizer.zero_grad()
    total = backward()
    optimizer.step()
    return total.item()
