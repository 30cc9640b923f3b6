"""The two contrastive losses of image-text pairs: softmax (CLIP and others) and sigmoid (SigLIP).

Neither normalises its features. Both need O(B · tile) memory (see `core`).

Dimensions: B pairs, K keys, D width.
"""

from typing import Literal

from torch import Tensor

from diptych.errors import InputError
from diptych.objectives.core import Allowed, Targets, both_losses, pair_losses, sigmoid_mean


def info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    image_keys: Tensor | None = None,
    text_keys: Tensor | None = None,
    targets: Targets | tuple[Targets, Targets] = None,
    allowed: Allowed | None = None,
    smoothing: float = 0.0,
    directions: Literal["mean", "sum"] = "mean",
    tile: int | None = None,
) -> Tensor:
    """InfoNCE: symmetric cross-entropy of images among texts and of texts among images.

        L = ½ [ mean_i CE(scale · <image_i, text_keys>, T_i) + mean_i CE(scale · <text_i, image_keys>, T'_i) ]

    image and text are (B, D). The keys (K, D) are the other side of the batch unless given, as
    those of a momentum encoder or a queue. `scale` is the multiplier 1/temperature. `targets` are
    those of each direction's rows among its keys: None (row i, key i), (B,) long, or (B, K) float
    with rows that sum to 1; a tuple if image→text and text→image differ. A row without target
    (index -1, weights 0) is left out of the mean. `allowed` are the pairs of the batch with itself
    that compete (`core.different_group`). `smoothing` e spreads e/K over all keys.
    `directions="sum"` omits the ½. Raises InputError for shapes that do not match.

    Sources: Radford et al. 2021 (CLIP); keys and soft targets as in Li et al. 2021 (ALBEF); sum and
    smoothing as in Jia et al. 2021 (ALIGN).

    >>> import torch
    >>> x = torch.eye(3)
    >>> round(info_nce(x, x, 1.0).item(), 4)  # log(e + 2) - 1
    0.5514
    """
    if directions not in ("mean", "sum"):
        raise InputError(f"directions is {directions!r}; choose 'mean' or 'sum'")
    to_text, to_image = targets if isinstance(targets, tuple) else (targets, targets)
    if allowed is not None and not (image_keys is None and text_keys is None):
        raise InputError(
            "allowed pairs are those of a batch with itself; leave it out where keys are given"
        )
    if image_keys is None and text_keys is None:
        pair = both_losses(
            image,
            text,
            scale,
            targets=(to_text, to_image),
            allowed=allowed,
            smoothing=smoothing,
            tile=tile,
        )
    else:
        texts = text if text_keys is None else text_keys
        images = image if image_keys is None else image_keys
        pair = (
            pair_losses(image, texts, scale, targets=to_text, smoothing=smoothing, tile=tile),
            pair_losses(text, images, scale, targets=to_image, smoothing=smoothing, tile=tile),
        )
    total = pair[0].mean() + pair[1].mean()
    return total / 2 if directions == "mean" else total


def sigmoid_pairs(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    targets: Targets = None,
    allowed: Allowed | None = None,
    tile: int | None = None,
) -> Tensor:
    """The sigmoid loss: binary classification of each image-text pair as a match or not.

        L = -(1/B) Σ_ij log σ(z_ij (scale · <image_i, text_j> + bias)),      z = +1 for a match, -1 otherwise

    image (B, D), text (K, D). `targets` are None (image i matches text i), (B,) long, or (B, K)
    float, the probability of a match; `allowed`are the pairs that count (`core.different_group`).
    Raises InputError for shapes that do not match. Source: Zhai et al. 2023 (SigLIP).

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(sigmoid_pairs(x, x, 10.0, -5.0).item(), 4)  # 2 pairs a row, each log(1 + e^-5)
    0.0134
    """
    return sigmoid_mean(image, text, scale, bias, targets=targets, allowed=allowed, tile=tile)
