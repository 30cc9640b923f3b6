"""Probes: fixed inputs on which ways to compute a model are compared, by likeness and by time.

Their results hold for a model, a machine, versions and a number of threads.
"""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.volumes import AnyPreprocess, VolumePreprocess
from diptych.models.model import Model, TextModel

Name = TypeVar("Name")

IMAGES = 8
TEXTS = 32
ROUNDS = 3
SECONDS = 5.0
"""Numbers of inputs and of timing rounds; no new round begins after this many seconds."""


def runs(model: TextModel) -> dict[str, Callable[[Any], Tensor]]:
    """Return what embeds the inputs with a model, by side: images from smooth to noisy, texts of 1 to
    16 words, always the same."""
    found: dict[str, Callable[[Any], Tensor]] = {}
    if isinstance(model, Model):
        pixels = _pixels(model.preprocess)
        found["image"] = lambda other: other.embed_images(pixels)
    if model.reads_texts:
        words = _WORDS.split()
        texts = [
            " ".join(words[(start * 5 + i) % len(words)] for i in range(1 + start % 16))
            for start in range(TEXTS)
        ]
        found["text"] = lambda other: other.embed_texts(texts)
    return found


def worst_cosine(a: Tensor, b: Tensor) -> float:
    """Return the least cosine of two rows of unit vectors (N, E)."""
    return float(F.cosine_similarity(a, b, dim=-1).min())


def fastest(work: Mapping[Name, Callable[[], Any]]) -> dict[Name, float]:
    """Return the least seconds of each work over some rounds, interleaved, so that other load on the
    machine affects all alike."""
    best = dict.fromkeys(work, float("inf"))
    start = time.perf_counter()
    for turn in range(ROUNDS):
        if turn and time.perf_counter() - start > SECONDS:
            break
        for name, run in work.items():
            best[name] = min(best[name], seconds(run))
    return best


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine(device: torch.device) -> list[str]:
    """Return the words that tell a machine, its libraries and the number of threads."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        name += "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    return [name, str(torch.__version__), str(torch.get_num_threads())]


def _pixels(preprocess: AnyPreprocess) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(preprocess, VolumePreprocess):
        return torch.rand(IMAGES, *preprocess.shape, generator=generator)
    size = (preprocess.height, preprocess.width)
    soft = torch.rand(IMAGES, 3, 6, 6, generator=generator)
    noise = torch.randn(IMAGES, 3, *size, generator=generator) * torch.linspace(0, 60, IMAGES).view(
        -1, 1, 1, 1
    )
    smooth = F.interpolate(soft, size=size, mode="bicubic") * 255
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


_WORDS = "a photo of two brown dogs that run over wet green grass near the old red house in 1950, while it rains; snow"
