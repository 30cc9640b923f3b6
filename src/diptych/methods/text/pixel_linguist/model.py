"""The sentence encoder that Pixel Linguist delivers: a tower of strips or of token ids, and the layer
before the mean.

Dimensions: N texts, P patches or L ids, D width, H x W pixels.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.data.render import FONT, TextRenderer
from diptych.data.tokenizers import Tokenizer, by_length
from diptych.errors import InputError
from diptych.models.delivered import Delivered
from diptych.models.model import Progress, TextModel
from diptych.towers.dual import DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.image.vit import mean

log = logging.getLogger(__name__)


class Head(nn.Sequential):
    """The layer of each position (…, D) in training: norm(gelu(W x + b)), then dropout."""

    def __init__(self, width: int, dropout: float):
        super().__init__(
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, 1e-12),
            nn.Dropout(dropout),
        )
        nn.init.normal_(self[0].weight, std=width**-0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self[0].bias)  # type: ignore[arg-type]


class SentenceEncoder(Delivered):
    """A tower whose positions are averaged; `head` comes before the mean in training alone, or with
    `infer_head` always.

    `renderer` draws texts for a tower that reads strips; None for one that reads token ids.
    """

    reads = ("texts.*", "labels.*")

    def __init__(
        self,
        encoder: DualEncoder,
        head: Head | None,
        renderer: TextRenderer | None,
        infer_head: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.renderer = renderer
        self.infer_head = infer_head

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The unit vectors (N, D) of texts as they are in training. Arguments as of `vectors`."""
        return vectors(self.encoder, self.head, first, second)

    def extra_state(self) -> dict[str, Any]:
        """The checksum of the font, whose pixels the tower was trained on."""
        return {} if self.renderer is None else {"font": checksum(self.renderer)}

    def load_extra_state(self, values: Mapping[str, Any]) -> None:
        """Raise InputError if the font is not the one that the model was trained with."""
        if self.renderer is not None and values.get("font") != checksum(self.renderer):
            raise InputError(
                f"the font {self.renderer.font} is another one than the model was trained with; put the same file there"
            )

    def to_model(self, tokenizer: Tokenizer | None, preprocess: Any, name: str) -> "SentenceModel":
        """The model that accepts strings."""
        return SentenceModel(self, tokenizer, name=name)


class SentenceModel(TextModel):
    """Embeds strings: as strips of pixels, or by a tokenizer."""

    delivered: SentenceEncoder

    def __init__(self, delivered: SentenceEncoder, tokenizer: Tokenizer | None, *, name: str):
        own = tokenizer if delivered.renderer is None else None
        super().__init__(delivered.encoder, own, name=name, delivered=delivered)
        self._warned = False

    @property
    def reads_texts(self) -> bool:
        return self.delivered.renderer is not None or super().reads_texts

    def render(self, text: str) -> Any:
        """The strip (H, W) of a text, as the tower reads it. Raises InputError for a model of
        tokens."""
        if self.delivered.renderer is None:
            raise InputError(f"{self.name} reads tokens, not pixels; train it with an image tower")
        return self.delivered.renderer.render(text).pixels

    def embed_texts(
        self, texts: str | Sequence[str], *, batch_size: int = 256, progress: Progress | None = None
    ) -> Tensor:
        """Embed texts as unit vectors (N, D), float32, on the CPU.

        Texts that are longer than the strip, or than the context, are truncated. Characters that the
        font lacks are drawn as U+FFFD; the first call that meets any logs how many.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        head = self.delivered.head if self.delivered.infer_head else None

        def embed(first: Tensor, second: Tensor) -> Tensor:
            return vectors(self.encoder, head, first, second)

        if self.delivered.renderer is None:
            if self.tokenizer is None:
                return super().embed_texts(texts)
            rows = self.tokenizer.encode(texts)
            batches, places = by_length(rows, self.tokenizer, batch_size)
            return self._embed(batches, embed, len(rows), progress)[places]
        # by length, since a batch is as long as its longest text
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        strips = self._strips(self.delivered.renderer, [texts[at] for at in order], batch_size)
        places = torch.tensor(order, dtype=torch.int64).argsort()
        return self._embed(strips, embed, len(texts), progress)[places]

    def _strips(
        self, renderer: TextRenderer, texts: Sequence[str], size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of strips (n, 3, H, W), and of the patches (n, P) that are real."""
        for start in range(0, len(texts), size):
            drawn = [renderer.render(text) for text in texts[start : start + size]]
            missing = [letter for each in drawn for letter in each.missing]
            if missing and not self._warned:
                self._warned = True
                shown = ", ".join(f"U+{ord(letter):04X}" for letter in dict.fromkeys(missing[:5]))
                log.warning(
                    "%s: the font %s lacks %d characters of %d texts (%s); they are drawn as U+FFFD",
                    self.name,
                    renderer.font,
                    len(missing),
                    len(drawn),
                    shown,
                )
            yield as_tensors(drawn, renderer.patches)


def as_tensors(drawn: Sequence[Any], patches: int) -> tuple[Tensor, Tensor]:
    """Rendered texts as pixels (N, 3, H, W), uint8, grey in three channels, and as the patches (N,
    P) that are real: those with text, and the black one behind it."""
    pixels = torch.stack([torch.from_numpy(each.pixels) for each in drawn])
    counts = torch.tensor([each.patches for each in drawn])
    real = torch.arange(patches) <= counts[:, None]
    return pixels[:, None].expand(-1, 3, -1, -1), real


def vectors(encoder: DualEncoder, head: Head | None, first: Tensor, second: Tensor) -> Tensor:
    """The unit vectors (N, D) of texts: the mean of the states of real positions, of `head` if it is
    given.

        v = unit( sum_p m_p f(h_p) / sum_p m_p )

    CLS tokens are attended to and not averaged. `first` and `second` are strips (N, 3, H, W) and the
    patches (N, P) that are real, or token ids (N, L) and lengths (N,).
    """
    encoded = states(encoder, first, second)
    positions = encoded.tokens[:, encoded.prefix :]
    real = None if encoded.mask is None else encoded.mask[:, encoded.prefix :]
    if head is not None:
        positions = head(positions)
    return F.normalize(mean(positions, real), dim=-1)


def states(encoder: DualEncoder, first: Tensor, second: Tensor) -> Encoded:
    """The output of the tower of strips or of token ids."""
    if "image" in encoder.sides:
        return encoder.encode_image(first, real=second)
    return encoder.encode_text(first, second)


def checksum(renderer: TextRenderer) -> str:
    """What determines the glyphs: the name of the font that ships, or the SHA-256 of a file."""
    if renderer.font == FONT:
        return FONT
    return hashlib.sha256(Path(renderer.font).expanduser().read_bytes()).hexdigest()
