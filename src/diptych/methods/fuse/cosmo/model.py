"""What COSMO delivers: a frozen image tower and a frozen language model, the parts between them, and
the model that embeds and writes with them.

Dimensions: B samples, T media, F frames of each, n tokens of a medium, D width of the image tower, L
ids, E embedding, K shots.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from diptych.data.images import Preprocess
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError
from diptych.methods.fuse.cosmo.documents import END, VISUAL, as_pairs
from diptych.methods.fuse.cosmo.gated import GatedLM
from diptych.models.captioner import Captioner, CaptionModel, Prompt
from diptych.models.delivered import Validation
from diptych.models.model import ImagesLike, evaluating
from diptych.towers.dual import Composed, DualEncoder
from diptych.towers.encoded import Encoded
from diptych.towers.nn.parts import freeze
from diptych.towers.nn.pooling import Resampler
from diptych.towers.tower import ImageTower, Tower


class MediaCaptioner(Captioner):
    """The image tower of `encoder`, a resampler of its tokens to 1 + n latents for each medium, and the
    language model that reads them.

    Latent 0 gives a medium's vector, by the encoder's projection; the others are what the language
    model reads. The vector of a text is that of one query, which reads the lower half's tokens.
    """

    lm: GatedLM

    def __init__(
        self,
        encoder: DualEncoder,
        words: Tokenizer,
        resampler: Resampler,
        lm: GatedLM,
        *,
        validation: Validation,
        longest: int,
    ):
        super().__init__()
        self.encoder = encoder
        freeze(encoder.image)
        self.resampler = resampler
        self.lm = lm
        width = lm.table.embedding_dim
        self.text_pooler = Resampler(width, queries=1, depth=1, norm_query=False, norm_bias=False)
        self.text_projection = nn.Linear(width, encoder.embed_dim, bias=False)
        self.validation = validation
        self.longest = longest
        self._words = words

    @property
    def words(self) -> Tokenizer:
        return self._words

    @property
    def end(self) -> tuple[int, ...]:
        return (self.words.special_id(END),)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.image.eval()  # it is frozen
        return self

    def look(self, pixels: Tensor, there: Tensor | None = None) -> Tensor:
        """The latents (B, T, 1 + n, D) of media (B, T, F, 3, H, W). Those that are not `there`
        (B, T) are not encoded, and their latents mean nothing."""
        B, T, F = pixels.shape[:3]
        if there is None:
            there = torch.ones(B, T, dtype=torch.bool, device=pixels.device)
        with torch.no_grad():
            encoded = self.encoder.image(pixels[there].flatten(0, 1))
        found = encoded.tokens[:, encoded.prefix :].unflatten(0, (-1, F))
        tokens = found.new_zeros(B, T, *found.shape[1:])
        tokens[there] = found
        return self.resampler.read(tokens)

    def image_vectors(self, latents: Tensor) -> Tensor:
        """The vectors (B, E), not normalised, of media with these latents (B, T, 1 + n, D)."""
        return self.encoder.project_image(latents[:, :, 0].mean(1))

    def text_vectors(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The vectors (B, E), not normalised, of the lower half's tokens (B, L, ·) of texts."""
        return self.text_projection(self.pool_text(tokens, lengths))

    def pool_text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """What the text query reads of tokens (B, L, ·), (B, ·); padding is not read."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return self.text_pooler(tokens, real)[:, 0]

    def see(self, pixels: Tensor) -> Tensor:
        """The tokens (B, n, D) of images, or of clips, whose frames are read side by side."""
        frames = pixels[:, None] if pixels.ndim == 4 else pixels
        return self.look(frames[:, None])[:, 0, 1:]

    def prompted(self, seen: Tensor, prompts: Sequence[str] | None) -> Prompt:
        first = [*self.words.before, self.words.special_id(VISUAL)]
        texts = [""] * len(seen) if prompts is None else prompts
        return Prompt(ids=[first + self.words.ids(text) for text in texts], memory=seen)

    def aligned(self) -> "AlignedEncoder":
        """The dual encoder of media and texts that these parts are."""
        return AlignedEncoder(self)

    def to_model(
        self, tokenizer: Tokenizer | None, preprocess: Preprocess | None, name: str
    ) -> "InterleavedModel":
        assert preprocess is not None, "an image tower has a preprocessing"
        return InterleavedModel(self, preprocess, name=name)


class AlignedEncoder(Composed):
    """A captioner's parts as a dual encoder. A clip is read as one medium."""

    def __init__(self, captioner: MediaCaptioner):
        parts = {
            "image": MediaTower(captioner),
            "text": LowerHalf(captioner),
            "text_projection": captioner.text_projection,
        }
        super().__init__(captioner.encoder, parts=parts)

    def config(self) -> dict[str, Any]:
        """The config of the image side, with a text tower that nothing builds: exports, and trainings
        of other methods, refuse it by name."""
        return {**super().config(), "text": self.text.spec}  # type: ignore[union-attr]

    def embed_images(self, x: Tensor, **options: Any) -> Tensor:
        return normalize(self.project_image(self.image(x, **options).pooled), dim=-1)


