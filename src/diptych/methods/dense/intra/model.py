"""What INTRA delivers: a frozen dual encoder and the module that shows where a verb happens.

Dimensions: B images, P = h x w positions, D width of the image tower, T of the text tower, K texts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.delivered import Delivered, Validation
from diptych.models.model import Model, evaluating
from diptych.models.pixels import ImagesLike
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.transformer import Transformer

EPSILON = 1e-8
_AT_ONCE = 1024  # maps that are computed together


class VerbMap(nn.Module):
    """A map of where a text happens in an image, from 0 to 1 (B, h, w).

        m = conv( transformer([patches, W text])_patches ),   M = (m - min m) / (max m - min m + ε)

    The convolutions are 3 x 3 and 1 x 1 with a GELU between them; patches tell their places
    themselves. A map that is the same everywhere is 0.
    """

    def __init__(self, width: int, text_width: int, depth: int, heads: int):
        super().__init__()
        if width % heads:
            raise InputError(
                f"heads is {heads} and the image tower is {width} wide; give --method.heads as a divisor of it"
            )
        self.text = nn.Linear(text_width, width)
        self.blocks = Transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.convolutions = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 1)
        )

    def forward(self, patches: Tensor, grid: tuple[int, int], text: Tensor) -> Tensor:
        """Patches (B, P, D) of a `grid` (h, w) with a text (B, T) each -> maps (B, h, w)."""
        tokens = torch.cat([patches, self.text(text)[:, None]], 1)
        read = self.norm(self.blocks(tokens))[:, :-1]
        found = self.convolutions(read.transpose(1, 2).unflatten(2, grid))[:, 0]
        least = found.amin((1, 2), keepdim=True)
        return (found - least) / (found.amax((1, 2), keepdim=True) - least + EPSILON)


class Affordances(Delivered):
    """The encoder, whose towers are not trained, and the map."""

    reads = ("images.main", "texts.verb", "masks.heat")

    def __init__(self, encoder: DualEncoder, depth: int, heads: int, route: str):
        super().__init__()
        if encoder.text is None:
            raise InputError("this method reads verbs; start from a model with a text tower")
        if route not in encoder.image.routes:
            raise InputError(
                f"the image tower has no route {route!r}; it has {' and '.join(encoder.image.routes)}"
            )
        self.encoder = encoder
        self.route = route
        self.map = VerbMap(encoder.image.width, encoder.text.width, depth, heads)

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.encoder.image.preprocess

    def positions(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, H, W) -> patches (B, P, D) of the frozen tower, and their grid."""
        options = {} if self.route == "tokens" else {"route": self.route}
        seen = self.encoder.encode_image(pixels, **options)
        if seen.grid is None:
            raise InputError("this image tower has no positions; choose vit or conv")
        return at_least_float32(seen.patches), seen.grid

    def words(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Ids (B, L) with lengths (B,) -> pooled vectors (B, T) of the frozen tower."""
        return at_least_float32(self.encoder.encode_text(ids, lengths).pooled)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> Any:
        assert preprocess is not None, "the encoder has an image tower"
        model = AffordanceModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)
        model.validation = Validation("affordance", ("nss", "kld", "sim"))
        return model


class AffordanceModel(Model):
    """Embeds as the given model, and shows where a text happens in an image."""

    delivered: Affordances
    heat_measure = "affordance"

    def heat(
        self,
        images: ImagesLike,
        texts: str | Sequence[str],
        *,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """Maps (N, K, h, w) of texts on images, each from 0 to 1, float32, on the CPU.

        `images` and errors are those of `embed_images`.
        """
        assert self.tokenizer is not None, "it was trained with a tokenizer"
        asked = [texts] if isinstance(texts, str) else list(texts)
        ids, lengths = pad_batch(self.tokenizer.encode(asked), self.tokenizer)
        batches, count = self._batches(images, batch_size, exact)
        if not count:
            raise InputError(f"{self.name} has no image to show; give one at least")
        found = []
        with evaluating(self.delivered), torch.inference_mode():
            words = self.delivered.words(ids.to(self.device), lengths.to(self.device))
            for (pixels,) in batches:
                patches, grid = self.delivered.positions(pixels.to(self.device))
                maps = []
                for part in range(0, len(patches) * len(words), _AT_ONCE):
                    pair = torch.arange(part, min(part + _AT_ONCE, len(patches) * len(words)))
                    image = pair // len(words)
                    maps.append(self.delivered.map(patches[image], grid, words[pair % len(words)]))
                found.append(torch.cat(maps).unflatten(0, (len(patches), len(words))).cpu())
        return torch.cat(found).clone()
