"""Peak memory of both losses at N=32768, forward and backward, beyond the features: their gradients
count.

Each runs in a process of its own. The other side is what the dense losses must hold: four float32
matrices N x N at the least (logits of both directions and their gradients) for softmax, three
(logits, labels, gradient) for sigmoid; it is computed, not run.
"""

from torch import Tensor

from benchmarks.loss_softmax import features
from benchmarks.measure import against, held, in_child, judged, peak_bytes
from diptych.objectives import info_nce, sigmoid_pairs

PACKAGES = ("open_clip_torch",)
N = 32768
BAR = 1.5e9


def run(n: int = N) -> list[dict]:
    rows = []
    for name, matrices in (("softmax", 4), ("sigmoid", 3)):
        dense = matrices * 4 * n * n
        numbers = against(in_child(extra, name, n), dense)
        rows.append(
            judged(
                f"{name} loss, N={n}, peak extra (theirs: computed)", "bytes", numbers, BAR / dense
            )
        )
    return rows


def extra(name: str, n: int) -> int:
    """Bytes by which this process's peak exceeds what it holds with the features made, after a
    small warm-up."""
    _run(name, features(64))
    given = features(n)
    before = held()
    _run(name, given)
    return peak_bytes() - before


def _run(name: str, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    image, text, scale, bias = given
    loss = (
        info_nce(image, text, scale)
        if name == "softmax"
        else sigmoid_pairs(image, text, scale, bias)
    )
    loss.backward()
