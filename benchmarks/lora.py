"""One training step of LoRA of rank 8 on ViT-B/32 at batch 32 against open_clip's model with
peft's layers: CPU seconds, and peak memory beyond the model.

Both adapt the two linear layers of each MLP, which are the same products in both, begin at the same
weights and train the same number of factors and the temperature. The losses of the first step must
agree. open_clip keeps q, k and v in one matrix, so adapters of attention would differ.
"""

from benchmarks.adapt import GIVES_BACK
from benchmarks.material import captions, photographs
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
from benchmarks.step import BATCH, Sides

PACKAGES = ("open_clip_torch", "peft")
ADAPTERS = ("lora:r=8:layers=fc1+fc2", ["c_fc", "c_proj"])


def run(pairs: int = 7, batch: int = BATCH) -> list[dict]:
    sides = _sides(batch)
    ours = sides.ours("float32")
    theirs = sides.theirs("float32")
    first, found = theirs(), ours()
    assert abs(found - first) <= 1e-4 * abs(first), f"the first losses are {found} and {first}"
    work = flops(ours)
    times = interleaved(ours, theirs, pairs)
    memory = against(
        *(in_child(extra, side, batch, environment=GIVES_BACK) for side in ("ours", "theirs"))
    )
    what = f"LoRA of rank 8, ViT-B/32, batch {batch}"
    return [
        judged(f"{what}, a step", "CPU s", times, 1.0, roofline(work, times["ours"])),
        judged(f"{what}, beyond the model", "bytes", memory, 1.0),
    ]


def extra(side: str, batch: int) -> int:
    """Bytes of this process's peak in two steps beyond what it holds with model and batch."""
    step = getattr(_sides(batch), side)("float32")
    forget_peak()
    before = held()
    for _ in range(2):
        step()
    return peak_bytes() - before


def _sides(batch: int) -> Sides:
    return Sides(photographs(batch, (500, 375)), captions(batch), adapters=ADAPTERS)
