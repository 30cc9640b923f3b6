"""The detector of DenseCLIP: RetinaNet on maps with the scores of classes (`scored`), and the model that
it is for images.

Dimensions: B images, K classes, h x w positions.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.methods.dense.denseclip.model import OfTraining
from diptych.methods.dense.denseclip.retina import RetinaHead
from diptych.methods.dense.denseclip.scored import Scored, ScoredConfig
from diptych.models.detection import DetectorModel, Regions
from diptych.models.regions import squashed
from diptych.towers.dual import DualEncoder


class DenseDetector(Scored):
    """A dual encoder that finds the classes that it was trained on; images are squashed to a square."""

    scaled = True
    skipped = 1
    reads = ("images.main", "boxes")  # type: ignore[assignment]

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, config: ScoredConfig):
        super().__init__(encoder, tokenizer, config)
        encoder.image.preprocess = squashed(encoder.image.preprocess)

    @property
    def side(self) -> int:
        """The side in pixels of the images that are read."""
        return self.image.preprocess.side

    def build_head(self, widths: Sequence[int]) -> nn.Module:
        return RetinaHead(widths, width=self.config.width, classes=len(self.classes))

    def forward(  # type: ignore[override]
        self, x: Tensor, texts: Tensor | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor], Tensor]:
        """What the head gives for images (B, 3, H, W), its anchors, and the score maps (B, K, h, w)."""
        maps, scores = self.scored_maps(x, texts)
        assert self.head is not None
        return (*self.head(maps, self.side), scores)

    def regions(self, x: Tensor) -> Regions:
        """The candidates of images (B, 3, H, W), with the probabilities of the classes."""
        outputs, anchors, _ = self(x)
        head: Any = self.head
        return head.regions(outputs, anchors, self.side)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return DenseDetectorModel(self, preprocess, name=name)


class DenseDetectorModel(OfTraining, DetectorModel):
    """A model that finds the classes that it was trained on, or some of them, in images."""

    def __init__(self, detector: Any, preprocess: Preprocess, *, name: str):
        super().__init__(detector, preprocess, name=name)
        self._columns = list(range(len(self.classes)))

    def _regions(self, x: Tensor, *maps: Any) -> Regions:
        found = super()._regions(x, *maps)
        assert found.scores is not None
        return replace(found, scores=found.scores[..., self._columns])

    def _numbers(self, classes: Tensor) -> Tensor:
        return torch.tensor(self._columns)[classes]
