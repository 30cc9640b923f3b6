"""Proposals of boxes that do not depend on classes (Kim et al., 2022, OLN): each position predicts the
distances to the sides of the object around it, and how central it is in it.

Dimensions: B images, C channels, h x w positions, P positions of all maps, R boxes of an image, K
proposals of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.ops import batched_nms

from diptych.dtypes import at_least_float32
from diptych.models.two_stage.sampling import matched, sampled
from diptych.spec import Count, Positive, ShareBelowOne

ANCHOR = 8
"""The side of the anchor of a position, in positions of its map."""
_FARTHEST = 4.0  # of the logarithm of a distance, in half anchors: 55 of them


@dataclass(frozen=True, kw_only=True)
class ProposalConfig:
    """Which boxes are proposed, and which positions learn to.

    - `post_nms_top_n` boxes of an image are proposed, of which those that overlap a better one by more than
      `nms_threshold` (IoU) are left out; each map offers its `pre_nms_top_n` best ones.
    - An anchor with an overlap of `positive` or more is one of an object, below `negative` of none;
      of both, `sampled` positions of an image are learnt, objects first.
    - `box_weight` is that of the loss of the boxes beside that of the centrality.
    """

    post_nms_top_n: Count = 1000
    pre_nms_top_n: Count = 2000
    nms_threshold: Positive = 0.7
    positive: Positive = 0.3
    negative: ShareBelowOne = 0.1
    sampled: Count = 256
    box_weight: Positive = 1.0


class ProposalHead(nn.Module):
    """A head on all maps of a pyramid, with one anchor a position.

    It returns logits of centrality (B, P) and boxes (B, P, 4) as shares of the image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.centre = nn.Conv2d(channels, 1, 1)
        self.sides = nn.Conv2d(channels, 4, 1)
        for layer in (self.conv, self.centre, self.sides):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        centres = []
        boxes = []
        for x in maps:
            hidden = self.conv(x).relu()
            sides = at_least_float32(self.sides(hidden)).flatten(2).mT
            places, cell = positions_of(x)
            reach = sides.clamp(max=_FARTHEST).exp() * (ANCHOR / 2) * cell.repeat(2)
            boxes.append(torch.cat([places - reach[..., :2], places + reach[..., 2:]], dim=-1))
            centres.append(at_least_float32(self.centre(hidden)).flatten(1))
        return torch.cat(centres, dim=1), torch.cat(boxes, dim=1)


def positions_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """The centres (h · w, 2) of the positions of a map (B, C, h, w), and the sides (2) of one, as
    shares of the image."""
    h, w = x.shape[-2:]
    cell = torch.tensor([1 / w, 1 / h], dtype=torch.float32, device=x.device)
    y, across = torch.meshgrid(
        torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij"
    )
    return (torch.stack([across, y], dim=-1).view(-1, 2) + 0.5) * cell, cell


def anchors_of(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The anchors (P, 4) of all maps, and their centres (P, 2)."""
    boxes = []
    centres = []
    for x in maps:
        places, cell = positions_of(x)
        reach = cell * (ANCHOR / 2)
        boxes.append(torch.cat([places - reach, places + reach], dim=1))
        centres.append(places)
    return torch.cat(boxes), torch.cat(centres)


def proposal_terms(
    centre: Tensor,
    boxes: Tensor,
    maps: Sequence[Tensor],
    truth: Sequence[Tensor],
    seeds: Tensor,
    config: ProposalConfig,
) -> dict[str, Tensor]:
    """The losses of an image's positions, as sums (B,) with the numbers (B,) that they are of.

        L_centre = Σ | sigmoid(centre_p) - centrality_p |,      L_boxes = Σ ( 1 - IoU(box_p, truth_p) )

    The centrality is that of FCOS, 0 for a position of no object; boxes are those of positions inside
    their object. `truth` has the boxes (R, 4) of each image, `seeds` (B,) choose what is learnt.
    """
    anchors, places = anchors_of(maps)
    matcher = Matcher(config.positive, config.negative, allow_low_quality_matches=True)
    rows = []
    for logits, found, own, seed in zip(centre, boxes, truth, seeds.tolist(), strict=True):
        match, target = matched(matcher, own, anchors)
        wanted = centrality(places, target) * (match >= 0)
        # nothing is learnt between the thresholds, nor at a position outside of its object
        labels = torch.where(match == -1, 0, wanted.gt(0).long() * 2 - 1)
        chosen = sampled(labels, config.sampled, 1.0, seed)
        positive = chosen & (labels == 1)
        rows.append(
            {
                "centre": ((logits.sigmoid() - wanted).abs() * chosen).sum(),
                "centre_count": chosen.sum(),
                "sides": ((1 - iou(found, target)) * positive).sum(),
                "sides_count": positive.sum(),
            }
        )
    return {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}


def centrality(places: Tensor, boxes: Tensor) -> Tensor:
    """How central points (P, 2) are in their boxes (P, 4), 1 in the middle and 0 outside (Tian et al.,
    2019).

    >>> centrality(torch.tensor([[0.5, 0.5], [0.25, 0.5]]), torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])).tolist()
    [1.0, 0.577...]
    """
    near = places - boxes[:, :2]
    far = boxes[:, 2:] - places
    inside = (torch.cat([near, far], dim=1) > 0).all(1)
    least = torch.minimum(near, far).clamp(min=0)
    most = torch.maximum(near, far).clamp(min=1e-9)
    return (least / most).prod(1).sqrt() * inside


def iou(a: Tensor, b: Tensor) -> Tensor:
    """The overlap (P,) of boxes (P, 4) with others, row by row."""
    low = torch.maximum(a[:, :2], b[:, :2])
    high = torch.minimum(a[:, 2:], b[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = sum((each[:, 2:] - each[:, :2]).clamp(min=0).prod(1) for each in (a, b))
    return common / (areas - common).clamp(min=1e-9)


@torch.no_grad()
def proposed(
    centre: Tensor, boxes: Tensor, counts: Sequence[int], config: ProposalConfig
) -> list[tuple[Tensor, Tensor]]:
    """The proposals (K, 4) of each image, inside of it, by falling objectness (K,).

    `counts` are the numbers of positions of the maps, whose boxes do not suppress each other.
    """
    level = torch.repeat_interleave(
        torch.arange(len(counts), device=boxes.device),
        torch.tensor(counts, device=boxes.device),
    )
    found = []
    for logits, own in zip(centre.sigmoid(), boxes.clamp(0, 1), strict=True):
        best = torch.cat(
            [
                start + part.topk(min(config.pre_nms_top_n, len(part))).indices
                for part, start in _parts(logits, counts)
            ]
        )
        sides = own[best, 2:] - own[best, :2]
        best = best[(sides > 1e-4).all(1)]
        kept = best[batched_nms(own[best], logits[best], level[best], config.nms_threshold)]
        found.append((own[kept[: config.post_nms_top_n]], logits[kept[: config.post_nms_top_n]]))
    return found


def _parts(values: Tensor, counts: Sequence[int]) -> list[tuple[Tensor, int]]:
    """The values of each map, with the number of those before them."""
    found = []
    start = 0
    for count in counts:
        found.append((values[start : start + count], start))
        start += count
    return found
