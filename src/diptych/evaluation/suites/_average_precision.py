"""Average precision of detections, as COCO counts it (Lin et al., 2014).

Detections of a class are processed by falling score over all images. Each is assigned the object of its
image that it overlaps most, among those not yet assigned, and is a hit if the overlap (IoU) is at least
the one asked for.

Dimensions: n detections and m objects of an image, O overlaps, H x W pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps over which COCO averages."""
_PIXELS = 1 << 20  # compared at once


@dataclass(frozen=True, eq=False)
class Judged:
    """What was found in an image: classes (n,), scores (n,) and overlaps (n, m) with its objects, whose
    classes are `wanted` (m,)."""

    classes: Tensor
    scores: Tensor
    overlaps: Tensor
    wanted: Tensor


def average_precisions(
    images: Sequence[Judged], least: Sequence[float] = OVERLAPS
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return the average precisions (O,) of each class that has objects, and the shares (O,) of all
    objects that are found, if hits overlap by at `least` (O,)."""
    scores: dict[int, list[np.ndarray]] = {}
    hits: dict[int, list[np.ndarray]] = {}
    counts: Counter[int] = Counter()
    for image in images:
        counts.update(image.wanted.tolist())
        for number in image.classes.unique().tolist():
            mine = image.classes == number
            overlaps = image.overlaps[mine][:, image.wanted == number].numpy()
            own = image.scores[mine].numpy()
            scores.setdefault(number, []).append(own)
            hits.setdefault(number, []).append(matched(overlaps, own, least))
    precisions = {}
    taken = np.zeros(len(least))
    for number in sorted(counts):
        if number not in hits:
            precisions[number] = np.zeros(len(least))
            continue
        likely = np.concatenate(scores[number])
        hit = np.concatenate(hits[number], axis=1)
        rows = [average_precision(likely, row, counts[number]) for row in hit]
        precisions[number] = np.array(rows)
        taken += hit.sum(axis=1)
    return precisions, taken / max(sum(counts.values()), 1)


def matched(
    overlaps: np.ndarray, scores: np.ndarray, least: Sequence[float] = (0.5,)
) -> np.ndarray:
    """Return which detections (O, n) of one class in one image are hits, for each of the overlaps (O,)
    asked for: the highest score chooses first among the objects, by the overlaps (n, m).

    >>> matched(np.array([[0.6], [0.9]]), np.array([0.5, 0.4]), (0.5, 0.8)).tolist()
    [[True, False], [False, True]]
    """
    bounds = np.array(least)
    rows = np.arange(len(bounds))
    hits = np.zeros((len(bounds), len(overlaps)), bool)
    if not overlaps.size:
        return hits
    free = np.ones((len(bounds), overlaps.shape[1]), bool)
    possible = overlaps.max(axis=1) >= bounds.min()
    for at in np.argsort(-scores, kind="stable"):
        if not possible[at]:
            continue
        left = np.where(free, overlaps[at], -1.0)
        best = left.argmax(axis=1)
        hit = left[rows, best] >= bounds
        hits[hit, at] = True
        free[hit, best[hit]] = False
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, count: int) -> float:
    """Return COCO's average precision of detections (n,), hits or not, for `count` objects. Of equal
    scores, misses come first.

    >>> round(average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2), 4)
    0.835
    """
    order = np.lexsort((hits, -scores))
    right = hits[order].cumsum()
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[
        ::-1
    ]  # the largest at this recall or a higher one
    place = np.searchsorted(right / count, np.linspace(0, 1, 101) - 1e-12, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())


def mask_iou(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the overlaps (n, m) of masks (n, H, W) and (m, H, W) bool.

    >>> mask_iou(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]])).tolist()
    [[0.5]]
    """
    # a count of pixels above 2^24 does not fit float32
    common = torch.zeros(len(found), len(wanted), dtype=torch.float64)
    sizes = [torch.zeros(len(each), dtype=torch.float64) for each in (found, wanted)]
    parts = zip(
        found.flatten(1).split(_PIXELS, 1), wanted.flatten(1).split(_PIXELS, 1), strict=True
    )
    for a, b in parts:
        common += a.float() @ b.float().T
        sizes[0] += a.sum(1)
        sizes[1] += b.sum(1)
    union = sizes[0][:, None] + sizes[1] - common
    return common / union.clamp(min=1)
