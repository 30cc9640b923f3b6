"""The sigmoid loss, forward and backward, against open_clip's SigLipLoss: CPU seconds, and bytes
kept for backward."""

from open_clip.loss import SigLipLoss

from benchmarks.loss_softmax import N, compare, features
from diptych.objectives import sigmoid_pairs

PACKAGES = ("open_clip_torch",)


def run(n: int = N, pairs: int = 7) -> list[dict]:
    image, text, scale, bias = features(n)
    peer = SigLipLoss()

    def ours():
        return sigmoid_pairs(image, text, scale, bias)

    return compare("sigmoid", n, ours, lambda: peer(image, text, scale, bias), 1.0, 3, pairs)
