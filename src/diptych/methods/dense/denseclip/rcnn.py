"""A two-stage detector with masks on maps that come from anywhere: Mask R-CNN (He et al., 2017).

    L = L_objects + L_shifts  +  L_names + L_moves  +  L_masks

The first two are those of the proposals: of anchors that are sampled, whether there is an object, and
of those of objects how the box differs from the anchor. The others are those of `models.two_stage`:
which class a proposal has, how its box is refined, and its mask.

Dimensions: B images, C_i channels of map i, R boxes of an image, A anchors, K boxes of all images, N
proposals of an image, C classes.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from diptych.dtypes import at_least_float32
from diptych.methods.dense.denseclip.retina import RATIOS
from diptych.models.detection import Regions
from diptych.models.two_stage.boxes import BoxConfig, Chosen, box_terms, chosen, moved, padded
from diptych.models.two_stage.masks import MaskBranch
from diptych.models.two_stage.proposals import ProposalConfig, positions_of, proposed
from diptych.models.two_stage.pyramid import POOLED, pool_levels
from diptych.models.two_stage.sampling import matched, sampled

ANCHOR = 8
"""The side of a position's anchors, in positions of its map; the root of their area."""
SHARE = 0.5
"""The most of the sampled anchors that are of objects."""
_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
_BETA = 1 / 9  # of the smooth L1 loss


