"""Growth: a step of the small `clip` at 64 px under GradCache with batch 4096 against the same with
batch 256.

Both sides are ours: seconds a sample (within 15 %) and peak memory of a step beyond what the
process holds with the batch loaded, after a warm-up step of the same batch (within 10 %). Each has
a process of its own, whose allocator gives what is freed back at once: else the peak would count
what it keeps for later.
"""

import torch

from benchmarks.material import captions
from benchmarks.measure import (
    against,
    flops,
    forget_peak,
    held,
    in_child,
    interleaved,
    judged,
    peak_bytes,
    roofline,
)
from diptych.data.batch import Batch, Images, Tokens
from diptych.data.tokenizers import build, pad_batch
from diptych.methods.base import At
from diptych.methods.make import Make
from diptych.methods.pretrain.clip import CLIP
from diptych.training.gradcache import cached
from diptych.training.step import Step

PACKAGES = ()
SMALL = 256
LARGE = 4096
CHUNK = 4096
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


def run(small: int = SMALL, large: int = LARGE, pairs: int = 7) -> list[dict]:
    """One step of the large batch against as many steps of the small one as have its samples."""
    step, few, many = *_step_and_batch(small), _step_and_batch(large)[1]
    what = f"clip small, 64 px, GradCache, batch {large} against {small}"
    times = interleaved(
        lambda: _run(step, many), lambda: [_run(step, few) for _ in range(large // small)], pairs
    )
    share = roofline(flops(lambda: _run(step, many)), times["ours"])
    memory = against(*(in_child(extra, count, environment=GIVES_BACK) for count in (large, small)))
    return [
        judged(what, "CPU s", times, 1.15, share),
        judged(what, "peak bytes beyond the batch", memory, 1.10),
    ]


def extra(count: int) -> int:
    """Bytes of this process's peak in a step beyond what it holds before it: the model, the batch,
    and a warm-up's."""
    step, batch = _step_and_batch(count)
    _run(step, batch)
    forget_peak()
    before = held()
    _run(step, batch)
    return peak_bytes() - before


def _step_and_batch(count: int) -> tuple[Step, Batch]:
    preset = CLIP.presets["small"]
    texts = captions(count)
    tokenizer = build(preset.tokenizer, captions(1000))
    torch.manual_seed(0)
    make = Make(
        image=preset.image, text=preset.text, embed_dim=preset.embed_dim, tokenizer=tokenizer
    )
    method = CLIP(CLIP.configure({}), make).train()
    pixels = torch.randint(256, (count, 1, 3, 64, 64), dtype=torch.uint8)
    ids, lengths = pad_batch(tokenizer.encode(texts), tokenizer)
    batch = Batch(
        {"main": Images(pixels)}, {"main": Tokens(ids[:, None], lengths[:, None])}, keys=texts
    )
    return Step(method, "float32"), batch


def _run(step: Step, batch: Batch) -> None:
    step.method.zero_grad()
    cached(CHUNK)(step, batch, At(0, 1, 0, 0))
