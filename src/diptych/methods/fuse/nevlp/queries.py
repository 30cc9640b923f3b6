"""What both stages deliver: a Q-Former on a frozen dual encoder, and the concepts that this finds in an
image.

Dimensions: N images, T tokens of an image, m concepts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.templates import filled
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.errors import InputError
from diptych.methods.fuse.nevlp.concepts import named
from diptych.models.captioner import Captioner
from diptych.models.model import ImagesLike, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.qformer import QFormer


@dataclass(frozen=True)
class Seen:
    """Images that were seen: tokens (N, T, ·) as the Q-Former reads them, and the frozen encoder's unit
    vectors (N, ·)."""

    tokens: Tensor
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor) -> "Seen":
        return Seen(self.tokens[rows], self.vectors[rows])


class QueryCaptioner(Captioner):
    """A frozen dual encoder with the tokenizer of its texts, and a Q-Former that reads its image tokens.

    `m` concepts of the vocabulary `names`, the nearest to the image by `prompt`, are put before a text;
    none where m is 0.
    """

    def __init__(
        self, encoder: DualEncoder, qformer: QFormer, tokenizer: Tokenizer, *, m: int, prompt: str
    ):
        super().__init__()
        self.encoder = encoder
        freeze(encoder)
        self.qformer = qformer
        self.norm = nn.LayerNorm(encoder.image.width)
        self.tokenizer = tokenizer
        self.m = m
        self.names: tuple[str, ...] = ()
        self._prompt = prompt
        self._bank: Tensor | None = None

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.image.preprocess

    # ---- images

    def look(self, pixels: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> tokens (N, T, ·) as the Q-Former reads them."""
        return self.read(self.encoder.encode_image(pixels).tokens)

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, ·) of the encoder -> as the Q-Former reads them."""
        return self.norm(tokens.to(self.norm.weight.dtype))

    def see(self, pixels: Tensor) -> Seen:
        if pixels.ndim > 4:
            raise InputError("this model writes about images; give one frame of each clip")
        found = self.encoder.encode_image(pixels)
        return Seen(self.read(found.tokens), self.vectors_of(found))

    def vectors_of(self, image: Encoded) -> Tensor:
        """The encoder's unit vectors (N, ·) of encoded images."""
        return normalize(self.encoder.image_vectors(image), dim=-1)

    # ---- concepts

    def concepts_of(self, vectors: Tensor) -> Tensor:
        """The numbers (N, m) of the concepts nearest to unit vectors (N, ·) of the frozen encoder, the
        nearest first."""
        if self._bank is None or self._bank.device != vectors.device:
            with evaluating(self.encoder), torch.no_grad():
                prompts = [filled(self._prompt, name) for name in self.names]
                rows = self.tokenizer.encode(prompts)
                parts = [
                    pad_batch(rows[at : at + 256], self.tokenizer)
                    for at in range(0, len(rows), 256)
                ]
                each = [
                    self.encoder.embed_texts(*(part.to(vectors.device) for part in given))
                    for given in parts
                ]
            self._bank = torch.cat(each)
        return (vectors @ self._bank.to(vectors).T).topk(min(self.m, len(self.names))).indices

    def said(self, vectors: Tensor) -> list[str]:
        """The text that names the concepts of images with unit vectors (N, ·)."""
        return [named(numbers, self.names) for numbers in self.concepts_of(vectors).tolist()]

    def extra_state(self) -> dict[str, Any]:
        return {"concepts": list(self.names)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        self.know(tuple(values.get("concepts", ())))

    def know(self, names: tuple[str, ...]) -> None:
        """Set the vocabulary of concepts."""
        self.names = names
        self._bank = None


class FindsConcepts:
    """The concepts of images, of a model whose captioner has them."""

    captioner: QueryCaptioner
    name: str
    _seen: Callable[..., tuple[Iterator[Seen], int]]

    def concepts(
        self, images: ImagesLike, *, batch_size: int = 64, exact: bool = False
    ) -> list[list[str]]:
        """The m concepts that the frozen encoder finds in each image, the nearest first.

        `images` and errors are those of `Model.embed_images`; InputError also if the model was trained
        without concepts.
        """
        if not self.captioner.names:
            raise InputError(f"{self.name} was trained without concepts")
        seen, _ = self._seen(images, batch_size, exact)
        found: list[list[str]] = []
        with evaluating(self.captioner), torch.inference_mode():
            for known in seen:
                numbers = self.captioner.concepts_of(known.vectors).tolist()
                found += [[self.captioner.names[at] for at in row] for row in numbers]
        return found
