"""The softmax loss, forward and backward, against open_clip's ClipLoss: CPU seconds, and bytes kept
for backward."""

from collections.abc import Callable

import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from benchmarks.measure import against, interleaved, judged, roofline, saved_bytes
from diptych.objectives import info_nce

PACKAGES = ("open_clip_torch",)
N = 4096
D = 512


def run(n: int = N, pairs: int = 7) -> list[dict]:
    image, text, scale, _ = features(n)
    peer = ClipLoss()
    return compare(
        "softmax",
        n,
        lambda: info_nce(image, text, scale),
        lambda: peer(image, text, scale),
        0.75,
        4,
        pairs,
    )


def features(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit vectors of n images and texts, a scale and a bias: leaves."""
    torch.manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(n, D), dim=-1).requires_grad_() for _ in range(2)
    )
    return (
        image,
        text,
        torch.tensor(10.0, requires_grad=True),
        torch.tensor(-10.0, requires_grad=True),
    )


def compare(
    name: str,
    n: int,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    bar: float,
    products: int,
    pairs: int,
) -> list[dict]:
    """Two rows; `products` of the size of the logits (n x n x D) are what our step computes."""
    assert torch.allclose(ours(), theirs(), rtol=1e-4), f"{name}: the two losses differ"
    kept = against(saved_bytes(ours), saved_bytes(theirs))
    times = interleaved(lambda: ours().backward(), lambda: theirs().backward(), pairs)
    what = f"{name} loss, N={n}, D={D}"
    share = roofline(2 * products * n * n * D, times["ours"])
    return [judged(what, "CPU s", times, bar, share), judged(what, "bytes kept", kept, 1 / 8)]
