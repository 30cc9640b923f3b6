"""What ALBEF delivers: a dual encoder, a multimodal encoder on the tokens of both towers, and a
classifier of pairs.

Dimensions: N pairs, T texts, L tokens, M tokens of an image, D width of texts, h x w positions, H heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.dtypes import at_least_float32
from diptych.errors import InputError
from diptych.models.delivered import Delivered
from diptych.models.model import ImagesLike, Model, evaluating
from diptych.towers.dual import DualEncoder
from diptych.towers.nn.transformer import Transformer
from diptych.towers.nn.words import WordHead
from diptych.towers.tower import Tower


class MultimodalEncoder(nn.Module):
    """Layers of self-attention, cross-attention to an image and feed-forward, on the tokens of a text
    tower; and the head of masked words.

    The layers are those of the tower, `depth` of them (None: as many).

    >>> from diptych.towers.build import text_tower
    >>> text = text_tower("text:width=32:depth=2:causal=false:pooling=first", vocab_size=100, context=16)
    >>> encoder = MultimodalEncoder(text, memory_width=48)
    >>> encoder(torch.zeros(3, 5, 32), torch.tensor([5, 2, 4]), torch.zeros(3, 9, 48)).shape
    torch.Size([3, 5, 32])
    """

    def __init__(self, text: Tower, memory_width: int, depth: int | None = None):
        super().__init__()
        like = text.spec
        self.transformer = Transformer(
            text.width,
            depth or like.get("depth", 6),
            like.get("heads"),
            mlp_ratio=like.get("mlp_ratio", 4.0),
            activation=like.get("activation", "gelu"),
            dropout=like.get("dropout", 0.0),
            cross=0,
            memory_width=memory_width,
        )
        self.norm = nn.LayerNorm(text.width)
        table: Tensor = text.table.weight  # type: ignore[union-attr, assignment]
        self.words = WordHead(table.shape[1], len(table), hidden=text.width)

    def forward(self, tokens: Tensor, lengths: Tensor, memory: Tensor) -> Tensor:
        """Tokens of texts (N, L, D) with lengths (N,), and of images (N, M, ·) -> tokens (N, L, D)."""
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return self.norm(self.transformer(tokens, mask=mask, memory=memory))


class Matcher(Delivered):
    """A dual encoder, and a multimodal encoder whose first token tells whether a text is of an
    image."""

    def __init__(self, encoder: DualEncoder, depth: int | None = None):
        super().__init__()
        if encoder.text is None or "image" not in encoder.sides:
            raise InputError(
                "this method reads images and texts; start from a model that has a tower for both"
            )
        self.encoder = encoder
        self.multimodal = MultimodalEncoder(encoder.text, encoder.image.width, depth)
        self.match_head = nn.Linear(encoder.text.width, 2)

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images."""
        return self.encoder.image.preprocess

    def match_logits(self, images: Tensor, texts: Tensor, lengths: Tensor) -> Tensor:
        """Tokens of images (N, M, ·) and of texts (N, L, D) with lengths (N,) -> logits (N, 2): that
        they do not belong together, and that they do."""
        return self.match_head(self.multimodal(texts, lengths, images)[:, 0])

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "MatcherModel":
        assert preprocess is not None, "it has an image tower"
        return MatcherModel(self.encoder, tokenizer, preprocess, name=name, delivered=self)


class MatcherModel(Model):
    """A model that also scores whether a text is of an image."""

    delivered: Matcher

    def match(
        self,
        images: ImagesLike,
        texts: Sequence[str],
        *,
        probability: bool = False,
        batch_size: int = 64,
        exact: bool = False,
    ) -> Tensor:
        """The score (N,) of text i with image i, float32, on the CPU: the logit of a match, by which
        candidates are ordered, or with `probability` its softmax with that of no match.

        Equal images next to each other and equal texts are encoded once. `images` and errors are those
        of `embed_images`; InputError also for another number of texts.
        """
        batches, count = self._batches(images, batch_size, exact)
        asked = self._one_each(texts, count)
        found = [torch.zeros(0)]
        with evaluating(self.delivered), torch.inference_mode():
            tokens, lengths, row = self._read(asked)
            start = 0
            for (pixels,) in batches:
                mine = row[start : start + len(pixels)]
                seen = self._seen(pixels)
                logits = self.delivered.match_logits(seen, tokens[mine], lengths[mine])
                scores = at_least_float32(logits)
                found.append((scores.softmax(1) if probability else scores)[:, 1].cpu())
                start += len(pixels)
        return torch.cat(found).clone()

    def _one_each(self, texts: Sequence[str], count: int) -> list[str]:
        if isinstance(texts, str) or len(texts) != count:
            given = "one string" if isinstance(texts, str) else f"{len(texts)} texts"
            raise InputError(f"{count} images came with {given}; give a list with one for each")
        return list(texts)

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens (T, L, D) and lengths (T,) of the different texts, and the row (N,) of each."""
        if self.tokenizer is None:
            raise InputError(f"{self.name} came without a tokenizer and cannot read texts")
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids, lengths = pad_batch(self.tokenizer.encode(list(numbers)), self.tokenizer)
        lengths = lengths.to(self.device)
        tokens = self.encoder.encode_text(ids.to(self.device), lengths).tokens
        return tokens, lengths, torch.tensor([numbers[text] for text in texts], dtype=torch.long)

    def _seen(self, pixels: Tensor) -> Tensor:
        """The tokens (N, M, ·) of images; a run of equal ones is encoded once."""
        new = (pixels[1:] != pixels[:-1]).flatten(1).any(1)
        first = torch.cat([new.new_ones(1), new])
        tokens = self.encoder.encode_image(pixels[first].to(self.device)).tokens
        return tokens[first.long().cumsum(0).to(tokens.device) - 1]
