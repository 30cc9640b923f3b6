"""Text-patch grouping: each text pools the patches that it describes, and is matched to the pooled
vector.

    S_ikn = <t_ik, p_in>                          text k and patch n of the same image i
    W = S scaled to 0 … 1 over n (or its softmax), values below sigma set to 0, divided by the sum
    g_ik = unit(Σ_n W_ikn p_in)

Gradients flow through W. Half precision is computed in float32. Source: Zheng et al. 2024
(DreamLIP).

Dimensions: B images, K texts an image, P patches, D width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.objectives.contrastive import info_nce

_EDGE = 1e-6  # the best patch is slightly below 1 after scaling

_NEVER = -1e9  # the logit of what is not there

Weighting = Literal["minmax", "softmax"]


def group_weights(
    texts: Tensor, patches: Tensor, *, sigma: float = 0.0, weighting: Weighting = "minmax"
) -> Tensor:
    """W (B, K, P) of unit texts (B, K, D) and unit patches (B, P, D): each row sums to 1.

    "minmax" scales similarities so that a text's worst patch is 0 and its best is 1; "softmax" is
    over the patches. Weights below `sigma` (at most 1) are then set to 0, except for the best
    patch. Patches that are all equal have equal weights.

    >>> patches = torch.tensor([[[1.0, 0], [0.6, 0.8], [0, 1]]])
    >>> text = F.normalize(torch.tensor([[[1.0, 0.2]]]), dim=-1)
    >>> group_weights(text, patches).round(decimals=4)
    tensor([[[0.5882, 0.4118, 0.0000]]])
    """
    if weighting not in ("minmax", "softmax"):
        raise InputError(f"weighting is {weighting!r}; choose 'minmax' or 'softmax'")
    if not 0 <= sigma <= 1:
        raise InputError(f"sigma is {sigma}; it is a share between 0 and 1")
    if (
        texts.dim() != 3
        or patches.dim() != 3
        or len(texts) != len(patches)
        or texts.shape[2] != patches.shape[2]
    ):
        raise InputError(
            f"texts {tuple(texts.shape)} and patches {tuple(patches.shape)} must be (B, K, D), (B, P, D)"
        )
    with torch.autocast(texts.device.type, enabled=False):
        found = at_least_float32(texts) @ at_least_float32(patches).mT
        if weighting == "minmax":
            low = found.amin(2, keepdim=True)
            high = found.amax(2, keepdim=True)
            weights = (found - low) / (high - low + 1e-10)
        else:
            weights = found.softmax(2)
        kept = (weights >= sigma - _EDGE) | (weights >= weights.amax(2, keepdim=True) - _EDGE)
        weights = weights * kept
        total = weights.sum(2, keepdim=True)
        even = torch.full_like(weights, 1 / weights.shape[2])
        # If all patches are equal the sum is 0. The divisor is clamped too, else its gradient is
        # NaN.
        return torch.where(total > _EDGE, weights / total.clamp(min=_EDGE), even)


def grouped(
    texts: Tensor, patches: Tensor, *, sigma: float = 0.0, weighting: Weighting = "minmax"
) -> Tensor:
    """g (B, K, D): for each text the normalised mean of its patches, weighted by
    `group_weights`."""
    weights = group_weights(texts, patches, sigma=sigma, weighting=weighting)
    with torch.autocast(texts.device.type, enabled=False):
        return F.normalize(weights @ at_least_float32(patches), dim=-1)


def grouping(
    texts: Tensor,
    groups: Tensor,
    scale: Tensor | float,
    *,
    negatives: Literal["image", "batch"] = "image",
    there: Tensor | None = None,
    mean: Literal["images", "texts"] = "images",
) -> Tensor:
    """InfoNCE between the texts of an image and their groups of patches, in both directions.

        L = mean_i ½ [ mean_k CE(scale · <g_ik, t_im>, m = k) + mean_k CE(scale · <t_ik, g_im>, m = k) ]

    texts and groups are unit vectors (B, K, D). `negatives="batch"` is one InfoNCE over all B · K
    of them. Of images with different numbers of texts, `there` (B, K) says which are real: the others
    have no row and are in no other row's sum. An image without any has no loss. With `mean="texts"`
    all texts count alike, and not all images.

    >>> x = F.normalize(torch.eye(2).expand(3, 2, 2), dim=-1)
    >>> round(grouping(x, x, 1.0).item(), 4)  # log(1 + 1 / e)
    0.3133
    """
    if negatives not in ("image", "batch"):
        raise InputError(f"negatives is {negatives!r}; choose 'image' or 'batch'")
    if negatives == "batch":
        if there is not None:
            raise InputError("negatives=batch takes no `there`; choose the real texts before")
        return info_nce(groups.flatten(0, 1), texts.flatten(0, 1), scale)
    with torch.autocast(texts.device.type, enabled=False):
        logits = scale * (at_least_float32(groups) @ at_least_float32(texts).mT)  # (B, K, K): small
        own = logits.diagonal(dim1=1, dim2=2)
        if there is None:
            return ((logits.logsumexp(2) - own).mean() + (logits.logsumexp(1) - own).mean()) / 2
        # a number in place of -inf: a sum over nothing would have no gradient
        logits = logits.masked_fill(~(there[:, :, None] & there[:, None, :]), _NEVER)
        each = (logits.logsumexp(2) + logits.logsumexp(1)) / 2 - own
        each = each.masked_fill(~there, 0)
        count = there.sum(1)
        if mean == "texts":
            return each.sum() / count.sum().clamp(min=1)
        alive = (count > 0).sum().clamp(min=1)
        return (each.sum(1) / count.clamp(min=1)).sum() / alive
