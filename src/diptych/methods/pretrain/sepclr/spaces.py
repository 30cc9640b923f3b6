"""The delivered module: two encoders of images, and the heads that the losses read.

Dimensions: N images, E width of the representations.
"""

from typing import NoReturn

from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.models.delivered import Delivered
from diptych.models.model import Model
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.nn.heads import head
from diptych.towers.nn.parts import Temperature
from diptych.towers.tower import ImageTower

SPACES = ("common", "salient")
_HEAD = "_head"
"""The end of the name of a space that is that of a head."""


class TwoSpaces(Delivered):
    """A common and a salient encoder, which share no weights.

        r = W f(x) + b,   h = head(r)

    The spaces `common` and `salient` are those of r (N, E), `common_head` and `salient_head` those
    of h.
    """

    spaces = (*SPACES, *(f"{space}{_HEAD}" for space in SPACES))

    def __init__(
        self,
        common: ImageTower,
        salient: ImageTower,
        embed_dim: int,
        *,
        projector: str,
        widths: tuple[int, int],
    ):
        super().__init__()
        self.encoder = _encoder(common, embed_dim)
        self.salient = _encoder(salient, embed_dim)
        self.widths: dict[str, int] = dict(zip(SPACES, widths, strict=True))
        self.heads = nn.ModuleDict(
            {
                space: head(projector, embed_dim, width, "image")
                for space, width in self.widths.items()
            }
        )

    @property
    def image(self) -> ImageTower:
        """The common image tower, whose preprocessing is that of both."""
        return self.encoder.image

    @property
    def reads(self) -> NoReturn:  # type: ignore[override]  # there is no validation
        """Raises InputError."""
        raise InputError(
            "the validation matches images and texts, and this model embeds images alone; leave out --val, and "
            "measure it with `diptych evaluate --suite separation`"
        )

    def space(self, name: str) -> DualEncoder:
        """The encoder of a space."""
        space = name.removesuffix(_HEAD)
        encoder = self._of(space)
        if space == name:
            return encoder
        projection = nn.Sequential(encoder.image_projection, self.heads[space])
        parts = {"image_projection": projection}
        return Composed(encoder, parts=parts, embed_dim=self.widths[space])

    def project(self, pixels: Tensor, space: str) -> Tensor:
        """The head's vectors (N, D) of images (N, 3, H, W) in one of the two spaces, not normalised."""
        encoder = self._of(space)
        return self.heads[space](encoder.image_vectors(encoder.encode_image(pixels)))

    def _of(self, space: str) -> DualEncoder:
        return self.encoder if space == SPACES[0] else self.salient

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Model:
        assert preprocess is not None, "the image tower has a preprocessing"
        return Model(self.encoder, tokenizer, preprocess, name=name, delivered=self)


def _encoder(tower: ImageTower, embed_dim: int) -> DualEncoder:
    scale = Temperature(1.0, form="fixed")
    return DualEncoder(tower, None, embed_dim, logit_scale=scale, image_projection="affine")
