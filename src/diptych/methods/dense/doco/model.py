"""What is left of the training where there is no language model: the encoder of pages."""

from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import Model
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.tower import ImageTower


class PageEncoder(Delivered):
    """The image side of a dual encoder, which reads whole pages. Texts and boxes are not read.

    It is validated by a probe of the words in boxes (suite `words`).
    """

    reads = ("images.main", "boxes")

    def __init__(self, encoder: DualEncoder):
        super().__init__()
        self.encoder = encoder

    @property
    def image(self) -> ImageTower:
        """The image tower, which has the preprocessing."""
        return self.encoder.image

    def encode_document(self, pixels: Tensor) -> Encoded:
        """Pages (B, 3, H, W) at the tower's width, by their pixels alone."""
        return self.encoder.encode_image(pixels)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "PageModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return PageModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class PageModel(Model):
    """A model of pages: `embed_images`, `represent`."""

    validation = Validation("words", ("top1",))
