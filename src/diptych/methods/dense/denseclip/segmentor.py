"""The segmentor of DenseCLIP: Semantic FPN on maps with the scores of classes (`scored`).

Dimensions: B images, K classes, h x w positions.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.methods.dense.denseclip.head import SemanticFPN
from diptych.methods.dense.denseclip.model import SegmentorModel
from diptych.methods.dense.denseclip.scored import Scored, ScoredConfig
from diptych.towers.dual import DualEncoder


class Segmentor(Scored):
    """A dual encoder that segments images by the classes that it was trained on."""

    scaled = False
    skipped = 0

    def __init__(self, encoder: DualEncoder, tokenizer: Tokenizer, config: ScoredConfig, mask: str):
        super().__init__(encoder, tokenizer, config)
        self.mask = mask

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the mask is known once it is made
        """The fields that a validation source needs."""
        return "images.main", f"masks.{self.mask}"

    def build_head(self, widths: Sequence[int]) -> nn.Module:
        config = self.config
        return SemanticFPN(
            widths,
            width=config.width,
            inner=config.inner,
            classes=len(self.classes),
            norm=config.norm,
            dropout=config.dropout,
        )

    def forward(self, x: Tensor, texts: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits (B, K, h', w') of images (B, 3, H, W) on the finest map, and their score maps (B, K,
        h, w)."""
        maps, scores = self.scored_maps(x, texts)
        assert self.head is not None
        return self.head(maps), scores

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "a dual encoder has a preprocessing"
        return SegmentorModel(self, preprocess, name=name)
