"""recall@1, 5, 10 of 5,000 images and 25,000 captions, both ways, against CLIP_benchmark's: CPU
seconds, peak memory.

Both get the same unit vectors: CLIP_benchmark through its public `evaluate`, with a model that
hands them over. Peak memory is that of a process which measures once, less what it held before,
with the vectors loaded. The vectors have a signal weak enough that the recalls lie well between 0
and 1, and a seed with which no right and wrong answer score within 1e-6 of each other: ours counts
such ties against the model, CLIP_benchmark by chance.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measure import (
    against,
    flops,
    held,
    in_child,
    interleaved,
    judged,
    peak_bytes,
    roofline,
)
from diptych.errors import InputError
from diptych.metrics import recall_at_k

PACKAGES = ("clip-benchmark",)
IMAGES = 5_000
CAPTIONS = 5
DIMENSION = 512
KS = (1, 5, 10)
BATCH = 64
SEED = 1
TIME_BAR = 1 / 3
MEMORY_BAR = 1 / 10


def run() -> list[dict]:
    """Time, then peak memory, of the six recalls."""
    if find_spec("clip_benchmark") is None:
        raise InputError(
            "benchmarks.recall needs CLIP_benchmark; install it with: pip install 'diptych[bench]'"
        )
    images, texts = vectors()
    mine = ours(images, texts)
    theirs = peers(images, texts)
    assert all(abs(mine[name] - theirs[name]) < 1e-6 for name in mine), (
        f"they differ: {mine} {theirs}"
    )
    what = f"recall@{','.join(map(str, KS))}, {IMAGES:,} x {IMAGES * CAPTIONS:,}"
    times = interleaved(lambda: ours(images, texts), lambda: peers(images, texts))
    share = roofline(flops(lambda: ours(images, texts)), times["ours"])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.safetensors"
        save_file({"images": images, "texts": texts}, path)
        a, b = (in_child(extra, work, path) for work in (ours, peers))
    return [
        {**judged(what, "CPU s", times, TIME_BAR, share), "recalls": mine},
        judged(f"{what}, peak extra", "bytes", against(a, b), MEMORY_BAR),
    ]


def vectors() -> tuple[Tensor, Tensor]:
    """Unit vectors of images (5000, 512) and of five captions for each, in order (25000, 512)."""
    draw = torch.Generator().manual_seed(SEED)
    images = torch.nn.functional.normalize(torch.randn(IMAGES, DIMENSION, generator=draw), dim=1)
    noise = torch.randn(IMAGES * CAPTIONS, DIMENSION, generator=draw)
    return images, torch.nn.functional.normalize(
        images.repeat_interleave(CAPTIONS, 0) + 0.25 * noise, dim=1
    )


def ours(images: Tensor, texts: Tensor) -> dict[str, float]:
    owner = torch.arange(IMAGES).repeat_interleave(CAPTIONS)
    captions = torch.arange(IMAGES * CAPTIONS).view(IMAGES, CAPTIONS)
    to_images = recall_at_k(texts, images, owner.numpy(), KS)
    to_texts = recall_at_k(images, texts, captions.numpy(), KS)
    return {f"image_retrieval_recall@{k}": to_images[k] for k in KS} | {
        f"text_retrieval_recall@{k}": to_texts[k] for k in KS
    }


def peers(images: Tensor, texts: Tensor) -> dict[str, float]:
    from clip_benchmark.metrics import zeroshot_retrieval

    class Given:
        """A model whose images and texts are their vectors already."""

        encode_image = encode_text = staticmethod(lambda given: given)

    def batches() -> Iterator[tuple[Tensor, list[list[Tensor]]]]:
        for start in range(0, IMAGES, BATCH):
            mine = texts[start * CAPTIONS : (start + BATCH) * CAPTIONS]
            yield images[start : start + BATCH], [list(group) for group in mine.split(CAPTIONS)]

    zeroshot_retrieval.tqdm = lambda given: given
    return zeroshot_retrieval.evaluate(
        Given(), batches(), torch.stack, "cpu", amp=False, recall_k_list=list(KS)
    )


def extra(work: Callable[[Tensor, Tensor], object], path: Path) -> int:
    """Bytes by which the work raises this process's peak above what it holds before."""
    import clip_benchmark.metrics.zeroshot_retrieval  # noqa: F401

    given = {
        name: vectors.clone() for name, vectors in load_file(path).items()
    }  # in memory, not mapped
    given["images"][:BATCH] @ given["texts"][:BATCH].T  # sets up the library of products
    before = held()
    work(given["images"], given["texts"])
    return peak_bytes() - before