class MaskRCNN(nn.Module):
    """Maps (B, C_i, h_i, w_i), fine to coarse, as boxes with the probabilities of classes, and their
    masks. The pyramid adds a coarser map, of which boxes are proposed alone."""

    def __init__(
        self,
        widths: Sequence[int],
        *,
        width: int,
        hidden: int,
        classes: int,
        proposals: ProposalConfig,
    ):
        super().__init__()
        self.proposals = proposals
        self.boxes = BoxConfig(background_weight=1.0)
        self.classes = classes
        self.pyramid = FeaturePyramidNetwork(list(widths), width, LastLevelMaxPool())
        self.objects = RPNHead(width, len(RATIOS))
        self.head = TwoMLPHead(width * POOLED**2, hidden)
        self.name = nn.Linear(hidden, classes + 1)
        self.refine = nn.Linear(hidden, 4)
        for layer, std in ((self.name, 0.01), (self.refine, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.mask_head = MaskBranch(width, width, classes)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid's maps, of which the last one is for proposals alone."""
        named = OrderedDict((str(at), each) for at, each in enumerate(maps))
        return list(self.pyramid(named).values())

    def offered(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, A) that an anchor has an object, its shifts (B, A, 4), and the anchors (A, 4) as
        shares of the image."""
        logits, shifts = self.objects(list(levels))
        logits, shifts = concat_box_prediction_layers(logits, shifts)
        B = len(levels[0])
        anchors = torch.cat([anchors_of(each) for each in levels])
        logits = at_least_float32(logits).view(B, -1)
        return logits, at_least_float32(shifts).view(B, -1, 4), anchors

    def proposed(
        self, levels: Sequence[Tensor], logits: Tensor, shifts: Tensor, anchors: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """The proposals (N, 4) of each image, by falling probability (N,) of an object."""
        counts = [each.shape[2] * each.shape[3] * len(RATIOS) for each in levels]
        own = anchors.expand(len(logits), -1, -1)
        boxes = _CODER.decode_single(shifts.flatten(0, 1), own.flatten(0, 1)).view_as(shifts)
        return proposed(logits, boxes, counts, self.proposals)

    def losses(
        self,
        levels: Sequence[Tensor],
        truth: Sequence[Tensor],
        numbers: Sequence[Tensor],
        seeds: Tensor,
    ) -> tuple[dict[str, Tensor], Chosen]:
        """The losses of the proposals and of the boxes, as sums (B,) with their numbers (B,), and the
        boxes that were chosen.

        `truth` (R, 4) are the boxes of each image, `numbers` (R,) their classes; `seeds` (B,) choose
        what is learnt.
        """
        logits, shifts, anchors = self.offered(levels)
        found = object_terms(logits, shifts, anchors, truth, seeds, self.proposals)
        offered = [
            boxes for boxes, _ in self.proposed(levels, logits.detach(), shifts.detach(), anchors)
        ]
        given = chosen(offered, truth, numbers, seeds, self.classes, self.boxes)
        names, moves = self.read(levels, given.boxes, given.image)
        return found | box_terms(names, moves, given, len(logits), self.boxes), given

    def read(self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (K, C + 1) of boxes (K, 4), of which the last is the background's, and their
        refinements (K, 4)."""
        hidden = self.head(pool_levels(levels[:-1], boxes, image))
        return at_least_float32(self.name(hidden)), at_least_float32(self.refine(hidden))

    def regions(self, levels: Sequence[Tensor]) -> Regions:
        """The proposals, refined, with the probabilities of the classes; they have no vectors. An image
        with fewer than others is filled up with boxes of score 0."""
        found = self.proposed(levels, *self.offered(levels))
        boxes = torch.cat([each for each, _ in found])
        centre = torch.cat([each for _, each in found])
        lengths = [len(each) for each, _ in found]
        image = torch.repeat_interleave(
            torch.arange(len(found), device=boxes.device),
            torch.tensor(lengths, device=boxes.device),
        )
        logits, moves = self.read(levels, boxes, image)
        scores = logits.softmax(-1)[:, :-1]
        rows = lengths, self.proposals.post_nms_top_n
        return Regions(
            padded(scores[:, :0], *rows),
            padded(moved(boxes, moves), *rows),
            padded(torch.logit(centre, eps=1e-6), *rows, fill=-20.0),
            padded(scores, *rows),
        )


def anchors_of(x: Tensor) -> Tensor:
    """The anchors (A, 4) of a map (B, C, h, w) as shares of the image: of each position one for each of
    the ratios of height and width.

    >>> anchors_of(torch.zeros(1, 1, 16, 16))[1].tolist()
    [-0.21875, -0.21875, 0.28125, 0.28125]
    """
    places, cell = positions_of(x)
    root = torch.tensor(RATIOS, device=x.device).sqrt()
    half = ANCHOR / 2 * cell * torch.stack([1 / root, root], dim=1)
    low = places[:, None] - half
    return torch.cat([low, places[:, None] + half], dim=2).flatten(0, 1)


def object_terms(
    logits: Tensor,
    shifts: Tensor,
    anchors: Tensor,
    truth: Sequence[Tensor],
    seeds: Tensor,
    config: ProposalConfig,
) -> dict[str, Tensor]:
    """The losses of the anchors that are sampled of each image, as sums (B,) with the number (B,) of
    these.

        L_objects = Σ BCE(logit_a, 1 if there is an object),      L_shifts = Σ smooth L1 of its shifts

    An anchor has an object if it overlaps (IoU) its box by `positive` or more, or more than all other
    anchors do; it has none below `negative`.
    """
    matcher = Matcher(config.positive, config.negative, allow_low_quality_matches=True)
    rows = []
    for found, moves, own, seed in zip(logits, shifts, truth, seeds.tolist(), strict=True):
        match, target = matched(matcher, own, anchors)
        labels = torch.where(match >= 0, 1, torch.where(match == -1, 0, -1))
        learnt = sampled(labels, config.sampled, SHARE, seed)
        held = learnt & (labels == 1)
        wanted = (labels == 1).to(found)
        objects = F.binary_cross_entropy_with_logits(found, wanted, reduction="none")
        goal = _CODER.encode_single(target[held], anchors[held])
        off = F.smooth_l1_loss(moves[held], goal, reduction="sum", beta=_BETA)
        rows.append(
            {"objects": objects[learnt].sum(), "shifts": off, "anchors_count": learnt.sum()}
        )
    return {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}
