"""The delivered module: the dual encoder, and the heads of the losses on images."""

from typing import Any

from torch import nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.models.delivered import Delivered
from diptych.models.model import Model
from diptych.towers.dual import DualEncoder
from diptych.towers.tower import ImageTower

SPACES = ("web", "synthetic")


class WithHeads(Delivered):
    """A dual encoder with the spaces `web` and `synthetic`. Its heads do not matter in use: a further
    stage of training goes on with them, and a smaller model is distilled through them."""

    reads = ("images.main", "texts.*")
    spaces = SPACES

    def __init__(self, encoder: DualEncoder, heads: nn.ModuleDict):
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    @property
    def image(self) -> ImageTower:
        """The image tower, whose preprocessing is that of the model."""
        return self.encoder.image

    @property
    def prototypes(self) -> dict[str, int]:
        """The number of prototypes of each head."""
        heads: dict[str, Any] = dict(self.heads.items())
        return {part: head.prototypes.out_features for part, head in heads.items()}

    def space(self, name: str) -> DualEncoder:
        """The encoder of a space."""
        return self.encoder.space(name)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Model:
        assert preprocess is not None, "the image tower has a preprocessing"
        return Model(self.encoder, tokenizer, preprocess, name=name, delivered=self)
