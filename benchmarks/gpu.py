"""ViT-B/32 on a GPU in bfloat16 against open_clip: images from tensors, and a training step.

Both sides run in one process on the same weights, by the clock, with the device's queue emptied
before each reading. A row is met where ours is at least as fast and its profile shows flash
attention. Without a GPU nothing is measured.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.material import captions, least_cosine, peer, photographs, same_weights
from benchmarks.measure import judged, summary
from benchmarks.step import Sides
from diptych.errors import InputError

PACKAGES = ("open_clip_torch",)
IMAGES = 2048
EMBED_BATCH = 256
STEP_BATCH = 256
CALLS = 3


def run(pairs: int = 7) -> list[dict]:
    if not torch.cuda.is_available():
        raise InputError("benchmarks.gpu needs a CUDA device, and torch sees none")
    return [_images(pairs), _step(pairs)]


def _images(pairs: int) -> dict:
    model, preprocess, _ = peer()
    few = torch.stack([preprocess(photo) for photo in photographs(64, (500, 375))])
    pixels = few.repeat(IMAGES // len(few), 1, 1, 1).cuda()
    with TemporaryDirectory() as folder:
        ours = same_weights(model, Path(folder), "bfloat16").to("cuda")
    model = model.cuda().bfloat16()

    def mine() -> Tensor:
        return ours.embed_images(pixels, batch_size=EMBED_BATCH)

    def theirs() -> Tensor:
        with torch.inference_mode():
            parts = (part.bfloat16() for part in pixels.split(EMBED_BATCH))
            return torch.cat([model.encode_image(part, normalize=True).cpu() for part in parts])

    cosine = least_cosine(mine(), theirs().float())
    assert cosine >= 0.999, cosine
    what = f"GPU: ViT-B/32, {IMAGES} images, bfloat16"
    return {**_judged(what, mine, theirs, pairs), "cosine": cosine}


def _step(pairs: int) -> dict:
    sides = Sides(photographs(STEP_BATCH, (500, 375)), captions(STEP_BATCH), "cuda")
    mine = sides.ours("bfloat16")
    theirs = sides.theirs("bfloat16")
    first = mine()
    other = theirs()
    assert abs(first - other) <= 2e-2 * abs(other), f"the first losses are {first} and {other}"
    return _judged(f"GPU: training step, batch {STEP_BATCH}, bfloat16", mine, theirs, pairs)


def _judged(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> dict:
    """The row of a pair of calls by the clock; not met where ours runs no flash attention."""
    ours(), theirs()
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(pairs)]
    line = judged(what, "s", summary([((a, a), (b, b)) for a, b in times]), 1.0)
    flash = _flash(ours)
    return {
        **line,
        "met": line["met"] and flash,
        "flash": flash,
        "device": torch.cuda.get_device_name(),
    }


def _seconds(call: Callable[[], Any]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(CALLS):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000


def _flash(call: Callable[[], Any]) -> bool:
    """Whether a flash attention kernel runs in the call."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return any("flash" in event.key.lower() for event in found.key_averages())
