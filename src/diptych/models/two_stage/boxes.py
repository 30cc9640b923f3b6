"""The second step of the detector: proposals are named and refined, in training and in inference.

    p_c  = softmax_c( [ cos(f, t_1), …, cos(f, t_C), cos(f, b) ] / (.1 g) )         the detector's, b: background
    q_c  = softmax_c( cos(v, t_c) / .01 )                                            the pretrained model's
    s_c  ∝ p_c^(1 - w_c) q_c^w_c,   s_background ∝ p_background,   Σ s = 1,      score_c = objectness^3 s_c

f is the box head's vector, v that of the frozen image tower, g is learned.

Dimensions: B images, K boxes, R boxes of an image, C classes, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher

from diptych.models.two_stage.sampling import matched, sampled
from diptych.spec import Count, NotNegative, Positive, Share

_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
_BETA = 1 / 9  # of the smooth L1 loss


@dataclass(frozen=True, kw_only=True)
class BoxConfig:
    """How proposals are learnt and scored.

    - A proposal with an overlap (IoU) of `positive` or more is one of an object. `sampled` of an
      image are learnt, at most the `share` of them of objects, and the loss of the others has the
      weight `background_weight`.
    - `base_weight` and `novel_weight` are the weights w of the pretrained model's score for classes
      that the detector was trained on, and for others; `temperature` is of that score, and
      `objectness` the power of the objectness.
    - `crop` scales the boxes, about their centres, from which the pretrained model's vectors are
      pooled.
    - `detections` of an image are kept at most.
    """

    positive: Positive = 0.5
    sampled: Count = 512
    share: Share = 0.25
    background_weight: NotNegative = 0.9
    base_weight: Share = 0.35
    novel_weight: Share = 0.65
    temperature: Positive = 0.01
    objectness: NotNegative = 3.0
    crop: Positive = 0.7
    detections: Count = 300


@dataclass(frozen=True, eq=False)
class Chosen:
    """Boxes (K, 4) of all images that are learnt, the number of each one's image (K,) and class (K,),
    C for background, the boxes (K, 4) of their objects, and the numbers (K,) of these among the boxes
    of their image."""

    boxes: Tensor
    image: Tensor
    classes: Tensor
    truth: Tensor
    objects: Tensor


@torch.no_grad()
def chosen(
    proposals: Sequence[Tensor],
    truth: Sequence[Tensor],
    numbers: Sequence[Tensor],
    seeds: Tensor,
    classes: int,
    config: BoxConfig,
) -> Chosen:
    """Choose proposals (K, 4) of each image to learn from, beside its own boxes (R, 4), whose classes
    are `numbers` (R,). The `seeds` (B,) choose."""
    matcher = Matcher(config.positive, config.positive, allow_low_quality_matches=False)
    parts: list[tuple[Tensor, ...]] = []
    rows = zip(proposals, truth, numbers, seeds.tolist(), strict=True)
    for at, (given, own, kinds, seed) in enumerate(rows):
        boxes = torch.cat([own, given])
        match, target = matched(matcher, own, boxes)
        kept = sampled((match >= 0).long(), config.sampled, config.share, seed).nonzero()[:, 0]
        kind = torch.full_like(match, classes)
        kind[match >= 0] = kinds[match[match >= 0]]
        parts.append(
            (boxes[kept], torch.full_like(kept, at), kind[kept], target[kept], match[kept])
        )
    return Chosen(*(torch.cat(part) for part in zip(*parts, strict=True)))


def box_terms(
    logits: Tensor, moves: Tensor, given: Chosen, images: int, config: BoxConfig
) -> dict[str, Tensor]:
    """The losses of the chosen boxes, as sums (B,) over those of each image, with their numbers (B,).

    `logits` (K, C + 1) end with the background, `moves` (K, 4) are the refinements of the boxes.
    """
    held = given.classes < logits.shape[1] - 1
    named = F.cross_entropy(logits, given.classes, reduction="none")
    named = torch.where(held, named, config.background_weight * named)
    wanted = _CODER.encode_single(given.truth, given.boxes)
    off = F.smooth_l1_loss(moves, wanted, reduction="none", beta=_BETA).sum(1) * held

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(images).index_add(0, given.image, values)

    return {
        "names": summed(named),
        "moves": summed(off),
        "boxes_count": summed(torch.ones_like(named)),
        "hits": summed((logits.argmax(1) == given.classes).to(named)),
    }


def moved(boxes: Tensor, moves: Tensor) -> Tensor:
    """Boxes (K, 4) refined by `moves` (K, 4), inside of the image.

    >>> moved(torch.tensor([[0.2, 0.2, 0.4, 0.4]]), torch.zeros(1, 4))
    tensor([[0.2000, 0.2000, 0.4000, 0.4000]])
    """
    return _CODER.decode_single(moves, boxes).clamp(0, 1)


def scaled(boxes: Tensor, by: float) -> Tensor:
    """Boxes (…, 4) of `by` times their sides, about their centres.

    >>> scaled(torch.tensor([0.0, 0.0, 1.0, 1.0]), 0.5)
    tensor([0.2500, 0.2500, 0.7500, 0.7500])
    """
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2 * by
    return torch.cat([centre - half, centre + half], dim=-1)


def fused(
    found: Tensor, known: Tensor, objectness: Tensor, weights: Tensor, power: float
) -> Tensor:
    """The scores (K, C) of classes.

    `found` (K, C + 1) are the detector's probabilities, which end with the background, `known` (K, C)
    those of the pretrained model, `objectness` (K,), and `weights` (C,) those of `known`.

    >>> scores = fused(torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6]]), torch.ones(1), torch.tensor([0.35]), 3)
    >>> round(float(scores[0, 0]), 4)  # .29378 / (.29378 + .8)
    0.2686
    """
    mixed = found[:, :-1] ** (1 - weights) * known**weights
    total = mixed.sum(1) + found[:, -1]
    return mixed / total.clamp(min=1e-12)[:, None] * objectness[:, None] ** power


def padded(values: Tensor, lengths: Sequence[int], most: int, fill: float = 0.0) -> Tensor:
    """Rows (K, …) of all images, of which each has so many, as (B, most, …), filled up.

    >>> padded(torch.tensor([1.0, 2.0, 3.0]), [1, 2], 3).tolist()
    [[1.0, 0.0, 0.0], [2.0, 3.0, 0.0]]
    """
    rows = torch.nn.utils.rnn.pad_sequence(
        list(values.split(list(lengths))), batch_first=True, padding_value=fill
    )
    lacking = rows.new_full((len(rows), most - rows.shape[1], *rows.shape[2:]), fill)
    return torch.cat([rows, lacking], dim=1)
