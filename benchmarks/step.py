"""One training step of ViT-B/32 at batch 32 with real captions (forward, loss, backward, AdamW)
against open_clip's.

Both begin at the same weights, and the losses of the first step must agree. open_clip's step is in
float32 throughout. `profile` says where the time of our step goes, reading its batch included.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from open_clip.loss import ClipLoss
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from torch import Tensor

from benchmarks.material import captions, peer, photographs, same_weights
from benchmarks.measure import flops, interleaved, judged, roofline, seconds, torch_is_slow
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.loader import Loader
from diptych.data.plan import Shuffled
from diptych.data.sample import Source
from diptych.data.sources import open_source
from diptych.data.tokenizers import pad_batch
from diptych.methods.adapters import adapter
from diptych.methods.base import At, Losses, Method, Recipe
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.training.optim import build
from diptych.training.step import Step, clamp, forward_backward

PACKAGES = ("open_clip_torch",)
BATCH = 32
SIZE = (500, 375)
PARTS = ("data", "forward", "backward", "optimizer")
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}  # how far the first loss may be


def bars() -> dict[str, float]:
    """The bar of each precision; float32 gains where torch's product is slow, and oneDNN's is not."""
    return {"float32": 1 / 1.8 if torch_is_slow() else 1 / 1.35, "bfloat16": 1 / 2.5}


def run(pairs: int = 7, batch: int = BATCH) -> list[dict]:
    sides = Sides(photographs(batch, SIZE), captions(batch))
    ours = {name: sides.ours(name) for name in TOLERANCES}
    theirs = sides.theirs("float32")
    first = theirs()
    rows = []
    work = 0
    for name, bar in bars().items():
        step = ours[name]
        found = step()
        assert abs(found - first) <= TOLERANCES[name] * abs(first), (
            f"{name}: the first losses are {found} and {first}"
        )
        work = work or flops(step)
        times = interleaved(step, theirs, pairs)
        share = roofline(work, times["ours"], name)
        line = judged(f"training step, batch {batch}, {name}", "CPU s", times, bar, share)
        rows.append({**line, "profile": profile(sides, name, pairs)})
    return rows


def profile(sides: "Sides", precision: str, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds of the parts of our step, medians of some rounds after a warm-up, and the share
    of each in their sum.

    `data` reads the batch from JPEGs of 500x375 and strings in this process, as the training loader
    does without workers. `optimizer` includes the bounds of the temperature.
    """
    step, _, optimizer = sides.prepared(precision)
    method = step.method
    rows = []
    with TemporaryDirectory() as folder:
        views = method.views(method.stages()[0])
        loader = Loader(pairs_in(Path(folder), sides), views, Shuffled(), len(sides.texts))
        for number in range(rounds + 1):
            batch, data = _timed(next, loader.epoch(number))
            terms, forward = _timed(step, batch, At(0, 1, 0, 0))
            _, backward = _timed(Losses(*terms).total.backward)
            _, update = _timed(_update, optimizer, method)
            rows.append((data, forward, backward, update))
    medians = map(statistics.median, zip(*rows[1:], strict=True))
    times: dict[str, float] = dict(zip(PARTS, medians, strict=True))
    shares = {name: each / sum(times.values()) for name, each in times.items()}
    return {"cpu_seconds": times, "shares": shares}


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result of a call, and its CPU seconds."""
    found: list[Any] = []
    cpu, _ = seconds(lambda: found.append(call(*arguments)))
    return found[0], cpu


def pairs_in(folder: Path, sides: "Sides") -> Source:
    """The photographs and captions of the batch, as files that training reads."""
    lines = []
    for number, (photo, text) in enumerate(zip(sides.photos, sides.texts, strict=True)):
        photo.save(folder / f"{number}.jpg", quality=90)
        lines.append(json.dumps({"image": f"{number}.jpg", "caption": text}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_source(str(folder / "pairs.jsonl"))


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
        self.photos = photos
        self.pixels = torch.stack([preprocess(photo) for photo in photos]).to(device)
        self.texts = texts
        self.device = device

    def ours(self, precision: str) -> Callable[[], float]:
        step, batch, optimizer = self.prepared(precision)
        return lambda: _step(optimizer, lambda: forward_backward(step, batch, At(0, 1, 0, 0)).total)

    def prepared(self, precision: str) -> tuple[Step, Batch, torch.optim.Optimizer]:
        """Our step, its batch and its optimiser."""
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
        return Step(method, precision), batch, optimizer

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


def _update(optimizer: torch.optim.Optimizer, method: Method) -> None:
    optimizer.step()
    clamp(method)
    optimizer.zero_grad(set_to_none=True)


def _step(optimizer: torch.optim.Optimizer, backward: Callable[[], Tensor]) -> float:
    optimizer.zero_grad()
    total = backward()
    optimizer.step()
    return total.item()
