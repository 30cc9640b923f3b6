"""A one-stage detector on a pyramid: torchvision's RetinaNet, on maps that come from anywhere.

Dimensions: B images, C_i channels of map i, R boxes of an image, A anchors, K classes, N candidates.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from diptych.dtypes import at_least_float32
from diptych.models.detection import Regions

SCALES = tuple(4 * 2 ** (part / 3) for part in range(3))
"""The sides of a position's anchors, in positions of its map."""
RATIOS = (0.5, 1.0, 2.0)
CANDIDATES = 1000
"""The most boxes that each map offers."""
_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))


class RetinaHead(nn.Module):
    """Maps (B, C_i, h_i, w_i), fine to coarse, as boxes with logits of classes.

    The pyramid adds two coarser ones. Source: Lin et al. 2017 (focal loss).
    """

    def __init__(self, widths: Sequence[int], *, width: int, classes: int):
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(widths), width, LastLevelP6P7(widths[-1], width))
        self.head = RetinaNetHead(width, len(SCALES) * len(RATIOS), classes)
        for part in (self.head.classification_head.conv, self.head.regression_head.conv):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    # torchvision's standard deviation of .01 is for 256 channels: of fewer, the four
                    # layers without a norm pass on next to nothing
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)

    def forward(self, maps: Sequence[Tensor], side: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The logits (B, A, K) and the moves (B, A, 4) of anchors, and the anchors (A_l, 4) of each map, in
        pixels of images of a `side`."""
        named = OrderedDict((str(at), each) for at, each in enumerate(maps))
        levels = list(self.pyramid(named).values())
        outputs = {name: at_least_float32(each) for name, each in self.head(levels).items()}
        return outputs, anchors_of(levels, side)

    def losses(
        self,
        outputs: dict[str, Tensor],
        anchors: Sequence[Tensor],
        boxes: Sequence[Tensor],
        classes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The focal loss and that of the boxes of each image (B,), each divided by its number of
        anchors that have an object.

        `boxes` (R, 4) of each image are in pixels, `classes` (R,) their numbers.
        """
        joined = torch.cat(list(anchors))
        found = []
        for at, (own, kinds) in enumerate(zip(boxes, classes, strict=True)):
            match = torch.full((len(joined),), -1, device=joined.device)
            if len(own):
                match = self.matcher(box_iou(own, joined))
            given = {name: each[at : at + 1] for name, each in outputs.items()}
            target = [{"boxes": own, "labels": kinds}]
            found.append(self.head.compute_loss(target, given, [joined], [match]))
        return {
            "names": torch.stack([each["classification"] for each in found]),
            "moves": torch.stack([each["bbox_regression"] for each in found]),
        }

    def regions(self, outputs: dict[str, Tensor], anchors: Sequence[Tensor], side: int) -> Regions:
        """The boxes (B, N, 4) of the best anchors of each map, with the probabilities of classes (B, N,
        K); they have no vectors."""
        counts = [len(each) for each in anchors]
        logits = outputs["cls_logits"]
        best = [
            part.amax(2).topk(min(CANDIDATES, part.shape[1])).indices + start
            for part, start in zip(logits.split(counts, 1), _starts(counts), strict=True)
        ]
        rows = torch.cat(best, dim=1)[..., None]
        scores = logits.gather(1, rows.expand(-1, -1, logits.shape[2])).sigmoid()
        moves = outputs["bbox_regression"].gather(1, rows.expand(-1, -1, 4))
        own = torch.cat(list(anchors))[rows[..., 0]]
        boxes = _CODER.decode_single(moves.flatten(0, 1), own.flatten(0, 1)) / side
        boxes = boxes.clamp(0, 1).view_as(moves)
        return Regions(scores.new_zeros(*scores.shape[:2], 0), boxes, scores.amax(2), scores)


def anchors_of(levels: Sequence[Tensor], side: int) -> list[Tensor]:
    """The anchors (A_l, 4) of each map, in pixels of images of a side."""
    strides = [side / each.shape[-1] for each in levels]
    sizes = tuple(tuple(scale * stride for scale in SCALES) for stride in strides)
    made = AnchorGenerator(sizes, (RATIOS,) * len(levels))  # type: ignore[arg-type]  # sides need not be whole
    image = levels[0].new_empty(1, 3, side, side, device="meta")
    joined = made(ImageList(image, [(side, side)]), [at_least_float32(each) for each in levels])[0]
    return list(
        joined.split([each.shape[2] * each.shape[3] * len(SCALES) * len(RATIOS) for each in levels])
    )


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:at]) for at in range(len(counts))]