class MediaTower(ImageTower):
    """An image tower with a resampler: the tokens of images, or clips, are its latents."""

    def __init__(self, captioner: MediaCaptioner):
        tower = captioner.encoder.image
        super().__init__(tower.config, tower.preprocess)
        self.tower = tower
        self.resampler = captioner.resampler
        self.look = captioner.look
        self.width = tower.width

    @property
    def spec(self) -> dict[str, Any]:
        return {**self.tower.spec, "name": "cosmo.media"}

    def forward(self, x: Tensor) -> Encoded:
        frames = x[:, None] if x.ndim == 4 else x
        latents = self.look(frames[:, None])[:, 0]
        return Encoded(latents[:, 1:], latents[:, 0])


class LowerHalf(Tower):
    """The lower half of a language model, and the query that pools its tokens, as a text tower. Texts
    are read as those of pairs."""

    def __init__(self, captioner: MediaCaptioner):
        super().__init__(None)
        self.lm = captioner.lm
        self.pooler = captioner.text_pooler
        self.pool = captioner.pool_text
        self.words = captioner.words
        self.width = captioner.lm.table.embedding_dim

    @property
    def spec(self) -> dict[str, Any]:
        words = self.words
        return {"name": "cosmo.text", "vocab_size": words.vocab_size, "context": words.context}

    def forward(self, ids: Tensor, lengths: Tensor) -> Encoded:
        ids, lengths = as_pairs(self.words, ids, lengths)
        tokens = self.lm.text_tokens(ids)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return Encoded(tokens, self.pool(tokens, lengths), mask=mask)


@dataclass(frozen=True)
class Shots:
    """The ids of K examples, and the tokens (1, K n, D) of their media."""

    ids: Sequence[int]
    memory: Tensor


class InterleavedModel(CaptionModel):
    """A model that embeds media and texts, and writes about media behind examples of others."""

    captioner: MediaCaptioner
    shots: Shots | None = None

    def __init__(self, captioner: MediaCaptioner, preprocess: Preprocess, *, name: str):
        words = captioner.words
        super().__init__(captioner, words, preprocess, name=name, encoder=captioner.aligned())

    def few_shot(self, images: ImagesLike, texts: Sequence[str]) -> Self:
        """The model with these examples, images or clips with a text each, before each prompt of
        `generate` and `log_prob`. It shares the parameters.

        `images` and errors are those of `embed_images`; InputError also for another number of texts,
        and for a text without words.
        """
        seen, count = self._seen(images, 64, False)
        shown = self._as_many(texts, count, "texts") or []
        words = self.captioner.words
        ids: list[int] = []
        for at, text in enumerate(shown):
            if not text.strip():
                raise InputError(f"example {at} has no words; give each image a text")
            ids += [words.special_id(VISUAL), *words.ids(text), *self.captioner.end]
        other = copy.copy(self)
        with evaluating(self.captioner), torch.inference_mode():
            parts = list(seen)
        other.shots = Shots(ids, torch.cat(parts).flatten(0, 1)[None]) if parts else None
        return other

    def _prompted(
        self, seen: Iterator[Tensor], prompts: list[str] | None
    ) -> Iterator[tuple[Prompt, int]]:
        for prompt, start in super()._prompted(seen, prompts):
            yield (prompt if self.shots is None else self._behind(self.shots, prompt)), start

    def _behind(self, shots: Shots, prompt: Prompt) -> Prompt:
        """The prompt behind the examples."""
        before = list(self.captioner.words.before)
        ids = [[*before, *shots.ids, *row[len(before) :]] for row in prompt.ids]
        self._fits([[*row, 0] for row in ids], ["with its examples"] * len(ids), "prompt")
        assert prompt.memory is not None, "the language model reads media"
        memory = shots.memory.to(prompt.memory).expand(len(ids), -1, -1)
        return Prompt(ids=ids, memory=torch.cat([memory, prompt.memory], 1))
