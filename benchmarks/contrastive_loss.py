"""The two contrastive losses, forward and backward, against open_clip's: CPU seconds and bytes kept for backward."""

from collections.abc import Callable

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from benchmarks.measure import interleaved, saved_bytes
from diptych.objectives import info_nce, sigmoid_pairs

PACKAGES = ("open_clip_torch",)
N, D = 4096, 512


def run() -> list[dict]:
    torch.manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(N, D), dim=-1).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    softmax, sigmoid = ClipLoss(), SigLipLoss()
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "softmax": (lambda: info_nce(image, text, scale), lambda: softmax(image, text, scale)),
        "sigmoid": (lambda: sigmoid_pairs(image, text, scale, bias), lambda: sigmoid(image, text, scale, bias)),
    }
    rows = []
    for name, (ours, theirs) in pairs.items():
        assert torch.allclose(ours(), theirs(), rtol=1e-4), f"{name}: the two losses differ"
        kept = saved_bytes(ours), saved_bytes(theirs)
        what = f"{name} loss, N={N}, D={D}"
        rows.append({"what": what, "unit": "CPU s", **interleaved(_step(ours), _step(theirs))})
        rows.append(
            {"what": what, "unit": "bytes kept", "ours": kept[0], "theirs": kept[1], "ratio": kept[0] / kept[1]}
        )
    return rows


def _step(loss: Callable[[], Tensor]) -> Callable[[], None]:
    return lambda: loss().backward()
